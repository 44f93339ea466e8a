//! Why a command failed: one line for a person (cause, then what to do next) and an exit code for a script.

use std::fmt;

use catena_client::ErrorKind;

/// The operation failed.
pub(crate) const FAILED: u8 = 1;
/// Wrong usage, or (for `status`) a cluster that cannot be used.
pub(crate) const USAGE: u8 = 2;
/// There is no such chunk or object.
pub(crate) const NOT_FOUND: u8 = 3;
/// The precondition does not hold.
pub(crate) const PRECONDITION: u8 = 4;
/// The update may or may not take effect.
pub(crate) const UNKNOWN: u8 = 5;

/// What `--help` says about exit codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed (status: degraded)
  2  wrong usage (status: not available)
  3  no such chunk or object
  4  the precondition does not hold
  5  the outcome of an update is not known";

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Exit code of the process.
    pub(crate) code: u8,
    message: String,
}

/// What a command ends with.
pub(crate) type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    /// The operation failed; `message` names the cause and the next step.
    pub(crate) fn new(message: impl Into<String>) -> Fault {
        Fault { code: FAILED, message: message.into() }
    }
    /// The command line makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Fault {
        Fault { code: USAGE, message: message.into() }
    }
    /// There is no such thing.
    pub(crate) fn not_found(message: impl Into<String>) -> Fault {
        Fault { code: NOT_FOUND, message: message.into() }
    }
    /// The same with what was being done in front.
    pub(crate) fn context(mut self, what: impl fmt::Display) -> Fault {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message.replace('\n', " "))
    }
}

impl std::error::Error for Fault {}

impl From<catena_client::Error> for Fault {
    fn from(error: catena_client::Error) -> Fault {
        let code = match error.kind() {
            ErrorKind::NotFound => NOT_FOUND,
            ErrorKind::PreconditionFailed { .. } => PRECONDITION,
            ErrorKind::OutcomeUnknown => UNKNOWN,
            ErrorKind::InvalidArgument => USAGE,
            _ => FAILED,
        };
        Fault { code, message: error.to_string() }
    }
}

/// Puts what was being done in front of an error of the system.
pub(crate) trait Doing<T> {
    /// `what` is "read /some/file" and the like.
    fn doing(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|e| Fault::new(format!("cannot {what}: {e}")))
    }
}
