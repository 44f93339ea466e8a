//! What the engine's tests share: a deterministic source of randomness, stores to test, a plain model of a store, the
//! driver that runs random operations on both, and the enumeration of power cuts.
//!
//! Nothing here knows the disk format: only [`Params`], the public calls and the disk's interface are used, so that every
//! test can run for every kind of store in [`KINDS`].
#![allow(dead_code, missing_docs, unreachable_pub, unused_imports, clippy::unwrap_used, clippy::print_stdout)]

pub mod cuts;
pub mod direct;
pub mod model;
pub mod world;

use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use catena_arena::Arena;
use catena_engine::disk::mem::MemDisk;
use catena_engine::{Background, CowStore, Params, StoreKind};
use catena_types::Op;

pub use model::*;
pub use world::*;

/// The kinds of store that every test runs for: all, or the one that `CATENA_KIND` names (`cow` or `in-place`).
pub static KINDS: LazyLock<Vec<StoreKind>> = LazyLock::new(|| match std::env::var("CATENA_KIND").as_deref() {
    Ok("cow") => vec![StoreKind::Cow],
    Ok("in-place") => vec![StoreKind::InPlace],
    Ok(other) => panic!("CATENA_KIND={other} is neither cow nor in-place"),
    Err(_) => vec![StoreKind::Cow, StoreKind::InPlace],
});

/// xorshift64*.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }
    pub fn odds(&mut self, n: u64, of: u64) -> bool {
        self.below(of) < n
    }
    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }
    pub fn bytes(&mut self, n: usize) -> Bytes {
        let mut out = Vec::with_capacity(n + 8);
        while out.len() < n {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out.truncate(n);
        out.into()
    }
}

/// A number from the environment.
pub fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// A target with a data area and a journal of so many blocks, and a small checkpoint area.
pub fn params(kind: StoreKind, capacity_blocks: u64, journal_blocks: u64) -> Params {
    let mut p = Params::new(*b"0123456789abcdef", capacity_blocks * 4096);
    p.kind = kind;
    p.journal = journal_blocks * 4096;
    p.checkpoint = 64 * 4096;
    p.index = 2048 * 4096;
    p
}

/// What fresh buffers of [`arena`] hold: where it shows up, memory of something else has leaked.
pub const POISON: u8 = 0xee;

/// One arena per thread, so that its buffers are used over and over; they start out poisoned.
pub fn arena() -> Arena {
    thread_local!(static ARENA: Arena = poisoned());
    ARENA.with(Arena::clone)
}

fn poisoned() -> Arena {
    let arena = Arena::new(64 << 20);
    let sizes = [4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152, 65536, 98304];
    let mut held: Vec<_> = sizes.into_iter().flat_map(|n| [n, n, n, n]).filter_map(|n| arena.take(n)).collect();
    held.iter_mut().for_each(|buf| buf.fill(POISON));
    drop(held);
    arena
}

/// Everything a store does by itself, all the time: a turn is a millisecond.
pub const BUSY: Background = Background {
    scrub_rate: 256 << 20,
    scrub_pause: 1_000_000,
    compact_rate: 1 << 30,
    punch_after: Some(2_000_000),
    prepare: 64 << 10,
};

/// A store that does nothing by itself.
pub const REST: Background = Background { scrub_rate: 0, scrub_pause: 0, compact_rate: 0, punch_after: None, prepare: 0 };

/// A store on a fresh memory disk.
pub fn fresh(kind: StoreKind, capacity_blocks: u64, journal_blocks: u64) -> (CowStore<MemDisk>, MemDisk) {
    create(&params(kind, capacity_blocks, journal_blocks))
}

/// As [`fresh`].
pub fn create(params: &Params) -> (CowStore<MemDisk>, MemDisk) {
    let disk = MemDisk::new();
    let store = CowStore::create(disk.clone(), params, &arena()).unwrap();
    (store, disk)
}

/// What an update makes of a chunk's bytes.
pub fn apply(old: &[u8], op: &Op, payload: &[u8]) -> Vec<u8> {
    let mut out = old.to_vec();
    out.resize(op.new_len(old.len() as u32) as usize, 0);
    if op.payload_len() > 0 {
        out[op.offset as usize..(op.offset + op.len) as usize].copy_from_slice(payload);
    }
    out
}

/// What a part of a target's address space is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    Superblock,
    Journal,
    Checkpoint,
    Index,
    /// Checksums of data blocks.
    Table,
    Data,
}

impl Region {
    pub const ALL: [Region; 6] =
        [Region::Superblock, Region::Journal, Region::Checkpoint, Region::Index, Region::Table, Region::Data];
}

/// Where a region is, in bytes.
pub fn region(params: &Params, region: Region) -> Range<u64> {
    match region {
        Region::Superblock => 0..params.journal_offset(),
        Region::Journal => params.journal_offset()..params.checkpoint_offset(0),
        Region::Checkpoint => params.checkpoint_offset(0)..params.index_offset(),
        Region::Index => params.index_offset()..params.table_offset(),
        Region::Table => params.table_offset()..params.data_offset(),
        Region::Data => params.data_offset()..params.size(),
    }
}
