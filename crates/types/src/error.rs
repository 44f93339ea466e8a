//! Outcomes other than success, as a client sees them.

use std::fmt;

/// What went wrong. Numbers are part of the wire format and are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Code {
    /// Not an error; a frame that carries it as one is malformed.
    Ok = 0,
    /// The request can never succeed as it is.
    InvalidArgument = 1,
    /// No such chunk.
    NotFound = 2,
    /// The precondition does not hold; `version` is the committed version (0: absent).
    PreconditionFailed = 3,
    /// A replica has no room.
    NoSpace = 4,
    /// A replica takes no writes.
    ReadOnly = 5,
    /// The payload's checksum is not the one sent with it.
    PayloadCorrupt = 6,
    /// Membership has changed; `version` is the chain version here.
    WrongChainVersion = 10,
    /// Updates go to the head of the chain.
    NotHead = 11,
    /// This target does not serve now.
    NotServing = 12,
    /// This target may not serve: it has not heard from the manager for a lease.
    LeaseExpired = 13,
    /// This node does not hold that chain.
    UnknownChain = 14,
    /// This manager has not been elected; `elsewhere` is the one that was, if known.
    NotPrimary = 15,
    /// Too much is waiting here; `version` is the pause in microseconds to take before the next try.
    Busy = 20,
    /// The deadline passed while the update was on its way: it may or may not take effect, at most once.
    OutcomeUnknown = 30,
    /// The session has moved on to a later update; what became of this one is not known here.
    StaleRequest = 31,
    /// The session is not known (it expired, or never committed an update here).
    SessionUnknown = 32,
    /// A read waited longer than its deadline.
    Timeout = 33,
    /// No replica holds a good copy of these bytes.
    Corrupt = 34,
    /// The peer belongs to another cluster.
    WrongCluster = 40,
    /// The peer speaks another protocol version.
    WrongProtocol = 41,
    /// The bytes received are not a frame, or a frame that makes no sense here.
    Malformed = 42,
    /// Another living process holds this identity.
    DuplicateNode = 43,
    /// The peer has not the secret it needs.
    NotAuthorized = 44,
    /// The target's disk failed.
    Io = 50,
}

/// What a client may conclude from a [`Code`], and do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing was applied.
    Rejected,
    /// Refresh routing and try again at once; says nothing about other attempts of the same update.
    Redirect,
    /// Back off and try again; says nothing about other attempts of the same update.
    Overload,
    /// May or may not have been applied.
    Unknown,
    /// The connection is no use: configuration or peer is wrong.
    Refused,
}

impl Code {
    /// The code of that number, or `Malformed`.
    pub fn from_wire(n: i32) -> Code {
        Code::try_from(n).unwrap_or(Code::Malformed)
    }
    /// What a client may conclude.
    pub fn class(self) -> Class {
        use Code::*;
        match self {
            InvalidArgument | NotFound | PreconditionFailed | NoSpace | ReadOnly | PayloadCorrupt => Class::Rejected,
            WrongChainVersion | NotHead | NotServing | LeaseExpired | UnknownChain | NotPrimary | Io => Class::Redirect,
            Busy => Class::Overload,
            Ok | OutcomeUnknown | StaleRequest | SessionUnknown | Timeout | Corrupt => Class::Unknown,
            WrongCluster | WrongProtocol | Malformed | DuplicateNode | NotAuthorized => Class::Refused,
        }
    }
}

/// A failure with what a person or a retry loop needs: the cause and the next step.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Failure {
    /// What went wrong.
    #[prost(enumeration = "Code", tag = "1")]
    pub code: i32,
    /// See [`Code`]: a chunk version, a chain version, or a pause in microseconds.
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// Cause and next step, for people.
    #[prost(string, tag = "3")]
    pub message: String,
    /// Membership version under which it was decided; 0 if that plays no part.
    #[prost(uint64, tag = "4")]
    pub chain_ver: u64,
    /// `host:port` of who should be asked instead, if known.
    #[prost(string, tag = "5")]
    pub elsewhere: String,
}

impl Failure {
    /// A failure with a message.
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure { code: code as i32, message: message.into(), ..Failure::default() }
    }
    /// The same with the number that goes with the code.
    pub fn with_version(mut self, version: u64) -> Failure {
        self.version = version;
        self
    }
    /// The same, decided under this membership version.
    pub fn under(mut self, chain_ver: u64) -> Failure {
        self.chain_ver = chain_ver;
        self
    }
    /// The same with who should be asked instead.
    pub fn elsewhere(mut self, addr: impl Into<String>) -> Failure {
        self.elsewhere = addr.into();
        self
    }
    /// What a client may conclude.
    pub fn class(&self) -> Class {
        self.code().class()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.code())?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
