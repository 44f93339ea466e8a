//! The store of a target, its medium, and how both are driven: the model, or the real engine on a disk in memory.

use bytes::Bytes;
use catena_arena::Arena;
use catena_chain::Replica;
use catena_engine::disk::mem::MemDisk;
use catena_engine::{CowStore, Params};
use catena_types::{ChunkKey, ChunkStore, Code, Done, Time, Ver};

use crate::rng::Rng;
use crate::store::{Contents, ModelStore};

/// What survives the process.
pub(super) enum Medium {
    Model(Contents),
    Cow(MemDisk),
}

/// An open store.
pub(super) enum Store {
    Model(Box<ModelStore>),
    Cow(Box<Cow>),
}

/// The real engine, its operations run one by one in any order.
pub(super) struct Cow {
    store: CowStore<MemDisk>,
    disk: MemDisk,
    rng: Rng,
    mean: Time,
    ready: Vec<Done<Bytes>>,
}

impl Medium {
    /// An empty medium, formatted.
    pub(super) fn format(real: bool, uuid: [u8; 16], journal_blocks: u64) -> Result<Medium, String> {
        if !real {
            return Ok(Medium::Model(Contents::default()));
        }
        let mut params = Params::new(uuid, 512 * 4096);
        params.journal = journal_blocks * 4096;
        params.checkpoint = 64 * 4096;
        let disk = MemDisk::new();
        let store = CowStore::create(disk.clone(), &params, &arena()).map_err(|e| format!("cannot format a target: {e}"))?;
        drop(store);
        Ok(Medium::Cow(disk.fork()))
    }

    /// Opens the store on it.
    pub(super) fn open(&self, mean: Time, rng: Rng) -> Result<Store, String> {
        match self {
            Medium::Model(contents) => Ok(Store::Model(Box::new(ModelStore::open(contents.clone(), mean, rng)))),
            Medium::Cow(disk) => {
                let disk = disk.fork();
                let store =
                    CowStore::open(disk.clone(), &arena()).map_err(|e| format!("cannot open a target after a crash: {e}"))?;
                store.verify().map_err(|e| format!("invariant 10: space is not exact after recovery: {e}"))?;
                disk.set_held(true);
                Ok(Store::Cow(Box::new(Cow { store, disk, rng, mean, ready: Vec::new() })))
            }
        }
    }
}

fn arena() -> Arena {
    Arena::new(64 << 20)
}

impl Store {
    pub(super) fn chunks(&self) -> &dyn ChunkStore<Payload = Bytes> {
        match self {
            Store::Model(store) => store.as_ref(),
            Store::Cow(cow) => &cow.store,
        }
    }

    pub(super) fn chunks_mut(&mut self) -> &mut dyn ChunkStore<Payload = Bytes> {
        match self {
            Store::Model(store) => store.as_mut(),
            Store::Cow(cow) => &mut cow.store,
        }
    }

    /// Starts what was asked for. Returns when to poll.
    pub(super) fn kick(&mut self, now: Time) -> Option<Time> {
        match self {
            Store::Model(store) => store.kick(now),
            Store::Cow(cow) => {
                cow.store.turn(now, &mut cow.ready);
                if !cow.ready.is_empty() {
                    return Some(now);
                }
                if cow.disk.waiting() > 0 {
                    return Some(now + cow.rng.delay(cow.mean / 2));
                }
                cow.store.next_wake()
            }
        }
    }

    /// Takes what has ended.
    pub(super) fn poll(&mut self, now: Time, out: &mut Vec<Done<Bytes>>) {
        match self {
            Store::Model(store) => store.poll(now, out),
            Store::Cow(cow) => {
                let waiting = cow.disk.waiting() as u64;
                for n in 0..cow.rng.below(waiting + 1).max(u64::from(waiting > 0)) {
                    let left = waiting - n;
                    cow.disk.run(cow.rng.below(left) as usize);
                }
                out.append(&mut cow.ready);
                cow.store.turn(now, out);
            }
        }
    }

    /// The medium after a power cut now.
    pub(super) fn crash(&mut self) -> Medium {
        match self {
            Store::Model(store) => Medium::Model(store.crash()),
            Store::Cow(cow) => {
                let rng = &mut cow.rng;
                let odds = rng.below(5);
                Medium::Cow(cow.disk.crash(|_, _| rng.below(4) < odds))
            }
        }
    }

    /// The medium after the process was killed: what the kernel has taken is kept.
    pub(super) fn kill(&mut self) -> Medium {
        match self {
            Store::Model(store) => Medium::Model(store.crash()),
            Store::Cow(cow) => Medium::Cow(cow.disk.fork()),
        }
    }

    /// The medium after a clean end.
    pub(super) fn close(&mut self) -> Medium {
        match self {
            Store::Model(store) => Medium::Model(store.close()),
            Store::Cow(cow) => {
                cow.disk.set_held(false);
                while cow.disk.waiting() > 0 {
                    cow.disk.run(0);
                }
                // A failed target cannot be closed cleanly: what is on the medium stays as it is.
                let _ = cow.store.close(&mut cow.ready);
                Medium::Cow(cow.disk.fork())
            }
        }
    }

    /// While set, nothing that needs space is taken. The engine's own thresholds are its tests' affair.
    pub(super) fn set_full(&mut self, full: Option<Code>) {
        if let Store::Model(store) = self {
            store.full = full;
        }
    }

    pub(super) fn set_corrupt(&mut self, one_in: u64) {
        if let Store::Model(store) = self {
            store.corrupt_one_in = one_in;
        }
    }

    /// The next write or flush fails.
    pub(super) fn fail_next(&mut self) {
        match self {
            Store::Model(store) => store.fail_next = true,
            Store::Cow(cow) => cow.disk.fail_op(cow.disk.ops() + cow.rng.below(4), libc_eio()),
        }
    }

    /// A call that breaks the contract of the store.
    pub(super) fn misuse(&mut self) -> Option<String> {
        match self {
            Store::Model(store) => store.misuse.take(),
            Store::Cow(_) => None,
        }
    }

    /// Whether the disk has failed: an armed error may strike the last look at it.
    pub(super) fn has_failed(&self) -> bool {
        match self {
            Store::Model(_) => false,
            Store::Cow(cow) => cow.store.failure().is_some(),
        }
    }

    /// All bytes of a committed version, for comparison at the end; blocks nothing else.
    pub(super) fn bytes(&mut self, now: Time, key: &ChunkKey, ver: Ver, len: u32) -> Option<Bytes> {
        match self {
            Store::Model(store) => store.bytes(key, ver),
            Store::Cow(cow) => {
                cow.store.read(u64::MAX, key, ver, 0, len);
                // An error armed for one operation may strike here: only what stays unreadable is a finding.
                let mut again = 4;
                for _ in 0..1000 {
                    cow.store.turn(now, &mut cow.ready);
                    let found = cow.ready.iter().position(|d| matches!(d, Done::Read { id: u64::MAX, .. }));
                    if let Some(Done::Read { result, .. }) = found.map(|n| cow.ready.remove(n)) {
                        again -= 1;
                        if result.is_ok() || again == 0 {
                            return result.ok().map(|(bytes, _)| bytes);
                        }
                        cow.store.read(u64::MAX, key, ver, 0, len);
                    }
                    if cow.disk.waiting() > 0 {
                        cow.disk.run(0);
                    }
                }
                None
            }
        }
    }
}

/// The number of EIO on Linux.
fn libc_eio() -> i32 {
    5
}

/// What a version query would be answered by the target.
pub(super) fn would_answer(replica: &Replica<Bytes>, now: Time, key: &ChunkKey, store: &Store) -> Option<Ver> {
    replica.would_answer(now, key, store.chunks())
}
