//! The tour's first half: a file in chunks, every replica read, a part overwritten, an append.

use std::io::Read;
use std::time::Instant;

use bytes::Bytes;
use catena_client::{ReadOptions, UpdateOptions, Updated, split};
use catena_types::store::ChecksumMethod;

use super::{CHUNK, Tour, key, members};
use crate::explain;
use crate::fault::{Doing, Fault, Result};
use crate::output::{dim, say};
use crate::units::{bytes_short, grouped, time_short};

/// Bytes of the file: 64 + 64 + 64 + 8 KiB.
const FILE: usize = 200 << 10;
/// Where the overwrite goes, within the second chunk and across no block boundary.
const OVERWRITE_AT: u64 = 100_000;
const OVERWRITE: usize = 100;
/// Bytes appended to the last chunk.
const APPEND: usize = 5_000;

impl Tour {
    /// Real bytes: the beginning of this binary.
    pub(super) async fn write_file(&mut self) -> Result<()> {
        let exe = std::env::current_exe().doing("find this binary")?;
        let file = std::fs::File::open(&exe).doing(format_args!("open {}", exe.display()))?;
        file.take(FILE as u64).read_to_end(&mut self.data).doing(format_args!("read {}", exe.display()))?;
        self.heading(&format!("Write {} in chunks of {}", bytes_short(self.data.len() as u64), bytes_short(CHUNK)));
        say!("  {}", dim(format_args!("the first {} bytes of {}", grouped(self.data.len() as u64), exe.display())));
        let start = Instant::now();
        for piece in split(0, self.data.len() as u64, CHUNK) {
            let from = (piece.index * u64::from(CHUNK)) as usize;
            let bytes = Bytes::copy_from_slice(&self.data[from..from + piece.len as usize]);
            let updated = self.write(piece.index, 0, bytes).await?;
            self.show(piece.index, &updated, &format!("{} written", bytes_short(piece.len)));
            let claim = format!("chunk {} is committed on every replica, the tail first", piece.index);
            self.check(&claim, committed_in_order(&updated));
        }
        say!("  {}", dim(format_args!("{} for the four chunks, one after the other", time_short(start.elapsed()))));
        Ok(())
    }

    /// One explained write to chunk `n`.
    pub(super) async fn write(&self, n: u64, offset: u32, bytes: Bytes) -> Result<Updated> {
        let options = UpdateOptions { chunk_size: CHUNK, explain: true, ..UpdateOptions::default() };
        Ok(self.client.write(key(n), offset, bytes, &options).await?)
    }

    pub(super) fn show(&self, n: u64, updated: &Updated, what: &str) {
        let routing = self.client.routing();
        say!();
        say!("  chunk {n}: {what} to chain {}: {}", updated.chain, members(&routing, updated.chain));
        explain::show(updated, &routing, "    ");
        if updated.hops.is_empty() {
            // The answer got lost, or the chain moved: the repeated update was answered from what the session recorded.
            say!("    {}", dim(format_args!("no times: it was committed once and asked about {} times", updated.attempts)));
        }
    }

    /// What chunk `n` must hold.
    pub(super) fn expected(&self, n: u64) -> &[u8] {
        let start = (n as usize * CHUNK as usize).min(self.data.len());
        let end = (start + CHUNK as usize).min(self.data.len());
        &self.data[start..end]
    }

    /// Number of chunks.
    pub(super) fn chunks(&self) -> u64 {
        (self.data.len() as u64).div_ceil(u64::from(CHUNK))
    }

    /// Reads every chunk from every replica that serves, and compares the bytes.
    pub(super) async fn read_every_replica(&mut self) -> Result<()> {
        self.heading("Read every chunk from every replica");
        self.compare_replicas().await
    }

    pub(super) async fn compare_replicas(&mut self) -> Result<()> {
        let routing = self.client.refresh_routing().await?;
        for n in 0..self.chunks() {
            let chain = self.client.chain_of(key(n)).and_then(|id| routing.chain(id));
            let chain = chain.ok_or_else(|| Fault::new(format!("chunk {n} has no chain: see the manager's log")))?;
            let (mut equal, mut said) = (true, Vec::new());
            for target in chain.serving() {
                let options = ReadOptions { target: Some(target), ..ReadOptions::default() };
                let start = Instant::now();
                let read = self.client.read(key(n), 0, CHUNK, &options).await?;
                equal &= read.data == self.expected(n) && read.target == target;
                said.push(format!("t{target} {}", time_short(start.elapsed())));
            }
            let count = said.len();
            self.check(&format!("chunk {n}: {count} replicas hold the same bytes ({})", said.join(", ")), equal && count > 0);
        }
        Ok(())
    }

    /// A small overwrite in the middle, and an append: only the blocks touched are written.
    pub(super) async fn overwrite_and_append(&mut self) -> Result<()> {
        self.heading(&format!("Overwrite {OVERWRITE} bytes in the middle, then append {} bytes", grouped(APPEND as u64)));
        let n = OVERWRITE_AT / u64::from(CHUNK);
        let offset = (OVERWRITE_AT % u64::from(CHUNK)) as u32;
        let patch: Vec<u8> = self.data[..OVERWRITE].iter().rev().copied().collect();
        self.data[OVERWRITE_AT as usize..][..OVERWRITE].copy_from_slice(&patch);
        let updated = self.write(n, offset, patch.into()).await?;
        self.show(n, &updated, &format!("bytes {offset} to {} overwritten", offset as usize + OVERWRITE - 1));
        self.check_blocks(&updated, CHUNK / catena_types::limits::BLOCK);

        let last = self.chunks() - 1;
        let end = self.expected(last).len() as u32;
        let tail: Vec<u8> = self.data[..APPEND].to_vec();
        self.data.extend_from_slice(&tail);
        let updated = self.write(last, end, tail.into()).await?;
        self.show(last, &updated, &format!("{APPEND} bytes appended at {end}"));
        self.check_blocks(&updated, updated.len.div_ceil(catena_types::limits::BLOCK));
        self.compare_replicas().await
    }

    /// That an update touched few of the chunk's `blocks`, and did not read the rest to know the checksum.
    fn check_blocks(&mut self, updated: &Updated, blocks: u32) {
        let Some(hop) = updated.hops.last() else { return };
        let stage = &hop.stage;
        let last = (stage.first_block + stage.blocks_written).saturating_sub(1);
        let claim = format!(
            "{} of {blocks} blocks written ({} to {last}), {} read to fill them; the chunk's checksum found by {}",
            stage.blocks_written,
            stage.first_block,
            stage.blocks_read,
            explain::method(stage)
        );
        self.check(&claim, stage.blocks_written < blocks && stage.method() == ChecksumMethod::Combine);
    }
}

/// Every replica that said so committed the same version with the same checksum, and none before its successor.
fn committed_in_order(updated: &Updated) -> bool {
    let same = updated.hops.iter().all(|h| h.ver == updated.ver && h.stage.checksum == updated.checksum);
    let ordered = updated.hops.windows(2).all(|pair| pair[0].committed_us <= pair[1].committed_us);
    same && ordered
}
