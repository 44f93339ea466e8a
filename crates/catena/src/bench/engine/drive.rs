//! A target, driven as a node's shard does it: one thread, one ring, turns until nothing more follows at once, then a wait
//! for the ring's event descriptor. What is staged is committed at once, as the tail of a chain does.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use catena_arena::Arena;
use catena_engine::disk::file::{Backend, Ring};
use catena_engine::target_dir::{FileStore, TargetDir};
use catena_engine::{Params, Stats};
use catena_types::{ChunkStore, Done, StageRequest, Tag};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use super::Stop;
use super::tally::{Meter, Tally};
use super::work::{Call, Plan};
use crate::fault::{Doing, Fault, Result};

/// Longest wait in one go: a signal is noticed after it.
const NAP: Duration = Duration::from_millis(100);

/// A target on a ring of its own.
pub(super) struct Target {
    ring: Ring,
    event: OwnedFd,
    store: FileStore,
    _dir: TargetDir,
    stop: Stop,
    born: Instant,
    /// Number of the last update.
    seq: u64,
    done: Vec<Done<Bytes>>,
}

/// A round of a work on the engine.
pub(super) struct Measured {
    pub(super) tally: Tally,
    pub(super) before: Stats,
    pub(super) after: Stats,
}

impl Target {
    /// Opens the target in `dir`, or makes it.
    pub(super) fn open(dir: &Path, params: &Params, arena: &Arena, stop: &Stop) -> Result<Target> {
        let ring = Ring::new(Backend::Auto, arena).doing("start the disk's ring")?;
        let event = ring.event_fd().doing("watch the disk's ring")?;
        let opened = TargetDir::open_or_create(dir, params, &ring, arena);
        let (_dir, store) = opened.map_err(|e| Fault::new(e.to_string()))?;
        Ok(Target { ring, event, store, _dir, stop: stop.clone(), born: Instant::now(), seq: 0, done: Vec::new() })
    }

    /// What runs the disk's operations.
    pub(super) fn backend(&self) -> Backend {
        self.ring.backend()
    }

    /// Measures a plan for `time`, or until it has no more calls.
    pub(super) fn measure(&mut self, plan: &mut Plan, time: Duration) -> Result<Measured> {
        let before = self.store.stats();
        let mut meter = Meter::start(time);
        self.run(plan, Some(&mut meter))?;
        Ok(Measured { tally: meter.finish()?, before, after: self.store.stats() })
    }

    /// Does a plan to its end.
    pub(super) fn complete(&mut self, plan: &mut Plan) -> Result<()> {
        self.run(plan, None)
    }

    /// Closes it, so that the next open has nothing to replay.
    pub(super) fn close(mut self) -> Result<()> {
        self.store.close(&mut Vec::new()).map_err(|e| Fault::new(e.to_string()))
    }

    fn run(&mut self, plan: &mut Plan, mut meter: Option<&mut Meter>) -> Result<()> {
        let depth = plan.work.depth as usize;
        let mut since = vec![Instant::now(); depth];
        let mut idle: Vec<usize> = (0..depth).collect();
        let mut in_flight = 0;
        let mut done = std::mem::take(&mut self.done);
        loop {
            let mut now = Instant::now();
            if meter.as_ref().is_some_and(|meter| meter.over(now)) {
                idle.clear();
            }
            for lane in idle.drain(..) {
                let Some(call) = plan.next(lane, &self.store) else { continue };
                since[lane] = Instant::now();
                self.start(lane, call, plan)?;
                in_flight += 1;
            }
            self.store.turn(self.now(), &mut done);
            if done.is_empty() {
                if in_flight == 0 {
                    break;
                }
                self.wait()?;
                continue;
            }
            now = Instant::now();
            for done in done.drain(..) {
                let Some(lane) = self.ended(done, plan)? else { continue };
                in_flight -= 1;
                idle.push(lane);
                if let Some(meter) = &mut meter {
                    meter.ended(since[lane], now);
                }
            }
        }
        self.done = done;
        self.settle()
    }

    fn start(&mut self, lane: usize, call: Call, plan: &Plan) -> Result<()> {
        match call {
            Call::Read { key, offset, len } => {
                let ver = self.store.meta(&key).map_or(0, |meta| meta.commit_ver());
                self.store.read(lane as u64, &key, ver, offset, len);
                Ok(())
            }
            Call::Update { key, op, payload } => {
                self.seq += 1;
                let absent = self.store.remove_floor();
                let base = self.store.meta(&key).and_then(|meta| meta.committed).map_or(absent, |c| c.ver);
                let tag = Tag { client: 1, channel: lane as u32, seq: self.seq };
                let chunk_size = plan.work.chunk_size;
                let request = StageRequest { key, ver: base + 1, chain_ver: 1, tag, op, chunk_size, payload };
                let staged = self.store.stage(request);
                staged.map_err(|code| Fault::new(format!("{} was refused by the store: {code:?}", plan.work.name)))
            }
        }
    }

    /// The lane whose call has ended.
    fn ended(&mut self, done: Done<Bytes>, plan: &Plan) -> Result<Option<usize>> {
        match done {
            Done::Staged { key, ver, .. } => {
                self.store.commit(&key, ver, 1);
                Ok(Some(plan.lane(&key)))
            }
            Done::Read { id, result: Ok(_) } => Ok(Some(id as usize)),
            Done::Read { result: Err(code), .. } => Err(Fault::new(format!("a chunk could not be read: {code:?}"))),
            Done::Failed { reason } => Err(Fault::new(reason)),
            Done::StageFailed { code, .. } => Err(Fault::new(format!("an update could not be staged: {code:?}"))),
            Done::Damaged { key, ver } => Err(Fault::new(format!("chunk {key} version {ver} is damaged"))),
            Done::Synced { .. } | Done::NotPatched { .. } | Done::Sums { .. } | Done::Unstaged { .. } => Ok(None),
        }
    }

    /// Makes the last commits durable, so that the blocks they free can be used again.
    fn settle(&mut self) -> Result<()> {
        self.store.sync(0);
        let mut done = Vec::new();
        loop {
            self.store.turn(self.now(), &mut done);
            if let Some(Done::Failed { reason }) = done.drain(..).find(|d| matches!(d, Done::Failed { .. })) {
                return Err(Fault::new(reason));
            }
            if !self.store.busy() {
                return Ok(());
            }
            self.wait()?;
        }
    }

    /// Waits until an operation of the disk has completed, or records have waited long enough for company.
    fn wait(&mut self) -> Result<()> {
        let wake = self.store.next_wake().map(|at| Duration::from_nanos(at.saturating_sub(self.now())));
        if wake.is_none() && !self.store.busy() {
            return Err(Fault::new("the store has ended everything, but not told of all of it"));
        }
        let nap = Timespec::try_from(wake.unwrap_or(NAP).min(NAP)).doing("wait for the disk")?;
        match poll(&mut [PollFd::new(&self.event, PollFlags::IN)], Some(&nap)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Fault::new(format!("cannot wait for the disk: {e}"))),
        }
        self.ring.clear_event();
        self.stop.check()
    }

    fn now(&self) -> u64 {
        self.born.elapsed().as_nanos() as u64
    }
}
