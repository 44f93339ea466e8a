//! What can go wrong, with the cause and the next step.

/// What went wrong with the one-sided transport. Whoever meets it goes on without.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RmaError {
    /// libfabric cannot be loaded.
    #[error("libfabric cannot be loaded: {cause}; install Debian's libfabric1 (1.17), or later libfabric")]
    NoLibrary {
        /// From the loader.
        cause: String,
    },
    /// No such provider on this machine.
    #[error("libfabric has no provider `{provider}` here that reads and writes remote memory; `fi_info -l` lists what there is")]
    NoProvider {
        /// As given.
        provider: String,
    },
    /// With cross-memory attach, a peer that was stopped could write, when it goes on, into memory that is long in other
    /// use: closing the endpoint does not keep it out.
    #[error("the provider `shm` is used with FI_SHM_DISABLE_CMA=1 in the environment only: with it, a closed endpoint is closed")]
    NotFenced,
    /// A call failed.
    #[error("libfabric could not {what}: {text} ({code}); FI_LOG_LEVEL=warn tells more")]
    Call {
        /// What was to be done.
        what: &'static str,
        /// libfabric's number, positive.
        code: i32,
        /// libfabric's words.
        text: String,
    },
    /// The endpoint is closed.
    #[error("the one-sided endpoint is closed: its connection has ended")]
    Closed,
    /// No peer has been named.
    #[error("the one-sided endpoint knows no peer yet")]
    NoPeer,
    /// A length that cannot be.
    #[error("{len} bytes are asked for where {room} are")]
    Length {
        /// Asked for, in bytes.
        len: usize,
        /// There is, in bytes.
        room: usize,
    },
    /// The system gives no random numbers for a key.
    #[error("no random numbers from the system")]
    NoRandom,
    /// The system gives no thread.
    #[error("no thread for an endpoint: {cause}")]
    NoThread {
        /// From the system.
        cause: String,
    },
    /// The system gives no memory.
    #[error("no memory for libfabric")]
    OutOfMemory,
}

impl RmaError {
    /// "No data" as the answer to a search means that there is no such provider.
    pub(crate) fn or_no_provider(self, provider: &str) -> RmaError {
        match self {
            RmaError::Call { code: libc::ENODATA, .. } => RmaError::NoProvider { provider: provider.to_owned() },
            other => other,
        }
    }
}
