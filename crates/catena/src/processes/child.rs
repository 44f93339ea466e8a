//! One child process: started with its output in a log file, stopped politely, killed if it must be.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::LOOK;
use crate::fault::{Doing, Fault, Result};

/// One child process. Dropping it kills it.
pub(crate) struct Child {
    name: String,
    log: PathBuf,
    process: std::process::Child,
    ended: Option<ExitStatus>,
    told: bool,
}

impl Child {
    /// Runs this binary with `args`; its output is appended to `dir/log/name.log`.
    pub(crate) fn spawn(dir: &Path, name: &str, args: &[String]) -> Result<Child> {
        let logs = dir.join("log");
        std::fs::create_dir_all(&logs).doing(format_args!("make the directory {}", logs.display()))?;
        let path = logs.join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(&path).doing(format_args!("open {}", path.display()))?;
        let errors = log.try_clone().doing("share the log file")?;
        let exe = std::env::current_exe().doing("find this binary")?;
        let process = Command::new(&exe)
            .args(args)
            // It is the secret of another cluster.
            .env_remove("CATENA_SECRET_FILE")
            .arg("--die-with-parent")
            .arg(std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            // A Ctrl-C of the terminal goes to the parent alone, which stops the children in order.
            .process_group(0)
            .spawn()
            .doing(format_args!("start {} as {name}", exe.display()))?;
        Ok(Child { name: name.to_owned(), log: path, process, ended: None, told: false })
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Name and end of the process, once after it has ended.
    pub(crate) fn newly_ended(&mut self) -> Option<(String, String)> {
        let ended = self.poll()?;
        let first = !std::mem::replace(&mut self.told, true);
        let how = match (ended.code(), ended.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "for no known reason".to_owned(),
        };
        first.then(|| (self.name.clone(), how))
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.process.try_wait().ok().flatten();
        }
        self.ended
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.poll().is_some() {
            return Ok(());
        }
        // Not waited for yet, so the pid is still this process.
        let pid = Pid::from_child(&self.process);
        kill_process(pid, signal).doing(format_args!("signal {}", self.name))
    }

    /// SIGTERM: finish and say goodbye.
    pub(crate) fn ask_to_stop(&mut self) -> Result<()> {
        self.told = true;
        self.signal(Signal::TERM)
    }

    /// Waits for the end; SIGKILL after `grace`.
    pub(crate) async fn wait_or_kill(&mut self, grace: Duration) -> Result<()> {
        let start = Instant::now();
        while self.poll().is_none() {
            if start.elapsed() > grace {
                return self.kill().await;
            }
            tokio::time::sleep(LOOK / 5).await;
        }
        Ok(())
    }

    /// SIGKILL, and waits for the end.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.told = true;
        self.signal(Signal::KILL)?;
        let start = Instant::now();
        while self.poll().is_none() {
            if start.elapsed() > super::GRACE {
                return Err(Fault::new(format!("{} (pid {}) does not end, even on SIGKILL", self.name, self.pid())));
            }
            tokio::time::sleep(LOOK / 5).await;
        }
        Ok(())
    }

    /// The last line of the log that says something.
    pub(crate) fn last_words(&self) -> String {
        let tail = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(4096)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = tail().unwrap_or_default();
        let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("its log is empty");
        format!("{line} (see {})", self.log.display())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.poll().is_none() {
            // Nothing is left to do about a failure here: the kernel ends the child with its parent.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}
