//! A node's directory: `lock`, `node` (whose it is), `targets/<n>/` (see the engine).
//!
//! What must hold: one process at a time (`lock` is held until the process ends); a directory that belongs to another
//! node or cluster is refused before anything in it is touched.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use catena_types::NodeId;

use crate::NodeError;

/// A node's directory, locked.
pub(crate) struct Home {
    dir: PathBuf,
    node: NodeId,
    cluster: u64,
    _lock: File,
}

impl Home {
    /// Makes the directory if need be, locks it, and checks that it is `node`'s.
    pub(crate) fn open(dir: &Path, node: NodeId) -> Result<Home, NodeError> {
        let failed = |path: &Path, action| {
            let path = path.to_owned();
            move |source| NodeError::File { path, action, source }
        };
        fs::create_dir_all(dir.join("targets")).map_err(failed(dir, "making the directory"))?;
        let lock_path = dir.join("lock");
        let lock = File::create(&lock_path).map_err(failed(&lock_path, "opening"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(NodeError::DirectoryInUse { dir: dir.to_owned() }),
            Err(TryLockError::Error(e)) => return Err(failed(&lock_path, "locking")(e)),
        }
        let mut home = Home { dir: dir.to_owned(), node, cluster: 0, _lock: lock };
        let path = dir.join("node");
        match fs::read_to_string(&path) {
            Ok(text) => home.cluster = home.check_identity(&text)?,
            Err(e) if e.kind() == ErrorKind::NotFound => home.write()?,
            Err(e) => return Err(failed(&path, "reading")(e)),
        }
        Ok(home)
    }

    /// The cluster this directory belongs to; 0 if none yet.
    pub(crate) fn cluster(&self) -> u64 {
        self.cluster
    }

    /// Records the cluster.
    pub(crate) fn adopt(&mut self, cluster: u64) -> Result<(), NodeError> {
        if self.cluster == cluster {
            return Ok(());
        }
        if self.cluster != 0 {
            return Err(self.wrong(describe(self.node, self.cluster), cluster));
        }
        self.cluster = cluster;
        self.write()
    }

    /// Directories of targets `0..wanted` and of any others that exist, by number.
    pub(crate) fn targets(&self, wanted: u32) -> Result<Vec<(u32, PathBuf)>, NodeError> {
        let root = self.dir.join("targets");
        let failed = |source| NodeError::File { path: root.clone(), action: "listing", source };
        let mut numbers: Vec<u32> = (0..wanted).collect();
        for entry in fs::read_dir(&root).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            numbers.extend(name.to_str().and_then(|n| n.parse::<u32>().ok()).filter(|&n| n >= wanted));
        }
        numbers.sort_unstable();
        Ok(numbers.into_iter().map(|n| (n, root.join(n.to_string()))).collect())
    }

    fn check_identity(&self, text: &str) -> Result<u64, NodeError> {
        let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
        let node = field("node ").and_then(|n| n.parse::<NodeId>().ok());
        let cluster = field("cluster ").and_then(|c| u64::from_str_radix(c, 16).ok());
        match (node, cluster) {
            (Some(node), Some(cluster)) if node == self.node => Ok(cluster),
            (Some(node), Some(cluster)) => Err(self.wrong(describe(node, cluster), 0)),
            _ => Err(self.wrong("somebody unknown: its file \"node\" cannot be read".to_owned(), 0)),
        }
    }

    fn wrong(&self, found: String, cluster: u64) -> NodeError {
        NodeError::WrongDirectory { dir: self.dir.clone(), found, wanted: describe(self.node, cluster) }
    }

    /// Replaces the identity file, whole and durably.
    fn write(&self) -> Result<(), NodeError> {
        let path = self.dir.join("node");
        let failed = |source| NodeError::File { path: path.clone(), action: "writing", source };
        let new = self.dir.join("node.new");
        let mut file = File::create(&new).map_err(failed)?;
        write!(file, "node {}\ncluster {:016x}\n", self.node, self.cluster).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        fs::rename(&new, &path).map_err(failed)?;
        File::open(&self.dir).and_then(|d| d.sync_all()).map_err(failed)
    }
}

fn describe(node: NodeId, cluster: u64) -> String {
    if cluster == 0 { format!("node {node}") } else { format!("node {node} of cluster {cluster:016x}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_belongs_to_one_node_of_one_cluster_in_one_process() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut home = Home::open(dir.path(), 3).expect("new");
        assert!(matches!(Home::open(dir.path(), 3), Err(NodeError::DirectoryInUse { .. })));
        home.adopt(0xc1).expect("first cluster");
        assert!(matches!(home.adopt(0xc2), Err(NodeError::WrongDirectory { .. })));
        drop(home);
        let error = Home::open(dir.path(), 4).err().expect("another node's").to_string();
        assert!(error.contains("belongs to node 3 of cluster 00000000000000c1, not to node 4"), "{error}");
        assert_eq!(Home::open(dir.path(), 3).expect("ours").cluster(), 0xc1);
        fs::write(dir.path().join("node"), "garbage").expect("written");
        assert!(Home::open(dir.path(), 3).is_err());
    }

    #[test]
    fn targets_that_exist_are_found_beside_those_wanted() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::open(dir.path(), 1).expect("new");
        fs::create_dir(dir.path().join("targets/7")).expect("made");
        fs::create_dir(dir.path().join("targets/lost+found")).expect("made");
        let numbers: Vec<u32> = home.targets(2).expect("listed").into_iter().map(|t| t.0).collect();
        assert_eq!(numbers, [0, 1, 7]);
    }
}
