//! The checkers: what must hold after every event, and what at the end (numbers: protocol, section 11).

use std::collections::BTreeMap;
use std::sync::Arc;

use catena_types::{ChunkKey, ChunkMeta, PublicState, Routing, TargetId, Ver};

use super::World;
use super::disk::would_answer;
use super::node::Open;
use crate::linear::{Action, Outcome, Seen};

/// A chunk as a target holds it.
type Held = (ChunkKey, Option<catena_types::Committed>, Option<bytes::Bytes>);

#[derive(Default)]
pub(super) struct Checks {
    /// Newest version of each chunk that a client was told of.
    seen: BTreeMap<ChunkKey, Ver>,
    /// Last routing checked.
    routing: Option<Arc<Routing>>,
}

impl World {
    fn open_of(&self, target: TargetId) -> Option<(usize, &Open)> {
        let (node, slot) = self.slot_of(target)?;
        Some((node, self.nodes[node].slots[slot].open.as_ref()?))
    }

    fn keys(&self) -> Vec<ChunkKey> {
        (0..self.plan.keys).filter_map(|n| ChunkKey::new(format!("k{n}").as_bytes())).collect()
    }

    /// After each event of a target.
    pub(super) fn check_after(&mut self, node: usize, slot: usize, committed: bool) {
        if self.violation.is_some() {
            return;
        }
        let id = self.nodes[node].slots[slot].id;
        let Some(chain) = self.manager.routing_of(id) else { return };
        let found = self
            .one_answer(&chain)
            .or_else(|| if committed { self.versions(id).or_else(|| self.upstream(&chain)) } else { None });
        if let Some(what) = found {
            self.fail(what);
        }
    }

    /// Invariant 8: no two targets of a chain could answer a version query differently now.
    fn one_answer(&self, chain: &[TargetId]) -> Option<String> {
        let probe = ChunkKey::new(b"k0")?;
        let able = |t: &&TargetId| {
            self.open_of(**t).is_some_and(|(n, o)| {
                let local = self.nodes[n].local(self.now);
                would_answer(&o.replica, local, &probe, &o.store).is_some()
            })
        };
        let tails: Vec<&TargetId> = chain.iter().filter(able).collect();
        if tails.len() < 2 {
            return None;
        }
        for key in self.keys() {
            let mut first: Option<(TargetId, Ver)> = None;
            for &&t in &tails {
                let (n, open) = self.open_of(t)?;
                let Some(ver) = would_answer(&open.replica, self.nodes[n].local(self.now), &key, &open.store) else { continue };
                match first {
                    Some((other, v)) if v != ver => {
                        return Some(format!(
                            "invariant 8: asked for the version of {key}, targets {other} and {t} would answer {v} and {ver}"
                        ));
                    }
                    _ => first = Some((t, ver)),
                }
            }
        }
        None
    }

    /// Invariant 2: a staged version follows the committed one.
    fn versions(&self, id: TargetId) -> Option<String> {
        let (_, open) = self.open_of(id)?;
        for (key, meta) in open.store.chunks().scan(b"", 64) {
            let ChunkMeta { committed: Some(c), staged: Some(s), .. } = meta else { continue };
            if s.ver != c.ver + 1 {
                return Some(format!("invariant 2: target {id} holds {key} committed {} with {} staged", c.ver, s.ver));
            }
        }
        None
    }

    /// Invariant 3: what is committed at a target is durable on every serving target upstream.
    fn upstream(&self, chain: &[TargetId]) -> Option<String> {
        let serving: Vec<(TargetId, &Open)> = chain
            .iter()
            .filter_map(|&t| {
                let (n, open) = self.open_of(t)?;
                open.replica.may_serve(self.nodes[n].local(self.now)).then_some((t, open))
            })
            .collect();
        for (i, (down, d)) in serving.iter().enumerate() {
            for (up, u) in &serving[..i] {
                if u.replica.chain_ver() != d.replica.chain_ver() {
                    continue;
                }
                for (key, meta) in d.store.chunks().scan(b"", 64) {
                    let Some(c) = meta.committed else { continue };
                    if !holds(u, &key, c.ver) {
                        return Some(format!(
                            "invariant 3: target {down} has committed {key} version {}, not durable at target {up} upstream",
                            c.ver
                        ));
                    }
                }
            }
        }
        None
    }

    /// A client was told of a version: invariants 4 and 5 are about it from now on.
    pub(super) fn saw(&mut self, key: &ChunkKey, ver: Ver) {
        let newest = self.checks.seen.entry(key.clone()).or_insert(0);
        *newest = ver.max(*newest);
        if let Some(routing) = self.checks.routing.clone() {
            self.check_survival(&routing, Some(key));
        }
    }

    /// Invariants 4 and 5: what a client was told of is durable on every SERVING and LASTSRV target that can be looked at.
    fn check_survival(&mut self, routing: &Routing, only: Option<&ChunkKey>) {
        for (key, ver) in self.checks.seen.clone() {
            if only.is_some_and(|k| *k != key) {
                continue;
            }
            let Some(chain) = routing.chain_of(key.as_bytes()).and_then(|c| routing.chain(c)) else { continue };
            for m in &chain.members {
                let counts = matches!(m.state(), PublicState::Serving | PublicState::LastSrv);
                let Some((_, open)) = self.open_of(m.target).filter(|_| counts) else { continue };
                if !holds(open, &key, ver) {
                    let state = m.state();
                    return self.fail(format!(
                        "invariants 4, 5: a client was told of {key} version {ver}, which {state:?} target {} does not hold: {:?}",
                        m.target,
                        open.store.chunks().meta(&key)
                    ));
                }
            }
        }
    }

    /// Invariants 12 and 13, on every routing published.
    pub(super) fn check_routing(&mut self, routing: &Arc<Routing>) {
        for chain in &routing.chains {
            let count = |state| chain.in_state(state).count();
            if count(PublicState::Syncing) > 1 {
                return self.fail(format!("invariant 12: two SYNCING targets in chain {}", chain.id));
            }
            if count(PublicState::Serving) + count(PublicState::LastSrv) == 0 {
                return self.fail(format!("invariant 13: chain {} has neither SERVING nor LASTSRV members", chain.id));
            }
            let old = self.checks.routing.as_ref().and_then(|r| r.chain(chain.id));
            if let Some(old) = old.filter(|old| old.chain_ver > chain.chain_ver) {
                return self.fail(format!("invariant 13: chain {} went back from {}", chain.id, old.chain_ver));
            }
            self.count_moves(chain.id, routing);
        }
        self.checks.routing = Some(routing.clone());
        self.spare_the_last(routing);
        self.check_survival(routing, None);
    }

    fn count_moves(&mut self, id: u32, routing: &Routing) {
        let old = self.checks.routing.clone();
        let (Some(old), Some(new)) = (old.as_ref().and_then(|r| r.chain(id)), routing.chain(id)) else { return };
        for m in &new.members {
            let before = old.state_of(m.target).unwrap_or(PublicState::Offline);
            if before != m.state() {
                self.coverage.hit(&format!("move {before:?} to {:?}", m.state()));
            }
        }
    }

    /// Every chain is whole, every operation has ended, nothing waits anywhere.
    pub(super) fn is_quiet(&self) -> bool {
        self.not_quiet().is_none()
    }

    pub(super) fn why_not_quiet(&self) -> String {
        self.not_quiet().unwrap_or_else(|| "all is quiet".into())
    }

    fn not_quiet(&self) -> Option<String> {
        if let Some(n) = self.clients.iter().position(|c| !c.idle()) {
            return Some(format!("client {n} still waits"));
        }
        let routing = self.manager.routing();
        for chain in &routing.chains {
            if chain.members.iter().any(|m| m.state() != PublicState::Serving) {
                return Some(format!("chain {} is not whole: {chain:?}", chain.id));
            }
            for m in &chain.members {
                let Some((n, open)) = self.open_of(m.target) else { return Some(format!("target {} is not open", m.target)) };
                if open.replica.load() > 0 {
                    return Some(format!("{} operations wait at target {}", open.replica.load(), m.target));
                }
                if open.replica.chain_ver() != chain.chain_ver {
                    return Some(format!("target {} is still at chain version {}", m.target, open.replica.chain_ver()));
                }
                if !open.replica.may_serve(self.nodes[n].local(self.now)) {
                    return Some(format!("target {} may not serve", m.target));
                }
                if let Some(status) = open.store.not_scrubbed() {
                    return Some(format!("the scrub of target {} has not passed cleanly: {status:?}", m.target));
                }
                if let Some((key, _)) = open.store.chunks().scan(b"", 64).into_iter().find(|(_, m)| m.staged.is_some()) {
                    return Some(format!("target {} still has {key} staged", m.target));
                }
            }
        }
        None
    }

    /// Invariant 9: all replicas of a chain are equal.
    pub(super) fn check_at_quiescence(&mut self) {
        let routing = self.manager.routing();
        for chain in &routing.chains {
            let mut first: Option<(TargetId, Vec<_>)> = None;
            for m in &chain.members {
                let Some(contents) = self.contents(m.target) else { continue };
                match &first {
                    Some((other, held)) if *held != contents => {
                        return self
                            .fail(format!("invariant 9: targets {other} and {} differ: {held:?} and {contents:?}", m.target));
                    }
                    Some(_) => {}
                    None => first = Some((m.target, contents)),
                }
            }
        }
    }

    fn contents(&mut self, target: TargetId) -> Option<Vec<Held>> {
        let now = self.now;
        let (node, slot) = self.slot_of(target)?;
        let open = self.nodes[node].slots[slot].open.as_mut()?;
        let scan = open.store.chunks().scan(b"", 1000);
        let held = scan.into_iter().map(|(key, meta)| {
            let bytes = meta.committed.and_then(|c| open.store.bytes(now, &key, c.ver, c.len));
            (key, meta.committed, bytes)
        });
        let held = held.collect();
        (!open.store.has_failed()).then_some(held)
    }

    /// What every replica holds at the end is what readers would see: it must fit the history.
    pub(super) fn final_reads(&mut self) {
        let routing = self.manager.routing();
        self.now += 1;
        for key in self.keys() {
            let Some(chain) = routing.chain_of(key.as_bytes()).and_then(|c| routing.chain(c)).cloned() else { continue };
            for m in &chain.members {
                let Some(contents) = self.contents(m.target) else { continue };
                let held = contents.into_iter().find(|(k, ..)| *k == key);
                let id =
                    self.history.invoke(self.now, u64::from(m.target), key.as_bytes(), Action::Read { offset: 0, len: u32::MAX });
                self.now += 2;
                let outcome = match held {
                    Some((_, Some(c), Some(bytes))) => {
                        Outcome::Read { bytes, seen: Seen { ver: Some(c.ver), len: Some(c.len), checksum: Some(c.checksum) } }
                    }
                    Some((_, Some(c), None)) => {
                        return self.fail(format!("target {} cannot read {key} version {}", m.target, c.ver));
                    }
                    _ => Outcome::Absent,
                };
                self.history.complete(self.now, id, outcome);
            }
        }
    }

    pub(super) fn collect_counters(&mut self) {
        for node in &self.nodes {
            for slot in &node.slots {
                if let Some(open) = &slot.open {
                    self.coverage.replica(open.replica.counters());
                }
            }
        }
    }
}

/// Whether a target holds this version, or a later one, durably: committed, staged, or removed since.
fn holds(open: &Open, key: &ChunkKey, ver: Ver) -> bool {
    let store = open.store.chunks();
    let Some(meta) = store.meta(key) else { return store.remove_floor() >= ver };
    let staged = meta.staged.is_some_and(|s| s.ver >= ver && s.durable);
    staged || meta.committed.map_or(store.remove_floor(), |c| c.ver) >= ver
}
