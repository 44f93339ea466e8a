//! Counters and gauges of a store, by stable names.

use super::{BLOCK64, CowStore};
use crate::disk::Disk;

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters since the store was opened.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// Every counter with its name.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}

stats! {
    /// Updates staged (durable).
    staged,
    /// Updates committed.
    committed,
    /// Reads ended.
    reads,
    /// Reads that ended without bytes, because a block does not match its checksum or could not be read.
    corrupt_reads,
    /// Read operations the disk refused.
    read_errors,
    /// Chunks found not to match their checksum.
    damaged,
    /// Times that the checksum table was found wrong, and was computed again from a chunk.
    table_repairs,
    /// Bytes returned by reads.
    bytes_read,
    /// Bytes of data blocks written.
    bytes_written,
    /// Bytes written to their place after a commit (stores in place).
    bytes_applied,
    /// Bytes of index leaves, checksum pages and checkpoints written.
    checkpoint_bytes,
    /// Bytes given back to the file system.
    bytes_punched,
    /// Bytes of zeroes written ahead of data.
    bytes_prepared,
    /// Chunks moved together.
    compacted,
    /// Journal appends.
    appends,
    /// Records in them.
    records,
    /// Bytes of journal blocks written.
    journal_bytes,
    /// Most records in one append.
    largest_group,
    /// Flushes.
    flushes,
    /// Checkpoints completed.
    checkpoints,
    /// Checkpoints for which appends had to wait.
    stalls,
    /// Calls that broke the contract and were ignored.
    misuse,
}

impl<D: Disk> CowStore<D> {
    /// How things stand now, by name: space by state, fragmentation, the journal, memory in use.
    pub fn gauges(&self) -> Vec<(&'static str, u64)> {
        let blocks = |n: u64| n * BLOCK64;
        let taken = self.alloc.total() - self.alloc.free();
        let free_runs = self.alloc.free_runs();
        vec![
            ("space_total_bytes", blocks(self.alloc.total())),
            ("space_free_bytes", blocks(self.alloc.free())),
            ("space_reserved_bytes", blocks(self.reserved)),
            ("space_freeing_bytes", blocks(self.limbo_blocks)),
            ("space_held_bytes", blocks(taken - self.reserved - self.limbo_blocks)),
            ("space_free_runs", free_runs),
            ("index_chunks", self.index.chunks()),
            ("index_leaves", self.index.len() as u64),
            ("index_bytes", self.index.bytes()),
            ("index_area_used_bytes", blocks(self.index_alloc.total() - self.index_alloc.free())),
            ("staged_chunks", self.staged.len() as u64),
            ("held_bytes", self.held_bytes),
            ("sessions", self.sessions.len() as u64),
            ("journal_used_bytes", blocks(u64::from(self.journal.used))),
            ("journal_total_bytes", blocks(u64::from(self.journal.blocks))),
            ("table_pages_in_memory", self.table.len() as u64),
            ("operations_in_flight", self.ops.len() as u64),
        ]
    }
}
