//! One state of everything: targets, connections, manager, clients, and how many faults are left.
//!
//! States share what they have in common, and every part carries its own fingerprint, so that a step costs what it
//! touches.

use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;

use catena_types::{ChunkKey, Tag, TargetId, Ver};

use super::fingerprint::fingerprint;
use super::ledger::Ledger;
use super::links::{Conn, Link};
use super::members::Members;
use super::plan::{Faults, Plan};
use super::target::Target;

/// A part and its fingerprint.
#[derive(Clone)]
pub(super) struct Part<T> {
    pub(super) value: T,
    hash: u64,
    stale: bool,
}

impl<T: Hash> Part<T> {
    fn new(value: T) -> Rc<Part<T>> {
        let hash = fingerprint(&value);
        Rc::new(Part { value, hash, stale: false })
    }
}

fn edit<T: Clone>(part: &mut Rc<Part<T>>) -> &mut T {
    let part = Rc::make_mut(part);
    part.stale = true;
    &mut part.value
}

/// Brings the fingerprint up to date; whether the part had changed.
fn reprint<T: Clone + Hash>(part: &mut Rc<Part<T>>) -> bool {
    if !part.stale {
        return false;
    }
    let part = Rc::make_mut(part);
    (part.hash, part.stale) = (fingerprint(&part.value), false);
    true
}

/// Parts seen before, by fingerprint: equal ones are kept once.
type Kept<T> = HashMap<u64, Rc<Part<T>>>;

fn seal<T: Clone + Hash>(part: &mut Rc<Part<T>>, kept: &mut Kept<T>) {
    if reprint(part) {
        *part = kept.entry(part.hash).or_insert_with(|| part.clone()).clone();
    }
}

/// What states have in common.
#[derive(Default)]
pub(super) struct Pool {
    targets: HashMap<u64, (Rc<Part<Target>>, Rc<View>)>,
    links: Kept<Link>,
    members: Kept<Members>,
    ledgers: Kept<Ledger>,
}

/// What a target could say and keep right now, by chunk.
#[derive(Clone, Default)]
pub(super) struct View {
    pub(super) reads: Vec<Option<Ver>>,
    pub(super) answers: Vec<Option<Ver>>,
    pub(super) durable: Vec<(Ver, Option<Tag>)>,
}

/// See the file's documentation.
#[derive(Clone)]
pub(super) struct State {
    targets: Vec<Rc<Part<Target>>>,
    views: Vec<Rc<View>>,
    /// From each target to each other, row by row.
    links: Vec<Rc<Part<Link>>>,
    members: Rc<Part<Members>>,
    ledger: Rc<Part<Ledger>>,
    pub(super) left: Faults,
}

impl State {
    /// Nobody has learned anything yet.
    pub(super) fn new(plan: &Plan) -> State {
        let n = plan.targets;
        let link = Part::new(Link { conn: Conn::Up, ..Link::default() });
        State {
            targets: (1..=n).map(|id| Part::new(Target::new(id.into(), plan.off))).collect(),
            views: (0..n).map(|_| Rc::default()).collect(),
            links: (0..usize::from(n) * usize::from(n)).map(|_| link.clone()).collect(),
            members: Part::new(Members::new(n.into(), plan.late_routing, plan.off)),
            ledger: Part::new(Ledger::new(plan.chunks, plan.updates.len())),
            left: plan.faults,
        }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = TargetId> + use<> {
        1..=self.targets.len() as TargetId
    }

    pub(super) fn target(&self, id: TargetId) -> &Target {
        &self.targets[id as usize - 1].value
    }

    pub(super) fn target_mut(&mut self, id: TargetId) -> &mut Target {
        edit(&mut self.targets[id as usize - 1])
    }

    pub(super) fn view(&self, id: TargetId) -> &View {
        &self.views[id as usize - 1]
    }

    fn at(&self, opener: TargetId, acceptor: TargetId) -> usize {
        (opener as usize - 1) * self.targets.len() + acceptor as usize - 1
    }

    pub(super) fn link(&self, opener: TargetId, acceptor: TargetId) -> &Link {
        &self.links[self.at(opener, acceptor)].value
    }

    pub(super) fn link_mut(&mut self, opener: TargetId, acceptor: TargetId) -> &mut Link {
        let at = self.at(opener, acceptor);
        edit(&mut self.links[at])
    }

    pub(super) fn members(&self) -> &Members {
        &self.members.value
    }

    pub(super) fn members_mut(&mut self) -> &mut Members {
        edit(&mut self.members)
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger.value
    }

    pub(super) fn ledger_mut(&mut self) -> &mut Ledger {
        edit(&mut self.ledger)
    }

    /// Brings views and fingerprints up to date after changes.
    pub(super) fn seal(&mut self, keys: &[ChunkKey], pool: &mut Pool) {
        for (part, view) in self.targets.iter_mut().zip(&mut self.views) {
            if reprint(part) {
                let (kept, seen) = pool.targets.entry(part.hash).or_insert_with(|| (part.clone(), look(part, keys)));
                (*part, *view) = (kept.clone(), seen.clone());
            }
        }
        self.links.iter_mut().for_each(|part| seal(part, &mut pool.links));
        seal(&mut self.members, &mut pool.members);
    }

    /// What could have been seen by now, for the states that follow.
    pub(super) fn note_seen(&mut self, chunk: u8, ver: Ver) {
        if self.ledger().seen[usize::from(chunk)] < ver {
            self.ledger_mut().see(chunk, ver);
        }
    }

    /// Call after [`State::seal`] and [`State::note_seen`].
    pub(super) fn fingerprint(&mut self, pool: &mut Pool) -> u64 {
        seal(&mut self.ledger, &mut pool.ledgers);
        let (members, ledger) = (self.members.hash, self.ledger.hash);
        let parts = self.targets.iter().map(|p| p.hash).chain(self.links.iter().map(|p| p.hash));
        fingerprint(&(parts.collect::<Vec<_>>(), members, ledger, self.left))
    }
}

fn look(part: &Part<Target>, keys: &[ChunkKey]) -> Rc<View> {
    let mut target = part.value.clone();
    Rc::new(View {
        reads: keys.iter().map(|k| target.reads_now(k)).collect(),
        answers: keys.iter().map(|k| target.answers_now(k)).collect(),
        durable: keys.iter().map(|k| target.durable(k)).collect(),
    })
}
