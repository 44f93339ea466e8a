//! One target: its replica, its disk, and what its node has told it.

use catena_chain::{ClientRead, Command, Config, Event, Replica};
use catena_types::{ChunkKey, Code, TargetId, Time, Ver};

use super::disk::{self, Blocks, Contents, Disk};
use super::rules::Rules;

/// The only time there is: nothing here is decided by a clock. Leases are held or not.
pub(super) const NOW: Time = 1;

/// A target, open or not.
#[derive(Clone, Hash)]
pub(super) struct Target {
    pub(super) id: TargetId,
    /// `None` while its node is down, or while it is being opened anew.
    pub(super) replica: Option<Replica<Blocks>>,
    pub(super) disk: Disk,
    /// Number of the present opening.
    pub(super) opening: u8,
    /// Routing version of the first grant of this opening: nothing older is acted on.
    pub(super) gate: Option<usize>,
    /// Routing version it has.
    pub(super) learned: usize,
    pub(super) leased: bool,
    /// It is the head in the routing it has.
    pub(super) head: bool,
    /// It was told to stop.
    pub(super) stopped: bool,
}

impl Target {
    pub(super) fn new(id: TargetId, off: Rules) -> Target {
        Target {
            id,
            replica: Some(Replica::new(id, config())),
            disk: disk::open(Contents::default(), off),
            opening: 0,
            gate: None,
            learned: 0,
            leased: false,
            head: false,
            stopped: false,
        }
    }

    /// Opens the target with what a crash left.
    pub(super) fn open(&mut self, contents: Contents, off: Rules) {
        let opening = self.opening + 1;
        *self = Target { opening, disk: disk::open(contents, off), ..Target::new(self.id, off) };
    }

    /// Its process is gone, or drops it.
    pub(super) fn close(&mut self) {
        self.replica = None;
        self.disk.crash();
        (self.gate, self.learned, self.leased, self.head, self.stopped) = (None, 0, false, false, false);
    }

    pub(super) fn handle(&mut self, event: Event<Blocks>) -> Vec<Command<Blocks>> {
        let mut out = Vec::new();
        if let Some(replica) = &mut self.replica {
            replica.handle(NOW, event, &mut self.disk, &mut out);
        }
        out
    }

    /// The version that a read of the chunk would give right now, without another word to anybody; `None` if it would
    /// have to ask, or is refused. An absent chunk counts with the version of its removal.
    pub(super) fn reads_now(&mut self, key: &ChunkKey) -> Option<Ver> {
        let mut copy = self.replica.as_ref().filter(|r| r.may_serve(NOW))?.clone();
        let mut out = Vec::new();
        copy.handle(NOW, read(0, copy.chain_ver(), key), &mut self.disk, &mut out);
        match out.as_slice() {
            [Command::ReadReply { reply, .. }] => match &reply.failure {
                None => Some(reply.ver),
                Some(failure) if failure.code() == Code::NotFound => Some(self.disk.memory.floor()),
                Some(_) => None,
            },
            _ => None,
        }
    }

    /// The version that it would name to another member that asks, if it would answer.
    pub(super) fn answers_now(&self, key: &ChunkKey) -> Option<Ver> {
        let answer = self.replica.as_ref()?.would_answer(NOW, key, &self.disk)?;
        Some(if answer == 0 { self.disk.memory.floor() } else { answer })
    }

    /// The oldest of the newest versions that a crash now may leave on its disk.
    pub(super) fn durable(&self, key: &ChunkKey) -> (Ver, Option<catena_types::Tag>) {
        self.disk.after_any_crash().map(|contents| contents.newest(key)).min_by_key(|(ver, _)| *ver).expect("one keeps nothing")
    }
}

/// A read of metadata: it is answered from memory, and says which version it saw.
pub(super) fn read(request: u64, chain_ver: u64, key: &ChunkKey) -> Event<Blocks> {
    Event::Read(ClientRead { request, chain_ver, key: key.clone(), offset: 0, len: 0, relaxed: false, deadline: Time::MAX })
}

/// Pages of one chunk, so that a cursor stands between two.
fn config() -> Config {
    Config { page_chunks: 1, sync_window: 1, session_batch: 8, session_ttl: 0, ..Config::default() }
}
