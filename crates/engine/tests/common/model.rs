//! A plain model of a store.
//!
//! For every chunk, and for sessions and remove floor together, it keeps the list of their states, one per change, and how
//! far this list is known durable: what a reopened store shows must be one of the states from there on.

use std::collections::BTreeMap;
use std::rc::Rc;

use catena_engine::{CowStore, Disk};
use catena_types::crc::crc32c;
use catena_types::*;

#[derive(Clone, PartialEq, Eq)]
pub struct StagedState {
    pub ver: Ver,
    pub chain_ver: ChainVer,
    pub tag: Tag,
    pub remove: bool,
    pub content: Rc<Vec<u8>>,
}

impl StagedState {
    pub fn checksum(&self) -> u32 {
        if self.remove { 0 } else { crc32c(&self.content) }
    }
}

/// One chunk; the default is that there is none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ChunkState {
    pub chunk_size: u32,
    pub committed: Option<(Committed, Rc<Vec<u8>>)>,
    pub staged: Option<StagedState>,
}

impl ChunkState {
    /// With the chunk size forgotten if nothing is there.
    pub fn new(chunk_size: u32, committed: Option<(Committed, Rc<Vec<u8>>)>, staged: Option<StagedState>) -> ChunkState {
        let there = committed.is_some() || staged.is_some();
        ChunkState { chunk_size: if there { chunk_size } else { 0 }, committed, staged }
    }

    pub fn bytes(&self) -> &[u8] {
        self.committed.as_ref().map_or(&[][..], |(_, b)| &b[..])
    }

    /// The versions that can be read, with their bytes.
    pub fn contents(&self) -> impl Iterator<Item = (Ver, Rc<Vec<u8>>)> {
        let committed = self.committed.iter().map(|(c, b)| (c.ver, b.clone()));
        committed.chain(self.staged.iter().filter(|s| !s.remove).map(|s| (s.ver, s.content.clone())))
    }

    /// Whether a store that shows `found`, in which these versions cannot be read, holds this.
    pub fn shows_as(&self, found: &ChunkState, unreadable: &[Ver]) -> bool {
        let bytes = |ver, mine: &Rc<Vec<u8>>, theirs: &Rc<Vec<u8>>| unreadable.contains(&ver) || mine == theirs;
        let committed = match (&self.committed, &found.committed) {
            (Some((c, b)), Some((d, e))) => c == d && bytes(c.ver, b, e),
            (None, None) => true,
            _ => false,
        };
        let staged = match (&self.staged, &found.staged) {
            (Some(s), Some(t)) => {
                (s.ver, s.chain_ver, s.tag, s.remove) == (t.ver, t.chain_ver, t.tag, t.remove)
                    && bytes(s.ver, &s.content, &t.content)
            }
            (None, None) => true,
            _ => false,
        };
        committed && staged && self.chunk_size == found.chunk_size
    }

    /// For messages: what is not the same in `other`.
    pub fn differs_in(&self, other: &ChunkState) -> Vec<String> {
        let mut out = Vec::new();
        let mut bytes = |what: &str, a: &[u8], b: &[u8]| {
            if a != b {
                let at = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
                out.push(format!("{what}: {} and {} bytes, different from {at} on", a.len(), b.len()));
            }
        };
        bytes("committed", self.bytes(), other.bytes());
        let staged = |s: &ChunkState| s.staged.as_ref().map_or(Vec::new(), |s| s.content.to_vec());
        bytes("staged", &staged(self), &staged(other));
        let committed = |s: &ChunkState| s.committed.as_ref().map(|(c, _)| *c);
        if committed(self) != committed(other) {
            out.push(format!("{:?} and {:?}", committed(self), committed(other)));
        }
        let staged = |s: &ChunkState| s.staged.as_ref().map(|s| (s.ver, s.chain_ver, s.tag, s.remove));
        if staged(self) != staged(other) {
            out.push(format!("{:?} and {:?}", staged(self), staged(other)));
        }
        if self.chunk_size != other.chunk_size {
            out.push(format!("chunk size {} and {}", self.chunk_size, other.chunk_size));
        }
        out
    }

    /// For messages.
    pub fn versions(&self) -> String {
        let staged = self.staged.as_ref().map(|s| (s.ver, s.remove));
        format!("committed {:?}, staged {staged:?}", self.committed.as_ref().map(|(c, _)| (c.ver, c.len)))
    }
}

/// Sessions and remove floor.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct SmallState {
    pub sessions: BTreeMap<SessionId, SessionRow>,
    pub floor: Ver,
}

impl SmallState {
    pub fn of<D: Disk>(store: &CowStore<D>) -> SmallState {
        SmallState { sessions: store.sessions(None, usize::MAX).into_iter().collect(), floor: store.remove_floor() }
    }

    /// Merges a row: an equal `seq` is replaced by the commit it belongs to, not by a row from elsewhere.
    pub fn merge(&mut self, id: SessionId, row: SessionRow, own: bool) {
        let held = self.sessions.entry(id).or_insert(row);
        if row.seq > held.seq || own && row.seq == held.seq {
            *held = row;
        }
    }
}

/// The states of one thing, in order, numbered from 0.
#[derive(Clone)]
pub struct History<T> {
    states: Vec<T>,
    /// Number of the first state that is still held.
    base: usize,
    /// The first state that can still be found after a crash.
    pub lower: usize,
}

impl<T: Clone + Default> Default for History<T> {
    fn default() -> Self {
        History::starting_with(T::default())
    }
}

impl<T: Clone> History<T> {
    pub fn starting_with(state: T) -> Self {
        History { states: vec![state], base: 0, lower: 0 }
    }
    pub fn now(&self) -> &T {
        self.states.last().unwrap()
    }
    /// Number of the last state.
    pub fn at(&self) -> usize {
        self.base + self.states.len() - 1
    }
    /// Adds a state and gives its number.
    pub fn push(&mut self, state: T) -> usize {
        self.states.push(state);
        self.at()
    }
    /// All states held.
    pub fn all(&self) -> &[T] {
        &self.states
    }
    /// States from number `from` on.
    pub fn since(&self, from: usize) -> &[T] {
        &self.states[from.max(self.base) - self.base..]
    }
    /// States that can still be found after a crash.
    pub fn possible(&self) -> &[T] {
        &self.states[self.lower - self.base..]
    }
    /// Forgets states that cannot be found any more.
    pub fn prune(&mut self) {
        self.states.drain(..self.lower - self.base);
        self.base = self.lower;
    }
}

/// Reads everything back.
pub fn read_all<D: Disk>(store: &mut CowStore<D>) -> BTreeMap<ChunkKey, ChunkState> {
    let (found, corrupt) = read_what_can_be(store);
    assert!(corrupt.is_empty(), "cannot be read: {corrupt:?}");
    found
}

/// Reads everything back; chunks of which a version cannot be read are given too. Their bytes are empty then.
pub fn read_what_can_be<D: Disk>(store: &mut CowStore<D>) -> (BTreeMap<ChunkKey, ChunkState>, Vec<(ChunkKey, Ver)>) {
    let mut wanted = Vec::new();
    let mut found: BTreeMap<ChunkKey, ChunkState> = BTreeMap::new();
    for (key, meta) in store.scan(b"", usize::MAX) {
        let state = found.entry(key.clone()).or_default();
        state.chunk_size = meta.chunk_size;
        if let Some(c) = meta.committed {
            state.committed = Some((c, Rc::default()));
            wanted.push((key.clone(), c.ver, c.len, c.checksum, false));
        }
        if let Some(s) = meta.staged {
            assert!(s.durable, "what a reopened store shows is durable");
            let (ver, chain_ver, tag, remove) = (s.ver, s.chain_ver, s.tag, s.remove);
            state.staged = Some(StagedState { ver, chain_ver, tag, remove, content: Rc::default() });
            if !remove {
                wanted.push((key.clone(), s.ver, s.len, s.checksum, true));
            }
        }
    }
    for (id, (key, ver, ..)) in wanted.iter().enumerate() {
        store.read(id as u64, key, *ver, 0, u32::MAX);
    }
    let mut done = Vec::new();
    while store.busy() {
        store.turn(0, &mut done);
        store.wait();
    }
    // A damaged chunk is reported besides.
    done.retain(|d| !matches!(d, Done::Damaged { .. }));
    assert_eq!(done.len(), wanted.len());
    let mut corrupt = Vec::new();
    for d in done {
        let Done::Read { id, result } = d else { panic!("{d:?}") };
        let (key, ver, len, checksum, staged) = &wanted[id as usize];
        let (bytes, crc) = match result {
            Ok(read) => read,
            Err(code) => {
                assert_eq!(code, Code::Corrupt, "{key} version {ver}");
                corrupt.push((key.clone(), *ver));
                continue;
            }
        };
        assert_eq!((bytes.len() as u32, crc, crc), (*len, *checksum, crc32c(&bytes)), "{key} version {ver}");
        let state = found.get_mut(key).unwrap();
        let content = Rc::new(bytes.to_vec());
        match (&mut state.staged, &mut state.committed) {
            (Some(s), _) if *staged => s.content = content,
            (_, Some((_, held))) => *held = content,
            _ => unreachable!("only what is held is read"),
        }
    }
    (found, corrupt)
}
