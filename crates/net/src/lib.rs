//! Frames over TCP.
//!
//! Work that arrives together leaves together: a receiver takes many frames out of one read, a sender writes everything
//! that is queued with one vectored write. A payload is received straight into its final aligned buffer, checksummed
//! once, and sent from where it lies.
//!
//! What must hold: nothing from outside panics or takes memory beyond the limits of [`catena_types::limits`]; damage in a
//! header or body ends the connection with a named error; damage in a payload is told with the frame
//! ([`Frame::payload_ok`]), since the service can answer it; sending never waits.

mod decoder;
mod error;
mod frame;
mod handshake;
mod listener;
mod receive;
mod rpc;
mod security;
mod send;

pub use error::NetError;
pub use frame::Frame;
pub use handshake::{check_hello, connect, hello_reply};
pub use listener::{Incoming, Listener};
pub use receive::FrameReceiver;
pub use rpc::Rpc;
pub use security::{LEAST_SECRET, Security, members_only};
pub use send::FrameSender;
