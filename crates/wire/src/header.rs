//! The fixed header of a frame.
