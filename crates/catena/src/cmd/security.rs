//! How a command or a process secures its connections, from files.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use catena_net::Security;

use crate::fault::{Doing, Fault, Result};

/// Longest file of secrets in bytes.
const LONGEST: u64 = 64 << 10;

/// What every process has that connects.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SecurityArgs {
    /// File with the cluster's secret; without it, everybody who reaches a port may connect
    #[arg(long, env = "CATENA_SECRET_FILE", value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

/// What every process has that accepts connections, too.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ServiceSecurity {
    #[command(flatten)]
    own: SecurityArgs,
    /// File with the secret of clients: with it they read and write, and cannot change the cluster or pass for a node
    #[arg(long, requires = "secret_file", value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
}

impl SecurityArgs {
    /// The security that is asked for.
    pub(crate) fn load(&self) -> Result<Security> {
        secured(self.secret_file.as_deref(), None)
    }
}

impl ServiceSecurity {
    /// The security that is asked for.
    pub(crate) fn load(&self) -> Result<Security> {
        secured(self.own.secret_file.as_deref(), self.client_secret_file.as_deref())
    }
}

fn secured(members: Option<&Path>, clients: Option<&Path>) -> Result<Security> {
    let Some(path) = members else { return Ok(Security::default()) };
    let clients = clients.map(secrets).transpose()?.unwrap_or_default();
    Security::with_secrets(&secrets(path)?, &clients).map_err(|e| Fault::usage(format!("{}: {e}", path.display())))
}

/// One secret per line: the first is used, all are accepted, so that a new one can be brought in beside the old.
fn secrets(path: &Path) -> Result<Vec<String>> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).doing(format_args!("read {shown}"))?;
    if metadata.permissions().mode() & 0o007 != 0 {
        return Err(Fault::usage(format!("{shown} can be read by everybody on this machine: chmod 600 {shown}")));
    }
    if metadata.len() > LONGEST {
        return Err(Fault::usage(format!("{shown} is no file of secrets: it has {} bytes", metadata.len())));
    }
    let text = std::fs::read_to_string(path).doing(format_args!("read {shown}"))?;
    Ok(text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let load = || SecurityArgs { secret_file: Some(path.clone()) }.load().map(|_| ()).map_err(|e| e.to_string());
        assert!(load().unwrap_err().contains("secret"), "it is not there");
        std::fs::write(&path, format!("# ours\n{:032}\n\n{:032}\n", 1, 2)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(load().unwrap_err().contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(load(), Ok(()));
        std::fs::write(&path, "short\n").unwrap();
        assert!(load().unwrap_err().contains("openssl rand"));
    }
}
