//! What must hold at the end: everything is quiet, replicas are equal, and what they hold fits the history.

use catena_types::{ChunkKey, PublicState, TargetId};

use super::{Rule, World};
use crate::linear::{Action, Outcome, Seen};

/// A chunk as a target holds it.
type Held = (ChunkKey, Option<catena_types::Committed>, Option<bytes::Bytes>);

impl World {
    /// Every chain is whole, every operation has ended, nothing waits anywhere.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.not_quiet().or_else(|| self.not_repaired()).is_none()
    }

    pub(super) fn why_not_quiet(&mut self) -> String {
        self.not_quiet().or_else(|| self.not_repaired()).unwrap_or_else(|| "all is quiet".into())
    }

    fn not_quiet(&self) -> Option<String> {
        if let Some(n) = self.clients.iter().position(|c| !c.idle()) {
            return Some(format!("client {n} still waits"));
        }
        if let Some(why) = self.moves_under_way() {
            return Some(why);
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
                if let Some(status) = open.store.not_scrubbed(self.ledger.lost().len() as u64) {
                    return Some(format!("the scrub of target {} has not passed cleanly: {status:?}", m.target));
                }
                if let Some((key, _)) = open.store.chunks().scan(b"", 64).into_iter().find(|(_, m)| m.staged.is_some()) {
                    return Some(format!("target {} still has {key} staged", m.target));
                }
            }
        }
        None
    }

    /// A chunk that a resync has lost is repaired where another replica can read it after all.
    fn not_repaired(&mut self) -> Option<String> {
        let routing = self.manager.routing();
        for key in self.ledger.lost().clone() {
            let chain = routing.chain_of(key.as_bytes()).and_then(|c| routing.chain(c))?;
            let mut readable = chain.members.iter().filter_map(|m| {
                let held = self.contents(m.target)?.into_iter().find(|(k, ..)| *k == key);
                Some((m.target, held.is_none_or(|(_, committed, bytes)| committed.is_none() || bytes.is_some())))
            });
            let (first, good) = readable.next()?;
            if let Some((other, _)) = readable.find(|(_, other)| *other != good) {
                let (bad, good) = if good { (other, first) } else { (first, other) };
                return Some(format!("target {bad} cannot read {key}, which target {good} can"));
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
                self.coverage.checked(Rule::Equal);
                match &first {
                    Some((other, held)) if *held != contents => {
                        let text = format!("targets {other} and {} differ: {held:?} and {contents:?}", m.target);
                        return self.fail(Rule::Equal, text);
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
        for key in self.keys.clone().iter() {
            let Some(chain) = routing.chain_of(key.as_bytes()).and_then(|c| routing.chain(c)).cloned() else { continue };
            for m in &chain.members {
                let Some(contents) = self.contents(m.target) else { continue };
                let held = contents.into_iter().find(|(k, ..)| k == key);
                if matches!(&held, Some((_, Some(_), None))) && self.ledger.lost().contains(key) {
                    // By invariant 9 nobody else can read it either: what a resync lost was not had by anybody since.
                    self.coverage.hit("chunk lost for good");
                    continue;
                }
                let id =
                    self.history.invoke(self.now, u64::from(m.target), key.as_bytes(), Action::Read { offset: 0, len: u32::MAX });
                self.now += 2;
                let outcome = match held {
                    Some((_, Some(c), Some(bytes))) => {
                        self.fail_if(self.ledger.compare(key, (c.ver, Some(c.tag)), 0, &bytes));
                        Outcome::Read { bytes, seen: Seen { ver: Some(c.ver), len: Some(c.len), checksum: Some(c.checksum) } }
                    }
                    Some((_, Some(c), None)) => {
                        return self.fail(Rule::GoodBytes, format!("target {} cannot read {key} version {}", m.target, c.ver));
                    }
                    _ => Outcome::Absent,
                };
                self.history.complete(self.now, id, outcome);
            }
        }
    }
}
