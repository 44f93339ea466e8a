//! Why an operation failed, what a caller may conclude from it, and what to do next.
//!
//! An error is a kind (what a program decides on), a retry class (whether repeating can help or harm), the code a node
//! sent if there was one, and one line for people: cause first, next step last.

use std::fmt;

use catena_types::{Class, Code, Failure, Ver};

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such chunk or object.
    NotFound,
    /// The precondition does not hold.
    PreconditionFailed {
        /// Committed version of the chunk; 0 if it is absent.
        version: Ver,
    },
    /// The request can never succeed as it is.
    InvalidArgument,
    /// A replica has no room. Nothing was applied.
    NoSpace,
    /// A replica takes no writes. Nothing was applied.
    ReadOnly,
    /// The payload was damaged on its way, again and again. Nothing was applied.
    PayloadCorrupt,
    /// No replica served the request before the deadline. Nothing was applied.
    Unavailable,
    /// The replicas were too busy until the deadline. Nothing was applied.
    Overloaded,
    /// The update may or may not have been applied, at most once.
    OutcomeUnknown,
    /// A read was not answered before the deadline.
    Timeout,
    /// No replica holds a good copy of the bytes.
    Corrupt,
    /// The other side is of another cluster or protocol, or did not understand us.
    Refused,
    /// The cluster has no chain table yet.
    NotInitialized,
    /// No manager can be reached.
    NoManager,
    /// The object was replaced or removed while it was being read.
    ObjectChanged,
    /// The put was overtaken: a collector took it for dead and removed its data. Nothing was applied.
    PutAbandoned,
    /// What is stored of an object does not make sense to this version of the library.
    BadManifest,
    /// The source of a put or the sink of a get failed.
    Stream,
}

/// Whether repeating an operation can help, or harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same request fails again.
    Never,
    /// Nothing was applied: repeat it later.
    Later,
    /// It may have been applied: read before repeating it.
    AfterReading,
}

/// A failed operation. `Display` is one line with cause and next step.
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: ErrorKind,
    code: Option<Code>,
    /// What was being done, outermost first.
    context: Vec<String>,
    cause: String,
}

impl Error {
    /// An error of this kind; `cause` says why.
    pub fn new(kind: ErrorKind, cause: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, code: None, context: Vec::new(), cause: cause.into() }))
    }

    /// A failure sent by a node or manager, taken as final.
    pub fn from_failure(failure: &Failure) -> Error {
        let mut e = Error::new(kind_of(failure), failure.message.clone());
        e.0.code = Some(failure.code());
        e
    }

    /// The same, of another kind: what was a failure of one attempt becomes the end of the operation.
    pub fn into_kind(mut self, kind: ErrorKind) -> Error {
        self.0.kind = kind;
        self
    }

    /// The same with what was being done in front.
    pub fn context(mut self, what: impl Into<String>) -> Error {
        self.0.context.insert(0, what.into());
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The code a node or manager sent; `None` if the error was found on this side.
    pub fn code(&self) -> Option<Code> {
        self.0.code
    }

    /// Whether repeating the operation can help, or harm.
    pub fn retry(&self) -> Retry {
        use ErrorKind::*;
        match self.0.kind {
            NotFound | PreconditionFailed { .. } | InvalidArgument | ReadOnly | Corrupt | Refused | BadManifest | Stream => {
                Retry::Never
            }
            NoSpace | PayloadCorrupt | Unavailable | Overloaded | Timeout | NotInitialized | NoManager | ObjectChanged
            | PutAbandoned => Retry::Later,
            OutcomeUnknown => Retry::AfterReading,
        }
    }

    /// Why, without context and next step.
    pub fn cause(&self) -> &str {
        &self.0.cause
    }

    fn next_step(&self) -> &'static str {
        use ErrorKind::*;
        match self.0.kind {
            NotFound | InvalidArgument | ObjectChanged | PutAbandoned => "",
            PreconditionFailed { .. } => "read again and decide anew",
            NoSpace => "add targets or remove data, then repeat",
            ReadOnly => "see `catena status` for the replica that takes no writes",
            PayloadCorrupt => "check the network path: checksums do not survive it",
            Unavailable => "see `catena status`; repeat once the chain serves again",
            Overloaded => "repeat later with fewer requests at a time",
            OutcomeUnknown => "read before repeating: it may still be applied, once",
            Timeout => "see `catena status`, or allow more time",
            Corrupt => "restore it from a copy: no replica can",
            Refused => "check addresses and versions on both sides",
            NotInitialized => "run `catena admin init`",
            NoManager => "check the manager's address and that it runs",
            BadManifest => "a newer version wrote it, or the chunk was overwritten by other means",
            Stream => "",
        }
    }
}

/// The kind of error a failure is when it ends an operation.
fn kind_of(failure: &Failure) -> ErrorKind {
    match failure.code() {
        Code::InvalidArgument => ErrorKind::InvalidArgument,
        Code::NotFound => ErrorKind::NotFound,
        Code::PreconditionFailed => ErrorKind::PreconditionFailed { version: failure.version },
        Code::NoSpace => ErrorKind::NoSpace,
        Code::ReadOnly => ErrorKind::ReadOnly,
        Code::PayloadCorrupt => ErrorKind::PayloadCorrupt,
        Code::Timeout => ErrorKind::Timeout,
        Code::Corrupt => ErrorKind::Corrupt,
        code => match code.class() {
            Class::Redirect => ErrorKind::Unavailable,
            Class::Overload => ErrorKind::Overloaded,
            Class::Refused => ErrorKind::Refused,
            Class::Unknown | Class::Rejected => ErrorKind::OutcomeUnknown,
        },
    }
}

/// The kind in words, for the line a person reads.
fn words(kind: ErrorKind) -> &'static str {
    use ErrorKind::*;
    match kind {
        NotFound => "not found",
        PreconditionFailed { .. } => "precondition failed",
        InvalidArgument => "invalid argument",
        NoSpace => "no space",
        ReadOnly => "read-only",
        PayloadCorrupt => "payload corrupt",
        Unavailable => "unavailable",
        Overloaded => "overloaded",
        OutcomeUnknown => "outcome unknown",
        Timeout => "timeout",
        Corrupt => "corrupt",
        Refused => "refused",
        NotInitialized => "not initialized",
        NoManager => "no manager",
        ObjectChanged => "object changed",
        PutAbandoned => "put abandoned",
        BadManifest => "bad manifest",
        Stream => "stream failed",
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for what in &self.0.context {
            write!(f, "{what}: ")?;
        }
        f.write_str(words(self.0.kind))?;
        if let ErrorKind::PreconditionFailed { version } = self.0.kind {
            match version {
                0 => f.write_str(" (the chunk is absent)")?,
                v => write!(f, " (the chunk has version {v})")?,
            }
        }
        if !self.0.cause.is_empty() {
            write!(f, ": {}", self.0.cause)?;
        }
        match self.next_step() {
            "" => Ok(()),
            next => write!(f, "; {next}"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_with_cause_and_next_step() {
        let failure = Failure::new(Code::PreconditionFailed, "wanted version 3").with_version(7);
        let e = Error::from_failure(&failure).context("write chunk \"a\"");
        assert_eq!(e.kind(), ErrorKind::PreconditionFailed { version: 7 });
        assert_eq!(e.retry(), Retry::Never);
        assert_eq!(
            e.to_string(),
            "write chunk \"a\": precondition failed (the chunk has version 7): wanted version 3; read again and decide anew"
        );
    }

    #[test]
    fn every_code_has_a_kind_that_promises_no_more_than_its_class() {
        for n in 0..=50 {
            let Ok(code) = Code::try_from(n) else { continue };
            let e = Error::from_failure(&Failure::new(code, ""));
            if matches!(code, Code::StaleRequest | Code::SessionUnknown | Code::OutcomeUnknown) {
                assert_eq!(e.retry(), Retry::AfterReading, "{code:?}");
            }
            if code.class() == Class::Redirect {
                assert_eq!(e.kind(), ErrorKind::Unavailable, "{code:?}");
            }
        }
    }
}
