//! What is done to the target: the works, what is expected of each, and the calls they are made of.
//!
//! Chunks are numbered, and number `n` belongs to lane `n % depth`: each lane has one call in flight, so that no two
//! updates of a chunk ever are, as in a node.

use bytes::Bytes;
use catena_arena::Arena;
use catena_engine::target_dir::FileStore;
use catena_types::{ChunkKey, ChunkStore, Op, Payload};

use crate::bench::load::{Rng, random_bytes};

/// Part of the target that is overwritten or read: one in this many bytes.
const WORKING_SET: u64 = 8;

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Makes whole chunks.
    New,
    /// Overwrites whole chunks.
    Overwrite,
    /// Overwrites random blocks.
    Update,
    /// Grows chunks to their chunk size, then the next ones.
    Append,
    /// Reads random blocks.
    Read,
    /// Removes chunks, where there are any.
    Remove,
}

/// A kind of call, its size, and what is expected of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Bytes per operation.
    pub(super) size: u32,
    pub(super) chunk_size: u32,
    /// Operations in flight.
    pub(super) depth: u32,
    /// Least operations per second, as a part of the raw disk's.
    pub(super) bar: f64,
    /// Most bytes written to the device per byte of payload.
    pub(super) device_bar: Option<f64>,
}

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;

/// In the order they are run.
pub(super) const WORKS: &[Work] = &[
    whole("new-64k", Kind::New, 64 * KIB, 16, 0.75),
    whole("new-1m", Kind::New, MIB, 8, 0.85),
    whole("new-4m", Kind::New, 4 * MIB, 8, 0.85),
    whole("overwrite-64k", Kind::Overwrite, 64 * KIB, 16, 0.75),
    whole("overwrite-1m", Kind::Overwrite, MIB, 8, 0.85),
    whole("overwrite-4m", Kind::Overwrite, 4 * MIB, 8, 0.85),
    Work { device_bar: Some(2.5), ..part("update-4k", Kind::Update, 4 * KIB, 512 * KIB, 64, 0.6) },
    part("append-64k", Kind::Append, 64 * KIB, MIB, 16, 0.7),
    part("read-4k", Kind::Read, 4 * KIB, MIB, 16, 0.9),
    part("read-64k", Kind::Read, 64 * KIB, MIB, 16, 0.9),
    part("read-1m", Kind::Read, MIB, MIB, 16, 0.9),
];

const fn part(name: &'static str, kind: Kind, size: u32, chunk_size: u32, depth: u32, bar: f64) -> Work {
    Work { name, kind, size, chunk_size, depth, bar, device_bar: None }
}

const fn whole(name: &'static str, kind: Kind, size: u32, depth: u32, bar: f64) -> Work {
    part(name, kind, size, size, depth, bar)
}

impl Work {
    /// Whether chunks must be there before it starts; else it makes them itself, up to most of the target.
    pub(super) fn needs_chunks(&self) -> bool {
        matches!(self.kind, Kind::Overwrite | Kind::Update | Kind::Read)
    }

    /// How many chunks it works on in a target of `capacity` bytes.
    pub(super) fn chunks(&self, capacity: u64) -> u64 {
        let bytes = if self.needs_chunks() { capacity / WORKING_SET } else { capacity / 8 * 7 };
        bytes / u64::from(self.chunk_size)
    }

    /// Smallest target in which every lane has a chunk of its own.
    pub(super) fn least_capacity(&self) -> u64 {
        WORKING_SET * u64::from(self.depth) * u64::from(self.chunk_size)
    }

    /// Makes the first `chunks` chunks of a work whole, many at once.
    pub(super) fn filling(&self) -> Work {
        let depth = (32 * MIB / self.chunk_size).clamp(8, 256);
        Work { kind: Kind::New, size: self.chunk_size, depth, ..*self }
    }

    /// Removes what a work has made.
    pub(super) fn removing(&self) -> Work {
        Work { kind: Kind::Remove, size: 0, depth: 256, ..*self }
    }
}

/// What to ask of the store.
pub(super) enum Call {
    Update { key: ChunkKey, op: Op, payload: Payload<Bytes> },
    Read { key: ChunkKey, offset: u32, len: u32 },
}

/// One call after the other of a work.
pub(super) struct Plan {
    pub(super) work: Work,
    chunks: u64,
    lanes: Vec<Lane>,
}

struct Lane {
    /// Calls made.
    made: u64,
    rng: Rng,
    payload: Payload<Bytes>,
}

impl Plan {
    /// Calls on chunks `0..chunks`. Payloads are in aligned memory with their checksums, as the network leaves them.
    pub(super) fn new(work: Work, chunks: u64, arena: &Arena) -> Plan {
        let len = if work.kind == Kind::Read { 0 } else { work.size };
        let lane = |n: u32| {
            let mut buf = arena.take_or_alloc(len as usize);
            buf.copy_from_slice(&random_bytes(len, n.into()));
            Lane { made: 0, rng: Rng(u64::from(n) + 1), payload: buf.freeze().into() }
        };
        Plan { work, chunks, lanes: (0..work.depth).map(lane).collect() }
    }

    /// From the first chunk again.
    pub(super) fn restart(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.made = 0);
    }

    /// The next call of a lane; `None` when it has no chunks left.
    pub(super) fn next(&mut self, lane: usize, store: &FileStore) -> Option<Call> {
        let (work, first, step) = (self.work, lane as u64, u64::from(self.work.depth));
        let chunks = self.chunks;
        let own = chunks.saturating_sub(first).div_ceil(step);
        let lane = &mut self.lanes[lane];
        let number = |nth: u64| Some(first + nth * step).filter(|&n| n < chunks);
        let calls_per_chunk = u64::from(work.chunk_size / work.size.max(1));
        let made = lane.made;
        lane.made += 1;
        match work.kind {
            Kind::New => Some(lane.write(number(made)?, 0)),
            Kind::Append => {
                let offset = (made % calls_per_chunk) as u32 * work.size;
                Some(lane.write(number(made / calls_per_chunk)?, offset))
            }
            Kind::Overwrite | Kind::Update | Kind::Read => {
                let n = first + step * lane.rng.below((own > 0).then_some(own)?);
                let offset = lane.rng.below(calls_per_chunk) as u32 * work.size;
                match work.kind {
                    Kind::Read => Some(Call::Read { key: key(n), offset, len: work.size }),
                    _ => Some(lane.write(n, offset)),
                }
            }
            Kind::Remove => {
                let there = (made..own).find(|&nth| store.meta(&key(first + nth * step)).is_some())?;
                lane.made = there + 1;
                Some(Call::Update { key: key(number(there)?), op: Op::remove(), payload: Bytes::new().into() })
            }
        }
    }

    /// The lane a key belongs to.
    pub(super) fn lane(&self, key: &ChunkKey) -> usize {
        let number = key.as_bytes().last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        (number % u64::from(self.work.depth)) as usize
    }
}

impl Lane {
    fn write(&self, number: u64, offset: u32) -> Call {
        let op = Op::write(offset, self.payload.len);
        Call::Update { key: key(number), op, payload: self.payload.clone() }
    }
}

/// 16 bytes in no order, as hashed names are; the last 8 are the number.
fn key(number: u64) -> ChunkKey {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&Rng(number).next().to_be_bytes());
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    ChunkKey::new(&bytes).expect("16 bytes are a key")
}
