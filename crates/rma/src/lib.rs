//! One-sided transport: payloads move by reads and writes of the other side's registered memory, over libfabric.
//!
//! The design is that of 3FS: a client registers the memory of a payload and names it in its request; the node pulls what
//! is written and pushes what is read. Requests and replies stay on TCP. [`Transport`] is what `catena-net` knows
//! ([`catena_net::OneSided`]); [`Fabric`] and [`Endpoint`] are libfabric behind a safe face.
//!
//! What must hold: nothing is linked: libfabric is loaded when a transport is opened, and a machine without it only lacks
//! the transport. Memory the other side may reach belongs to its endpoint until the other side is done with it or the
//! endpoint is closed. Every endpoint has a thread that makes progress, since software providers make none by themselves.
#![allow(unsafe_code)]

mod abi;
mod endpoint;
mod error;
mod fabric;
mod library;
mod transport;

pub use endpoint::{Endpoint, Exposed, Far};
pub use error::RmaError;
pub use fabric::Fabric;
pub use transport::Transport;
