//! The store of a target, its medium, and how both are driven: the model, or the real engine on a disk in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use catena_arena::Arena;
use catena_chain::Replica;
use catena_engine::disk::mem::MemDisk;
use catena_engine::{Background, CowStore, Params, ScrubStatus, StoreKind};
use catena_types::{ChunkKey, ChunkMeta, ChunkStore, Code, Done, Tag, Time, Ver};

use super::plan::Plan;
use super::rot::Rot;
use crate::rng::Rng;
use crate::store::{Contents, ModelStore};

/// What survives the process.
pub(super) enum Medium {
    Model(Contents<Bytes>),
    Real(Disk),
}

/// A disk in memory, where its data blocks start, and the buffers its stores work with.
pub(super) struct Disk {
    disk: MemDisk,
    data: u64,
    arena: Arena,
}

/// What a crash has left of each chunk: the newest version that is durable, committed or not.
pub(super) struct Left {
    chunks: BTreeMap<ChunkKey, Ver>,
    floor: Ver,
    /// Every version on a real disk, with its bytes if they are good.
    pub(super) bytes: Vec<(ChunkKey, (Ver, Tag), Option<Bytes>)>,
}

impl Left {
    /// Newest version of a chunk; of one that is gone, the highest that was removed.
    pub(super) fn newest(&self, key: &ChunkKey) -> Ver {
        self.chunks.get(key).copied().unwrap_or(self.floor)
    }
}

/// An open store.
pub(super) enum Store {
    Model(Box<ModelStore>),
    Real(Box<Real>),
}

/// The real engine, its operations run one by one in any order.
pub(super) struct Real {
    store: CowStore<MemDisk>,
    disk: MemDisk,
    arena: Arena,
    rng: Rng,
    mean: Time,
    ready: Vec<Done<Bytes>>,
    /// Calls that broke the contract, as far as they have been reported.
    misuse: u64,
    scrub: Seen,
}

/// What has been seen of a scrub.
#[derive(Default)]
struct Seen {
    /// Damaged chunks it has found in its present pass.
    bad: u64,
    /// Those of all passes that have not been reported.
    unreported: u64,
    passes: u64,
    /// What the last two passes that ended found, the newest first, since the faults stopped.
    last: [Option<u64>; 2],
}

impl Medium {
    /// An empty medium, formatted.
    pub(super) fn format(kind: Option<StoreKind>, uuid: [u8; 16], plan: &Plan, arena: &Arena) -> Result<Medium, String> {
        let Some(kind) = kind else { return Ok(Medium::Model(Contents::default())) };
        let mut params = Params::new(uuid, plan.data_blocks * 4096);
        params.kind = kind;
        params.journal = plan.journal_blocks * 4096;
        params.checkpoint = 64 * 4096;
        let disk = MemDisk::new();
        let store = CowStore::create(disk.clone(), &params, arena).map_err(|e| format!("cannot format a target: {e}"))?;
        drop(store);
        Ok(Medium::Real(Disk { disk, data: params.data_offset(), arena: arena.clone() }))
    }

    /// Its disk, if there is one.
    pub(super) fn disk(&self) -> Option<&Disk> {
        match self {
            Medium::Model(_) => None,
            Medium::Real(disk) => Some(disk),
        }
    }

    /// It rots, while closed; gives how many places.
    pub(super) fn rot(&mut self, rot: &mut Rot, one_in: u64, rng: &mut Rng) -> u64 {
        match self {
            Medium::Model(contents) => contents.rot(one_in, rng).len() as u64,
            Medium::Real(Disk { disk, data, .. }) => rot.strike(disk, *data, one_in, rng),
        }
    }

    /// It never rotted. Says whether it had.
    pub(super) fn take_back(&mut self, rot: &Rot) -> bool {
        match self {
            Medium::Model(contents) => contents.heal(),
            Medium::Real(Disk { disk, .. }) => rot.take_back(disk),
        }
    }

    /// What is on it, rot apart: a copy is opened and looked at.
    pub(super) fn look(&self, rot: &Rot) -> Result<Left, String> {
        let copy = match self {
            Medium::Model(contents) => Medium::Model(contents.clone()),
            Medium::Real(disk) => Medium::Real(disk.without(rot)),
        };
        let mut store = copy.open(1, Rng::new(0))?;
        let (chunks, floor) = (store.chunks().scan(b"", 1000), store.chunks().remove_floor());
        let newest = |meta: ChunkMeta| {
            let committed = meta.committed.map_or(floor, |c| c.ver);
            committed.max(meta.staged.filter(|s| s.durable).map_or(0, |s| s.ver))
        };
        let mut bytes = Vec::new();
        if let Store::Real(_) = &store {
            for (key, meta) in &chunks {
                let staged = meta.staged.filter(|s| s.durable && !s.remove).map(|s| (s.ver, s.tag, s.len));
                for (ver, tag, len) in meta.committed.map(|c| (c.ver, c.tag, c.len)).into_iter().chain(staged) {
                    bytes.push((key.clone(), (ver, tag), store.bytes(1, key, ver, len)));
                }
            }
        }
        Ok(Left { chunks: chunks.into_iter().map(|(key, meta)| (key, newest(meta))).collect(), floor, bytes })
    }

    /// Opens the store on it.
    pub(super) fn open(&self, mean: Time, rng: Rng) -> Result<Store, String> {
        match self {
            Medium::Model(contents) => Ok(Store::Model(Box::new(ModelStore::open(contents.clone(), mean, rng)))),
            Medium::Real(Disk { disk, arena, .. }) => {
                let (disk, arena) = (disk.fork(), arena.clone());
                let store =
                    CowStore::open(disk.clone(), &arena).map_err(|e| format!("cannot open a target after a crash: {e}"))?;
                store.verify().map_err(|e| format!("invariant 10: space is not exact after recovery: {e}"))?;
                disk.set_held(true);
                let mut real = Real { store, disk, arena, rng, mean, ready: Vec::new(), misuse: 0, scrub: Seen::default() };
                real.look();
                real.scrub.unreported = 0;
                Ok(Store::Real(Box::new(real)))
            }
        }
    }
}

impl Disk {
    /// A copy on which nothing has rotted.
    pub(super) fn without(&self, rot: &Rot) -> Disk {
        let disk = self.disk.fork();
        rot.take_back(&disk);
        Disk { disk, data: self.data, arena: self.arena.clone() }
    }

    /// Records that opening it drops from the end of its journal; `None` if it cannot be opened.
    pub(super) fn dropped_at_open(&self) -> Option<u64> {
        CowStore::open(self.disk.fork(), &self.arena).ok().map(|store| store.recovery().dropped)
    }
}

impl Store {
    pub(super) fn chunks(&self) -> &dyn ChunkStore<Payload = Bytes> {
        match self {
            Store::Model(model) => &model.store,
            Store::Real(real) => &real.store,
        }
    }

    pub(super) fn chunks_mut(&mut self) -> &mut dyn ChunkStore<Payload = Bytes> {
        match self {
            Store::Model(model) => &mut model.store,
            Store::Real(real) => &mut real.store,
        }
    }

    /// Starts what was asked for. Returns when to poll.
    pub(super) fn kick(&mut self, now: Time) -> Option<Time> {
        match self {
            Store::Model(store) => store.kick(now),
            Store::Real(real) => {
                real.store.turn(now, &mut real.ready);
                real.look();
                if !real.ready.is_empty() {
                    return Some(now);
                }
                if real.disk.waiting() > 0 {
                    return Some(now + real.rng.delay(real.mean / 2));
                }
                [real.store.next_wake(), real.store.background_wake()].into_iter().flatten().min()
            }
        }
    }

    /// Takes what has ended.
    pub(super) fn poll(&mut self, now: Time, out: &mut Vec<Done<Bytes>>) {
        match self {
            Store::Model(store) => store.poll(now, out),
            Store::Real(real) => {
                let waiting = real.disk.waiting() as u64;
                for n in 0..real.rng.below(waiting + 1).max(u64::from(waiting > 0)) {
                    let left = waiting - n;
                    real.disk.run(real.rng.below(left) as usize);
                }
                out.append(&mut real.ready);
                real.store.turn(now, out);
                real.look();
            }
        }
    }

    /// The medium after a power cut now.
    pub(super) fn crash(&mut self) -> Medium {
        match self {
            Store::Model(store) => Medium::Model(store.crash()),
            Store::Real(real) => {
                let rng = &mut real.rng;
                let odds = rng.below(5);
                let disk = real.disk.crash(|_, _| rng.below(4) < odds);
                Medium::Real(real.with(disk))
            }
        }
    }

    /// What would be left after the worst power cut now: nothing that no flush has covered.
    pub(super) fn worst(&self) -> Medium {
        match self {
            Store::Model(store) => Medium::Model(store.durable()),
            Store::Real(real) => Medium::Real(real.with(real.disk.crash(|_, _| false))),
        }
    }

    /// The medium after the process was killed: what the kernel has taken is kept.
    pub(super) fn kill(&mut self) -> Medium {
        match self {
            Store::Model(store) => Medium::Model(store.crash()),
            Store::Real(real) => Medium::Real(real.medium()),
        }
    }

    /// The medium after a clean end.
    pub(super) fn close(&mut self) -> Medium {
        match self {
            Store::Model(store) => Medium::Model(store.close()),
            Store::Real(real) => {
                real.disk.set_held(false);
                while real.disk.waiting() > 0 {
                    real.disk.run(0);
                }
                // A failed target cannot be closed cleanly: what is on the medium stays as it is.
                let _ = real.store.close(&mut real.ready);
                Medium::Real(real.medium())
            }
        }
    }

    /// While set, one of so many requests that need space finds none. The engine's own thresholds are its tests' affair.
    pub(super) fn set_full(&mut self, full: Option<Code>, one_in: u64) {
        if let Store::Model(model) = self {
            let chance = &mut model.store.whims;
            (chance.full, chance.full_one_in) = (full, one_in);
        }
    }

    pub(super) fn set_corrupt(&mut self, one_in: u64) {
        if let Store::Model(model) = self {
            model.store.whims.corrupt_one_in = one_in;
        }
    }

    /// One of the next operations fails; of the model, the next write or flush.
    pub(super) fn fail_next(&mut self) {
        match self {
            Store::Model(store) => store.fail_next = true,
            Store::Real(real) => real.disk.fail_op(real.disk.ops() + real.rng.below(4), libc_eio()),
        }
    }

    /// A call that breaks the contract of the store.
    pub(super) fn misuse(&mut self) -> Option<String> {
        match self {
            Store::Model(model) => model.store.misuse.take(),
            Store::Real(real) => {
                let before = std::mem::replace(&mut real.misuse, real.store.stats().misuse);
                (before != real.misuse).then(|| "the engine has counted it".to_owned())
            }
        }
    }

    /// What is to be done beside; `last` when the faults have stopped.
    pub(super) fn set_background(&mut self, background: Background, last: bool) {
        match self {
            Store::Model(store) => store.set_scrub((background.scrub_rate > 0).then_some(background.scrub_pause)),
            Store::Real(real) => {
                real.store.set_background(background);
                if last {
                    real.scrub.last = [None; 2];
                }
            }
        }
    }

    /// Damaged chunks the scrub has found since the last call.
    pub(super) fn take_bad(&mut self) -> u64 {
        match self {
            Store::Model(store) => store.take_found(),
            Store::Real(real) => std::mem::take(&mut real.scrub.unreported),
        }
    }

    /// How the scrub stands, unless a whole pass that began after the faults had stopped has found no more than `lost` chunks.
    pub(super) fn not_scrubbed(&self, lost: u64) -> Option<ScrubStatus> {
        let real = match self {
            Store::Model(store) => return (store.rotten() > lost).then(ScrubStatus::default),
            Store::Real(real) => real,
        };
        // The first of the two may have begun before.
        let clean = real.scrub.last.iter().all(|bad| bad.is_some_and(|bad| bad <= lost));
        (!clean && !real.store.scan(b"", 1).is_empty()).then(|| real.store.scrub_status())
    }

    /// Its disk rots; gives how many places.
    pub(super) fn rot(&mut self, rot: &mut Rot, one_in: u64, rng: &mut Rng) -> u64 {
        match self {
            Store::Model(store) => store.rot(one_in, rng),
            Store::Real(real) => rot.strike(&real.disk, real.store.params().data_offset(), one_in, rng),
        }
    }

    /// It never rotted. Says whether it had.
    pub(super) fn take_back(&mut self, rot: &Rot) -> bool {
        match self {
            Store::Model(store) => store.heal(),
            Store::Real(real) => rot.take_back(&real.disk),
        }
    }

    /// Reads that its disk has failed since it was opened: an error armed by [`Store::fail_next`] strikes whatever comes.
    pub(super) fn read_errors(&self) -> u64 {
        match self {
            Store::Model(_) => 0,
            Store::Real(real) => real.store.stats().read_errors,
        }
    }

    /// Whether the disk has failed: an armed error may strike the last look at it.
    pub(super) fn has_failed(&self) -> bool {
        match self {
            Store::Model(_) => false,
            Store::Real(real) => real.store.failure().is_some(),
        }
    }

    /// All bytes of a committed version, for comparison at the end; blocks nothing else.
    pub(super) fn bytes(&mut self, now: Time, key: &ChunkKey, ver: Ver, len: u32) -> Option<Bytes> {
        match self {
            Store::Model(model) => model.store.bytes(key, ver),
            Store::Real(real) => {
                real.store.read(u64::MAX, key, ver, 0, len);
                // An error armed for one operation may strike here: only what stays unreadable is a finding.
                let mut again = 4;
                for _ in 0..1000 {
                    real.store.turn(now, &mut real.ready);
                    let found = real.ready.iter().position(|d| matches!(d, Done::Read { id: u64::MAX, .. }));
                    if let Some(Done::Read { result, .. }) = found.map(|n| real.ready.remove(n)) {
                        again -= 1;
                        if result.is_ok() || again == 0 {
                            return result.ok().map(|(bytes, _)| bytes);
                        }
                        real.store.read(u64::MAX, key, ver, 0, len);
                    }
                    if real.disk.waiting() > 0 {
                        real.disk.run(0);
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

impl Real {
    /// Looks at the scrub, after a turn: a pass that has just ended still shows what it found.
    fn look(&mut self) {
        let status = self.store.scrub_status();
        let seen = &mut self.scrub;
        seen.unreported += status.bad.saturating_sub(seen.bad);
        seen.bad = status.bad;
        if status.passes != seen.passes {
            seen.passes = status.passes;
            seen.last = [Some(status.bad), seen.last[0]];
        }
    }

    fn medium(&self) -> Disk {
        self.with(self.disk.fork())
    }

    fn with(&self, disk: MemDisk) -> Disk {
        Disk { disk, data: self.store.params().data_offset(), arena: self.arena.clone() }
    }
}

/// What a version query would be answered by the target.
pub(super) fn would_answer(replica: &Replica<Bytes>, now: Time, key: &ChunkKey, store: &Store) -> Option<Ver> {
    replica.would_answer(now, key, store.chunks())
}
