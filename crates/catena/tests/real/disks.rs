//! Disks with limits: a file system of a chosen size, a device that is slow for one process. Both need root.

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in memory, mounted in a directory of its own. Unmounted when dropped: after the processes that use it have
/// ended.
pub(crate) struct SmallDisk {
    dir: Option<tempfile::TempDir>,
}

impl SmallDisk {
    /// None, and a line that says why, for a user who may not mount.
    pub(crate) fn mount(mebibytes: u32) -> Option<SmallDisk> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can mount a file system");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("small-disk-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "catena-test"]).arg(dir.path()));
        Some(SmallDisk { dir: Some(dir) })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.as_ref().expect("it is there until it is dropped").path()
    }

    /// From now on it has this size.
    pub(crate) fn resize(&self, mebibytes: u32) {
        run(Command::new("mount").args(["-o", &format!("remount,size={mebibytes}m")]).arg(self.path()));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever has been killed this moment may still hold files there.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
        drop(self.dir.take());
    }
}

/// A group of processes that writes slowly to one device. They are free again when it is dropped.
pub(crate) struct SlowDisk {
    group: PathBuf,
    above: PathBuf,
}

impl SlowDisk {
    /// Lets a process write so many times per second to the device below `dir`. None, and a line that says why, where that
    /// cannot be done.
    pub(crate) fn throttle(process: u32, dir: &Path, writes: u32) -> Option<SlowDisk> {
        let device = device_of(dir)?;
        let name = format!("catena-test-{}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/blkio");
        let second = Path::new("/sys/fs/cgroup");
        let (above, file, limit) = if first.is_dir() {
            (first, "blkio.throttle.write_iops_device", format!("{device} {writes}"))
        } else {
            // Where the controller cannot be had, the file is not there below.
            let _ = fs::write(second.join("cgroup.subtree_control"), "+io");
            (second, "io.max", format!("{device} wiops={writes}"))
        };
        let group = above.join(name);
        if let Err(e) = fs::create_dir(&group) {
            eprintln!("skipped: no group of processes can be made in {}: {e}", above.display());
            return None;
        }
        let slow = SlowDisk { group, above: above.to_owned() };
        let set = fs::write(slow.group.join(file), limit).and_then(|()| slow.take(process));
        set.inspect_err(|e| eprintln!("skipped: {file} of {} cannot be set: {e}", slow.group.display())).ok()?;
        Some(slow)
    }

    fn take(&self, process: u32) -> std::io::Result<()> {
        fs::write(self.group.join("cgroup.procs"), process.to_string())
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        for process in fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = fs::write(self.above.join("cgroup.procs"), process);
        }
        let _ = fs::remove_dir(&self.group);
    }
}

/// `major:minor` of the whole disk that a directory lies on.
fn device_of(dir: &Path) -> Option<String> {
    let number = fs::metadata(dir).expect("it is there").st_dev();
    let device = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    let of = fs::canonicalize(Path::new("/sys/dev/block").join(&device));
    let Ok(of) = of else {
        eprintln!("skipped: {} lies on no block device", dir.display());
        return None;
    };
    let whole = if of.join("partition").exists() { of.parent().expect("a disk has partitions").to_owned() } else { of };
    Some(fs::read_to_string(whole.join("dev")).expect("every device has a number").trim().to_owned())
}

fn run(command: &mut Command) {
    let output = command.output().expect("a command of every system");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
