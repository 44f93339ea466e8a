//! What a resync asks of a store beside whole chunks: checksums of blocks, versions made from parts, and versions whose
//! bytes nobody has.
//!
//! A patch is staged like an update and committed as soon as it is durable. What must hold: it makes exactly the version
//! that was asked for, or nothing; blocks it keeps keep their checksums, so that rot in them stays rot. A lost chunk never
//! reads as anything: its blocks' checksums make the chunk's, and are those of no bytes that are there.

use bytes::Bytes;
use catena_types::limits::{BLOCK, valid_chunk_size};
use catena_types::store::Part;
use catena_types::{ChunkKey, Code, Committed, Done, Op as Update, Payload, StageRequest, Ver, crc::fold};

use super::sums::{Missing, Sums};
use super::{CowStore, Op, version_of};
use crate::disk::Disk;
use crate::format::journal::Held;
use crate::mutation::{Mutation, is};
use crate::version::{Version, ZERO_BLOCK, blocks, pad_checksum};

/// A staged version that is to be committed at once.
pub(crate) struct Patch {
    id: u64,
    committed: Committed,
}

/// Checksums that are being collected.
pub(crate) struct SumsOp {
    id: u64,
    key: ChunkKey,
    ver: Ver,
    version: Version,
    memory: Vec<Held>,
    sums: Sums,
    waiting: usize,
    /// The chunk has been asked once.
    asked: bool,
}

impl<D: Disk> CowStore<D> {
    pub(super) fn start_patch(
        &mut self,
        id: u64,
        key: &ChunkKey,
        committed: Committed,
        parts: Vec<Part<Bytes>>,
    ) -> Result<(), Code> {
        if self.failed.is_some() {
            return Err(Code::Io);
        }
        let item = self.index.get(key).filter(|i| !self.staged.contains_key(key) && i.committed.ver < committed.ver);
        let item = item.filter(|i| i.committed.len <= committed.len && committed.len <= i.chunk_size);
        let Some(item) = item.filter(|_| follow(&parts, committed.len)) else { return Err(Code::InvalidArgument) };
        let op = match (parts.first(), parts.last()) {
            (Some(first), Some(last)) => Update::write(first.offset, last.offset + last.len - first.offset),
            _ => Update::extend(committed.len),
        };
        if op.new_len(item.committed.len) != committed.len {
            return Err(Code::InvalidArgument);
        }
        let request = StageRequest {
            key: key.clone(),
            ver: committed.ver,
            chain_ver: committed.chain_ver,
            tag: committed.tag,
            op,
            chunk_size: item.chunk_size,
            payload: Payload { data: Bytes::new(), len: 0, crc: 0, sums: None },
        };
        // Known before the stage may end.
        let number = self.next_op;
        self.patches.insert(number, Patch { id, committed });
        self.start_stage(request, parts).inspect_err(|_| {
            self.patches.remove(&number);
        })
    }

    /// A staged version is durable: if it is a patch, commits it, or drops it if it is not what it should be.
    pub(super) fn patch_staged(&mut self, key: &ChunkKey, ver: Ver, op: u64, checksum: u32) -> bool {
        let Some(Patch { id, committed }) = self.patches.remove(&op) else { return false };
        if checksum == committed.checksum || is(Mutation::AnyPatch) {
            self.commit_staged(key, ver, committed.chain_ver);
            self.start_sync(id);
        } else {
            self.drop_staged(key, ver);
            self.done.push(Done::NotPatched { id });
        }
        true
    }

    /// What an operation staged has gone: if it was a patch, it ends.
    pub(super) fn patch_ended(&mut self, op: u64) -> bool {
        let patch = self.patches.remove(&op);
        self.done.extend(patch.iter().map(|p| Done::NotPatched { id: p.id }));
        patch.is_some()
    }

    pub(super) fn start_install_lost(
        &mut self,
        id: u64,
        key: &ChunkKey,
        chunk_size: u32,
        committed: Committed,
    ) -> Result<(), Code> {
        if self.failed.is_some() {
            return Err(Code::Io);
        }
        if committed.len > chunk_size || !valid_chunk_size(chunk_size) || (committed.len == 0 && committed.checksum != 0) {
            self.misuse("an install that breaks the contract", key, committed.ver);
            return Err(Code::InvalidArgument);
        }
        let mut crcs = vec![!ZERO_BLOCK; blocks(committed.len) as usize];
        if let Some(last) = crcs.last_mut() {
            *last = 0;
            let others = fold(&crcs);
            if let Some(last) = crcs.last_mut() {
                *last = others ^ pad_checksum(committed.len, committed.checksum);
            }
        }
        self.put_whole(id, key, chunk_size, committed, &[], crcs)
    }

    pub(super) fn start_sums(&mut self, id: u64, key: &ChunkKey, ver: Ver) {
        if self.failed.is_some() {
            return;
        }
        let Some(item) = self.index.get(key).filter(|i| i.committed.ver == ver) else {
            return self.done.push(Done::Sums { id, result: Err(Code::NotFound) });
        };
        let version = version_of(item);
        let memory = self.overlay.get(key).map_or_else(Vec::new, |o| o.pieces());
        let sums = Sums::new(std::iter::once(0..blocks(version.len)));
        let op = self.take_op();
        self.collect(op, SumsOp { id, key: key.clone(), ver, version, memory, sums, waiting: 0, asked: false });
    }

    /// Something that checksums wait for is there.
    pub(super) fn wake_sums(&mut self, op: u64) {
        let Some(Op::Sums(sums)) = self.ops.get_mut(&op) else { return };
        sums.waiting -= 1;
        if sums.waiting == 0
            && let Some(Op::Sums(sums)) = self.ops.remove(&op)
        {
            self.collect(op, sums);
        }
    }

    fn collect(&mut self, op: u64, mut sums: SumsOp) {
        match self.gather(&sums.version, &sums.memory, &mut sums.sums) {
            Missing::Pages(pages) => {
                sums.waiting = pages.len();
                self.ops.insert(op, Op::Sums(sums));
                self.ask_pages(op, &pages);
            }
            Missing::Chunk if !sums.asked => {
                (sums.asked, sums.waiting) = (true, 1);
                let (key, ver, version, memory) = (sums.key.clone(), sums.ver, sums.version.clone(), sums.memory.clone());
                self.ops.insert(op, Op::Sums(sums));
                self.heal(op, &key, ver, &version, &memory);
            }
            Missing::Chunk => self.done.push(Done::Sums { id: sums.id, result: Err(Code::Corrupt) }),
            Missing::Nothing => {
                let crcs: Option<Vec<u32>> = (0..blocks(sums.version.len)).map(|block| sums.sums.get(block)).collect();
                // A table that has rotted names no chunk that was ever here.
                let whole = |crcs: &Vec<u32>| fold(crcs) == pad_checksum(sums.version.len, sums.version.checksum);
                let result = crcs.filter(whole).ok_or(Code::Corrupt);
                self.done.push(Done::Sums { id: sums.id, result });
            }
        }
    }
}

/// Whether the parts are whole blocks of a chunk of `len` bytes, in order.
fn follow(parts: &[Part<Bytes>], len: u32) -> bool {
    let mut end = 0;
    parts.iter().all(|p| {
        let aligned = p.offset.is_multiple_of(BLOCK) && (p.len.is_multiple_of(BLOCK) || p.offset.checked_add(p.len) == Some(len));
        let fits = p.len > 0 && p.len as usize == p.payload.len() && p.offset.checked_add(p.len).is_some_and(|e| e <= len);
        let good = aligned && fits && p.offset >= end;
        end = p.offset.saturating_add(p.len);
        good
    })
}
