//! Messages of Catena and their bytes.
//!
//! A frame is a fixed 64-byte header ([`header`]), a body (one message of [`client`], [`peer`], [`manager`] or
//! [`hello`], encoded by prost, unknown fields skipped) and a payload that no codec touches, so that it can be received
//! straight into its final aligned buffer. [`limits`](catena_types::limits) bound every length before memory is taken.
//!
//! Pure: bytes in, values out.

pub mod client;
pub mod header;
pub mod hello;
pub mod manager;
pub mod peer;
pub mod remote;
