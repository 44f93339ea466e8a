//! What can go wrong on a connection, with the cause and the next step.

use std::io;

use catena_types::Failure;
use catena_wire::header::{HeaderError, Kind};

/// What went wrong on a connection.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// No connection could be made.
    #[error("cannot connect to {addr}: {source}; check the address and that the process there runs")]
    Connect {
        /// As given.
        addr: String,
        /// From the system.
        source: io::Error,
    },
    /// No listener could be opened.
    #[error("cannot listen on {addr}: {source}; {next}")]
    Bind {
        /// As given.
        addr: String,
        /// From the system.
        source: io::Error,
        /// What to do.
        next: &'static str,
    },
    /// The other side took longer than it was given.
    #[error("no {what} within {ms} ms")]
    Timeout {
        /// What was waited for, and from whom.
        what: String,
        /// How long, in milliseconds.
        ms: u64,
    },
    /// The connection ended.
    #[error("the connection to {peer} ended: {reason}")]
    Closed {
        /// Who was at the other end.
        peer: String,
        /// How it ended.
        reason: String,
    },
    /// What arrived is not a header.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A body does not match its checksum.
    #[error("damaged body of a {kind:?} frame: checksum {computed:#010x}, the header says {stored:#010x}")]
    BodyDamaged {
        /// Kind of the frame.
        kind: Kind,
        /// In the header.
        stored: u32,
        /// Of the bytes received.
        computed: u32,
    },
    /// A body is not the message its kind says.
    #[error("the body of a {kind:?} frame is not such a message: {source}")]
    BodyMalformed {
        /// Kind of the frame.
        kind: Kind,
        /// Where decoding stopped.
        source: prost::DecodeError,
    },
    /// A frame that makes no sense here.
    #[error("a {got:?} frame arrived where {expected} belongs")]
    Unexpected {
        /// Its kind.
        got: Kind,
        /// What belongs there.
        expected: &'static str,
    },
    /// A message that exceeds the limits of the format cannot be sent.
    #[error("a {kind:?} frame with a {what} of {len} bytes cannot be sent; the limit is {limit}")]
    TooLong {
        /// Kind of the frame.
        kind: Kind,
        /// "body" or "payload".
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// From [`catena_types::limits`].
        limit: u32,
    },
    /// The other side refused the connection, or the request.
    #[error("{0}")]
    Refused(Failure),
    /// The connection failed.
    #[error("the connection to {peer} failed: {source}")]
    Io {
        /// Who was at the other end.
        peer: String,
        /// From the system.
        source: io::Error,
    },
}

impl NetError {
    /// The failure the other side sent, if that is what this is.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            NetError::Refused(failure) => Some(failure),
            _ => None,
        }
    }
}
