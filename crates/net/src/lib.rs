//! Frames over TCP; large payloads beside them, where both sides can ([`OneSided`]).
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
mod one_sided;
mod receive;
mod rpc;
mod security;
mod send;

pub use catena_wire::remote::RemoteBuffer;
pub use error::NetError;
pub use frame::Frame;
pub use handshake::{check_hello, connect, hello_reply};
pub use listener::{Incoming, Listener};
pub use one_sided::{Lane, LaneError, Moved, Mover, ONE_SIDED_FROM, Offered, OneSided, accept_lane};
pub use receive::FrameReceiver;
pub use rpc::Rpc;
pub use security::{LEAST_SECRET, Security, members_only};
pub use send::FrameSender;
