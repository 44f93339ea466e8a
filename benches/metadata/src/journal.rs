//! The engine: an update without data blocks, staged and committed, through its journal.
//!
//! One thread turns the store as a node's shard does. Of `n` writers, writer `w` updates the chunks whose number is `w`
//! modulo `n`: at most one update of a chunk is in flight.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use catena_arena::Arena;
use catena_engine::Params;
use catena_engine::disk::file::{Backend, Ring};
use catena_engine::target_dir::{FileStore, TargetDir};
use catena_types::limits::BLOCK;
use catena_types::{ChunkKey, ChunkStore, Done, Op, StageRequest, Tag};
use rustix::event::{PollFd, PollFlags, poll};

use crate::tally::{Draw, Meter, Tally, key};
use crate::{Failure, Subject};

/// Updates in flight when the chunks are made.
const FILL: u64 = 256;

/// A target.
pub(crate) struct Journal {
    ring: Ring,
    event: OwnedFd,
    store: FileStore,
    _dir: TargetDir,
    records: u64,
    born: Instant,
    seq: u64,
}

impl Journal {
    /// Makes a target with `records` chunks of one block, none of which has data.
    pub(crate) fn create(dir: &Path, records: u64) -> Result<Journal, Failure> {
        let arena = Arena::new(256 << 20);
        let ring = Ring::new(Backend::Auto, &arena)?;
        let event = ring.event_fd()?;
        let params = Params::new(*b"bench of journal", 8 << 30);
        let (_dir, store) = TargetDir::open_or_create(&dir.join("target"), &params, &ring, &arena)?;
        let mut journal = Journal { ring, event, store, _dir, records, born: Instant::now(), seq: 0 };
        let mut next: Vec<u64> = (0..FILL).collect();
        journal.drive(FILL, |writer, _| {
            let n = next[writer];
            next[writer] += FILL;
            (n < records).then_some(n)
        })?;
        Ok(journal)
    }

    /// Lets `writers` update the chunks that `next` names for them, until it names none. It is told whether the writer's
    /// last update has become durable; else this is its first.
    fn drive(&mut self, writers: u64, mut next: impl FnMut(usize, bool) -> Option<u64>) -> Result<(), Failure> {
        let mut ready: Vec<(usize, bool)> = (0..writers as usize).map(|writer| (writer, false)).collect();
        let (mut in_flight, mut done) = (0, Vec::new());
        loop {
            for (writer, ended) in ready.drain(..) {
                let Some(number) = next(writer, ended) else { continue };
                self.stage(number, writer)?;
                in_flight += 1;
            }
            if in_flight == 0 {
                return Ok(());
            }
            self.store.turn(self.born.elapsed().as_nanos() as u64, &mut done);
            if done.is_empty() {
                self.wait()?;
            }
            for done in done.drain(..) {
                let Done::Staged { key, ver, .. } = done else { return Err(format!("the store says {done:?}").into()) };
                self.store.commit(&key, ver, 1);
                ready.push(((number_of(&key) % writers) as usize, true));
                in_flight -= 1;
            }
        }
    }

    fn stage(&mut self, number: u64, writer: usize) -> Result<(), Failure> {
        let key = ChunkKey::new(&key(number)).ok_or("16 bytes are a key")?;
        let ver = self.store.meta(&key).map_or(0, |meta| meta.commit_ver()) + 1;
        self.seq += 1;
        let tag = Tag { client: 1, channel: writer as u32, seq: self.seq };
        // Makes a chunk that is one hole; later it changes only its version.
        let op = Op::extend(BLOCK);
        let request = StageRequest { key, ver, chain_ver: 1, tag, op, chunk_size: BLOCK, payload: Bytes::new(), payload_crc: 0 };
        self.store.stage(request).map_err(|code| format!("the store refused an update: {code:?}").into())
    }

    fn wait(&mut self) -> Result<(), Failure> {
        if !self.store.busy() {
            return Err("the store has ended everything, but not told of all of it".into());
        }
        match poll(&mut [PollFd::new(&self.event, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => self.ring.clear_event(),
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }
}

impl Subject for Journal {
    fn name(&self) -> String {
        "Catena: stage, and commit with the next".to_owned()
    }

    fn run(&mut self, writers: usize, time: Duration) -> Result<Tally, Failure> {
        let (records, step) = (self.records, writers as u64);
        let mut meter = Meter::start(time)?;
        let mut lanes: Vec<_> = (0..step).map(|n| (Draw(n), Instant::now())).collect();
        self.drive(step, |writer, ended| {
            let (draw, since) = &mut lanes[writer];
            if ended {
                meter.durable(*since);
            }
            *since = Instant::now();
            let own = (records - writer as u64).div_ceil(step);
            (!meter.over()).then(|| writer as u64 + draw.next() % own * step)
        })?;
        meter.finish()
    }
}

fn number_of(key: &ChunkKey) -> u64 {
    key.as_bytes().last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
