//! The search for an order: Wing and Gong, with Lowe's memoization.
//!
//! Events lie in a doubly linked list in time order; the operations that may come next are those whose invocation
//! stands before the first return. An observation that fits is taken at once (it changes nothing, so taking it early
//! never hurts). A known version leaves one candidate, so that only updates of unknown version branch.

use std::collections::{BTreeMap, BTreeSet};

use catena_types::Ver;

use super::Seen;
use super::model::{Effect, Item, State, Undo};

/// Steps after which the search gives up: some seconds of work.
const MAX_STEPS: u64 = 2_000_000;

/// How the search ended.
#[derive(Debug)]
pub(super) enum Verdict {
    /// An order was found.
    Linearizable { steps: u64 },
    /// There is none; how far the longest attempt came.
    Stuck(Stuck),
    /// Not decided.
    TooHard { steps: u64 },
}

/// Where the longest attempt ended.
#[derive(Debug, Default)]
pub(super) struct Stuck {
    /// Indexes of the operations that could have come next.
    pub(super) window: Vec<usize>,
    /// Index of the operation that had to come next.
    pub(super) blocker: usize,
    /// The chunk there: exists, version, exact, length.
    pub(super) state: (bool, Ver, bool, usize),
    /// Indexes of the last operations placed, newest last.
    pub(super) placed: Vec<usize>,
}

/// Looks for an order of `items` (all of one chunk).
pub(super) fn run(items: &[Item]) -> Verdict {
    Search::new(items).run()
}

/// A decision: what was placed, and what else could have been.
struct Frame {
    absorbed: Vec<usize>,
    candidates: Vec<usize>,
    tried: usize,
    placed: Option<(usize, Undo)>,
}

struct Search<'a> {
    items: &'a [Item],
    /// Entry `1 + 2i`: invocation of item i, `2 + 2i`: its return; 0 is both ends of the list.
    next: Vec<u32>,
    prev: Vec<u32>,
    state: State,
    /// Updates of known version, by version; those before `known_at` are placed.
    known: Vec<(Ver, usize)>,
    known_at: usize,
    /// What was ever said of a version.
    expect: BTreeMap<Ver, Seen>,
    required_left: usize,
    fingerprint: u128,
    memo: BTreeSet<(u128, u64)>,
    steps: u64,
    best_left: usize,
    stuck: Stuck,
}

impl<'a> Search<'a> {
    fn new(items: &'a [Item]) -> Search<'a> {
        let mut events: Vec<(u64, bool, u32)> = Vec::with_capacity(items.len() * 2);
        for (i, item) in items.iter().enumerate() {
            events.push((item.begin, false, 1 + 2 * i as u32));
            if item.required() {
                events.push((item.end, true, 2 + 2 * i as u32));
            }
        }
        // At one moment, invocations come first: operations that touch are concurrent.
        events.sort_unstable();
        let (mut next, mut prev) = (vec![0; items.len() * 2 + 1], vec![0; items.len() * 2 + 1]);
        let mut last = 0u32;
        for &(_, _, entry) in &events {
            next[last as usize] = entry;
            prev[entry as usize] = last;
            last = entry;
        }
        next[last as usize] = 0;
        prev[0] = last;
        let mut known: Vec<(Ver, usize)> = items.iter().enumerate().filter_map(|(i, it)| Some((it.made()?, i))).collect();
        known.sort_unstable();
        let mut expect: BTreeMap<Ver, Seen> = BTreeMap::new();
        for item in items {
            let (Some(ver), seen) = (item.version(), item.seen()) else { continue };
            let entry = expect.entry(ver).or_default();
            entry.len = entry.len.or(seen.len);
            entry.checksum = entry.checksum.or(seen.checksum);
        }
        let required_left = items.iter().filter(|i| i.required()).count();
        Search {
            items,
            next,
            prev,
            state: State::default(),
            known,
            known_at: 0,
            expect,
            required_left,
            fingerprint: 0,
            memo: BTreeSet::new(),
            steps: 0,
            best_left: usize::MAX,
            stuck: Stuck::default(),
        }
    }

    fn run(mut self) -> Verdict {
        let mut stack: Vec<Frame> = Vec::new();
        loop {
            let absorbed = self.absorb();
            if self.required_left == 0 {
                return Verdict::Linearizable { steps: self.steps };
            }
            if self.steps > MAX_STEPS {
                return Verdict::TooHard { steps: self.steps };
            }
            let mut candidates = self.candidates();
            self.remember_best(&stack, &absorbed);
            if candidates.len() > 1 && !self.first_visit() {
                candidates.clear();
            }
            stack.push(Frame { absorbed, candidates, tried: 0, placed: None });
            if !self.advance(&mut stack) {
                return Verdict::Stuck(self.stuck);
            }
        }
    }

    /// Places the next candidate of the newest decision that has one left; false if none has.
    fn advance(&mut self, stack: &mut Vec<Frame>) -> bool {
        while let Some(frame) = stack.last_mut() {
            if let Some((item, undo)) = frame.placed.take() {
                self.state.undo(undo);
                self.put_back(item);
            }
            if let Some(&item) = frame.candidates.get(frame.tried) {
                frame.tried += 1;
                if let Some(undo) = self.place(item) {
                    frame.placed = Some((item, undo));
                    return true;
                }
            } else {
                let frame = stack.pop().expect("the stack was just seen to hold a frame");
                for &item in frame.absorbed.iter().rev() {
                    self.put_back(item);
                }
            }
        }
        false
    }

    /// Applies `item` to the chunk and takes it out of the list; `None` if it does not fit.
    fn place(&mut self, item: usize) -> Option<Undo> {
        self.steps += 1;
        let undo = match &self.items[item].effect {
            Effect::Update { op, data, precondition, seen, .. } => {
                let undo = self.state.update(op, data, *precondition, seen)?;
                let expected = if self.state.exact { self.expect.get(&self.state.ver) } else { None };
                let fits = !self.state.exists || expected.is_none_or(|seen| self.state.fits_seen(seen));
                if !fits {
                    self.state.undo(undo);
                    return None;
                }
                undo
            }
            Effect::Observe(observation) => {
                let ver = self.items[item].version()?;
                if !self.state.fits(observation) {
                    return None;
                }
                self.state.pin(ver)
            }
        };
        self.take_out(item);
        Some(undo)
    }

    /// Takes every observation that fits the chunk as it is and teaches nothing new about it; each may let more begin.
    fn absorb(&mut self) -> Vec<usize> {
        let mut all = Vec::new();
        loop {
            let before = all.len();
            for item in self.window() {
                let Effect::Observe(observation) = &self.items[item].effect else { continue };
                if !self.teaches(item) && self.state.fits(observation) {
                    self.steps += 1;
                    self.take_out(item);
                    all.push(item);
                }
            }
            if all.len() == before {
                return all;
            }
        }
    }

    /// Whether placing this observation would make the version exact.
    fn teaches(&self, item: usize) -> bool {
        self.state.exists && !self.state.exact && self.items[item].version().is_some()
    }

    /// Operations that may come next in real time.
    fn window(&self) -> Vec<usize> {
        let mut window = Vec::new();
        let mut entry = self.next[0];
        while entry != 0 && entry % 2 == 1 {
            window.push((entry as usize - 1) / 2);
            entry = self.next[entry as usize];
        }
        window
    }

    /// Operations to try next, the likeliest first; none if the attempt is already lost.
    fn candidates(&self) -> Vec<usize> {
        let window = self.window();
        let exact = self.state.exists && self.state.exact;
        let next_known = self.known.get(self.known_at).copied();
        let passed = |ver: Ver| ver < self.state.ver || (ver == self.state.ver && (self.state.exact || !self.state.exists));
        if next_known.is_some_and(|(ver, _)| passed(ver)) {
            return Vec::new();
        }
        // A required observation of a version that is passed, or of this one with other contents, can never fit.
        let lost =
            |&i: &usize| self.items[i].required() && !self.items[i].is_update() && self.items[i].version().is_some_and(passed);
        if window.iter().any(lost) {
            return Vec::new();
        }
        if let Some((ver, item)) = next_known
            && exact
            && ver == self.state.ver + 1
        {
            return if window.contains(&item) { vec![item] } else { Vec::new() };
        }
        let mut candidates = Vec::new();
        if let Some((_, item)) = next_known
            && !exact
            && window.contains(&item)
        {
            candidates.push(item);
        }
        candidates.extend(window.iter().copied().filter(|&i| !self.items[i].is_update() && self.teaches(i)));
        let blind = |i: &usize| self.items[*i].is_update() && self.items[*i].made().is_none();
        candidates.extend(window.iter().copied().filter(|i| blind(i) && self.items[*i].required()));
        // What was asked last is the likeliest to have taken effect now.
        candidates.extend(window.iter().rev().copied().filter(|i| blind(i) && !self.items[*i].required()));
        candidates
    }

    /// Whether this set of placed operations with this chunk was not met before.
    fn first_visit(&mut self) -> bool {
        let sum = u64::from(self.state.checksum());
        let shape = (self.state.bytes.len() as u64) << 2 | u64::from(self.state.exact) << 1 | u64::from(self.state.exists);
        let mixed = mix(self.state.ver ^ mix(shape ^ sum << 32));
        self.memo.insert((self.fingerprint, mixed))
    }

    fn take_out(&mut self, item: usize) {
        self.unlink(1 + 2 * item);
        if self.items[item].required() {
            self.unlink(2 + 2 * item);
            self.required_left -= 1;
        }
        self.known_at += usize::from(self.items[item].made().is_some());
        self.fingerprint ^= print_of(item);
    }

    fn put_back(&mut self, item: usize) {
        if self.items[item].required() {
            self.link(2 + 2 * item);
            self.required_left += 1;
        }
        self.link(1 + 2 * item);
        self.known_at -= usize::from(self.items[item].made().is_some());
        self.fingerprint ^= print_of(item);
    }

    fn unlink(&mut self, entry: usize) {
        let (before, after) = (self.prev[entry], self.next[entry]);
        self.next[before as usize] = after;
        self.prev[after as usize] = before;
    }

    fn link(&mut self, entry: usize) {
        let (before, after) = (self.prev[entry], self.next[entry]);
        self.next[before as usize] = entry as u32;
        self.prev[after as usize] = entry as u32;
    }

    fn remember_best(&mut self, stack: &[Frame], absorbed: &[usize]) {
        if self.required_left >= self.best_left {
            return;
        }
        self.best_left = self.required_left;
        let window = self.window();
        let mut entry = self.next[0];
        while entry != 0 && entry % 2 == 1 {
            entry = self.next[entry as usize];
        }
        let recent = stack.iter().rev().take(4).rev();
        let mut placed: Vec<usize> = recent.filter_map(|f| f.placed.as_ref().map(|(item, _)| *item)).collect();
        placed.extend(absorbed.iter().rev().take(2));
        let state = (self.state.exists, self.state.ver, self.state.exact, self.state.bytes.len());
        self.stuck = Stuck { window, blocker: (entry as usize).saturating_sub(1) / 2, state, placed };
    }
}

/// Finalizer of SplitMix64.
fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The item's share in the fingerprint of a set (Zobrist): the fingerprint is the xor over its members.
fn print_of(item: usize) -> u128 {
    let n = item as u64 + 1;
    u128::from(mix(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))) << 64 | u128::from(mix(n.wrapping_mul(0xd1b5_4a32_d192_ed03)))
}
