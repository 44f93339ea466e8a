//! Messages of Catena and their bytes.
