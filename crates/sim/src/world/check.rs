//! The checkers: what must hold after every event, and what at the end. [`Rule`] names them.

use std::collections::BTreeMap;
use std::sync::Arc;

use catena_types::{Chain, ChainId, ChunkKey, ChunkMeta, Member, PublicState, Routing, TargetId, Ver};

use super::World;
use super::disk::would_answer;
use super::node::Open;
use super::rules::{Rule, Violation};

#[derive(Default)]
pub(super) struct Checks {
    /// Newest version of each chunk that a client made, and that one read.
    acked: BTreeMap<ChunkKey, Ver>,
    read: BTreeMap<ChunkKey, Ver>,
    /// Serving members of chains that lost power together, until something else becomes known of them.
    dark: BTreeMap<ChainId, Vec<TargetId>>,
    /// Last routing checked, and those that were joining a chain then.
    routing: Option<Arc<Routing>>,
    joining: BTreeMap<ChainId, TargetId>,
}

impl World {
    pub(super) fn open_of(&self, target: TargetId) -> Option<(usize, &Open)> {
        let (node, slot) = self.slot_of(target).filter(|&(node, slot)| self.is_somebody(node, slot))?;
        Some((node, self.nodes[node].slots[slot].open.as_ref()?))
    }

    /// After each event of a target.
    pub(super) fn check_after(&mut self, node: usize, slot: usize, committed: bool) {
        if self.violation.is_some() {
            return;
        }
        let id = self.nodes[node].slots[slot].id;
        // One that was moved away may serve nothing.
        let chain = self.manager.chain_of(id).map_or(&[][..], |chain| &chain.members);
        let found = self
            .one_configuration(id)
            .or_else(|| self.one_answer(chain))
            .or_else(|| if committed { self.versions(id).or_else(|| self.order(chain)) } else { None });
        self.fail_if(found.map_or(Ok(()), Err));
    }

    /// Invariant 8: whoever may serve is SERVING as far as the manager is concerned, so that nobody else decides without it.
    fn one_configuration(&self, id: TargetId) -> Option<Violation> {
        let (node, open) = self.open_of(id)?;
        if !open.replica.may_serve(self.nodes[node].local(self.now)) {
            return None;
        }
        self.coverage.checked(Rule::OneConfiguration);
        let state = self.manager.state_of(id);
        let text = || format!("target {id} may serve under chain version {}, and is {state:?}", open.replica.chain_ver());
        (state != Some(PublicState::Serving)).then(|| Rule::OneConfiguration.broken(text()))
    }

    /// No two targets of a chain could answer a version query differently now.
    fn one_answer(&self, chain: &[Member]) -> Option<Violation> {
        let opens = chain.iter().filter_map(|m| Some((m.target, self.open_of(m.target)?)));
        let able = |open: &Open, n: usize| open.replica.answers_queries(self.nodes[n].local(self.now));
        let mut tails = opens.filter(|(_, (n, open))| able(open, *n));
        let one = tails.next()?;
        self.coverage.checked(Rule::OneAnswer);
        let other = tails.next()?;
        let tails: Vec<_> = [one, other].into_iter().chain(tails).collect();
        for key in self.keys.iter() {
            let mut first: Option<(TargetId, Ver)> = None;
            for &(t, (n, open)) in &tails {
                let Some(ver) = would_answer(&open.replica, self.nodes[n].local(self.now), key, &open.store) else { continue };
                match first {
                    Some((other, v)) if v != ver => {
                        let text = format!("asked for the version of {key}, targets {other} and {t} would answer {v} and {ver}");
                        return Some(Rule::OneAnswer.broken(text));
                    }
                    _ => first = Some((t, ver)),
                }
            }
        }
        None
    }

    /// What a target holds of every chunk.
    fn held<'a>(&self, open: &'a Open) -> Held<'a> {
        let store = open.store.chunks();
        Held { open, metas: self.keys.iter().map(|key| store.meta(key)).collect(), floor: store.remove_floor() }
    }

    /// Invariant 2: a staged version follows the committed one; it may follow from afar where a resync has left it.
    fn versions(&self, id: TargetId) -> Option<Violation> {
        let (node, open) = self.open_of(id)?;
        let serves = open.replica.may_serve(self.nodes[node].local(self.now));
        for (key, meta) in self.keys.iter().zip(self.held(open).metas) {
            let Some(ChunkMeta { committed: Some(c), staged: Some(s), .. }) = meta else { continue };
            self.coverage.checked(Rule::Versions);
            if s.ver <= c.ver || (serves && s.ver != c.ver + 1) {
                let text = format!("target {id} holds {key} committed {} with {} staged", c.ver, s.ver);
                return Some(Rule::Versions.broken(text));
            }
        }
        None
    }

    /// Invariant 3: what is committed at a target is durable on every serving target upstream, and committed on every one
    /// downstream.
    fn order(&self, chain: &[Member]) -> Option<Violation> {
        let serving: Vec<(TargetId, Held)> = chain
            .iter()
            .filter_map(|m| {
                let (n, open) = self.open_of(m.target)?;
                open.replica.may_serve(self.nodes[n].local(self.now)).then(|| (m.target, self.held(open)))
            })
            .collect();
        for (i, (down, d)) in serving.iter().enumerate() {
            for (up, u) in serving[..i].iter().filter(|(_, u)| u.open.replica.chain_ver() == d.open.replica.chain_ver()) {
                self.coverage.checked(Rule::Order);
                for (n, key) in self.keys.iter().enumerate() {
                    if let Some(c) = d.metas[n].and_then(|m| m.committed).filter(|c| !holds(u.metas[n], u.floor, c.ver)) {
                        let ver = c.ver;
                        let text =
                            format!("target {down} has committed {key} version {ver}, not durable at target {up} upstream");
                        return Some(Rule::Order.broken(text));
                    }
                    if let Some(c) = u.metas[n].and_then(|m| m.committed).filter(|c| !d.has_committed(n, c.ver)) {
                        let ver = c.ver;
                        let text = format!("target {up} has committed {key} version {ver}, target {down} downstream has not");
                        return Some(Rule::Order.broken(text));
                    }
                }
            }
        }
        None
    }

    /// A client was told of a version, of its own update or by a read: invariants 4 and 5 are about it from now on.
    pub(super) fn saw(&mut self, key: &ChunkKey, ver: Ver, own: bool) {
        let told = if own { &mut self.checks.acked } else { &mut self.checks.read };
        let newest = told.entry(key.clone()).or_insert(0);
        *newest = ver.max(*newest);
        if let Some(routing) = self.checks.routing.clone() {
            self.check_survival(&routing, Some(key));
            if self.rng.chance(1, 32) {
                routing.chain_of(key.as_bytes()).and_then(|c| routing.chain(c)).into_iter().for_each(|c| self.check_power_cut(c));
            }
        }
    }

    /// Invariants 4 and 5 after a power cut now that takes all it can: copies of the disks are opened and looked at.
    fn check_power_cut(&mut self, chain: &Chain) {
        let routing = self.manager.routing();
        let keys: Vec<ChunkKey> =
            self.keys.iter().filter(|k| routing.chain_of(k.as_bytes()) == Some(chain.id)).cloned().collect();
        for target in chain.serving() {
            let Some((node, slot)) = self.slot_of(target).filter(|&(node, slot)| self.is_somebody(node, slot)) else { continue };
            self.coverage.hit("rule copies of disks looked at after a power cut");
            let left = match self.nodes[node].slots[slot].worst() {
                Some(Ok(left)) => left,
                Some(Err(e)) => return self.fail(Rule::Space, e),
                None => continue,
            };
            self.check_left(node, slot, &left);
            let told = [(Rule::AckedSurvives, &self.checks.acked), (Rule::ReadSurvives, &self.checks.read)];
            let lost = told.into_iter().find_map(|(rule, told)| {
                let lost = |k: &&ChunkKey| told.get(*k).is_some_and(|v| left.newest(k) < *v);
                keys.iter().find(lost).map(|k| (rule, k.clone(), told.get(k).copied()))
            });
            if let Some((rule, key, ver)) = lost {
                let newest = left.newest(&key);
                let text = format!("a client was told of {key} version {ver:?}; a power cut leaves {newest} at target {target}");
                return self.fail(rule, text);
            }
        }
    }

    /// Invariants 4 and 5: what a client was told of is durable on every SERVING and LASTSRV disk, in use or left by a crash.
    fn check_survival(&mut self, routing: &Routing, only: Option<&ChunkKey>) {
        let told = |rule, told: &BTreeMap<ChunkKey, Ver>| -> Vec<(Rule, ChunkKey, Ver)> {
            told.iter().filter(|(key, _)| only.is_none_or(|k| k == *key)).map(|(key, ver)| (rule, key.clone(), *ver)).collect()
        };
        let all = [told(Rule::AckedSurvives, &self.checks.acked), told(Rule::ReadSurvives, &self.checks.read)].concat();
        for (rule, key, ver) in all {
            let Some(chain) = routing.chain_of(key.as_bytes()).and_then(|c| routing.chain(c)) else { continue };
            let counts = |m: &&Member| matches!(m.state(), PublicState::Serving | PublicState::LastSrv);
            for m in chain.members.iter().filter(counts) {
                self.coverage.checked(rule);
                if let Some(what) = self.lacks(m.target, &key, ver) {
                    let text = format!(
                        "a client was told of {key} version {ver}, which {:?} target {} lacks: {what}",
                        m.state(),
                        m.target
                    );
                    return self.fail(rule, text);
                }
            }
        }
    }

    /// What a target's disk has of a chunk, if that is older than `ver`.
    fn lacks(&self, target: TargetId, key: &ChunkKey, ver: Ver) -> Option<String> {
        if let Some((_, open)) = self.open_of(target) {
            let (meta, floor) = (open.store.chunks().meta(key), open.store.chunks().remove_floor());
            return (!holds(meta, floor, ver)).then(|| format!("{meta:?}"));
        }
        let left = self.left_by(target)?;
        (left.newest(key) < ver).then(|| format!("a crash left version {}", left.newest(key)))
    }

    /// A manager is elected that knows nothing of what the one before decided last.
    pub(super) fn forget_decisions(&mut self, routing: &Arc<Routing>) {
        self.checks.dark.clear();
        self.checks.routing = Some(routing.clone());
    }

    /// Invariants 8, 12 and 13, on every routing, when it is decided: from then on everybody is granted leases by it.
    pub(super) fn check_routing(&mut self, routing: &Arc<Routing>) {
        let before = self.checks.routing.clone();
        for chain in &routing.chains {
            let old = before.as_ref().and_then(|r| r.chain(chain.id));
            self.coverage.checked(Rule::Membership);
            self.coverage.checked(Rule::Replicas);
            self.fail_if(one_sink(chain));
            self.fail_if(membership(chain, old));
            let joining = self.checks.joining.get(&chain.id).copied();
            self.fail_if(replicas(routing, chain, (old, joining), self.plan.replicas as usize));
            if let Some(old) = old {
                let joins = self.equal_sink(chain, old);
                self.fail_if(joins);
                let revives = self.revival(chain, old);
                self.fail_if(revives);
                let together = self.all_at_once(chain, old);
                self.fail_if(together);
                self.count_moves(old, chain);
                if old.syncing().is_some_and(|t| chain.state_of(t) == Some(PublicState::Serving)) {
                    self.check_power_cut(chain);
                }
            }
            let unfit = chain.members.iter().find_map(|m| self.one_configuration(m.target));
            self.fail_if(unfit.map_or(Ok(()), Err));
        }
        self.checks.routing = Some(routing.clone());
        let moves = self.manager.state().map(|state| {
            let moves = state.moves.iter().filter(|(_, m)| m.joining != m.leaving);
            moves.map(|(id, m)| (*id, m.joining)).collect()
        });
        self.checks.joining = moves.unwrap_or_default();
        self.spare_the_last(routing);
        self.check_survival(routing, None);
    }

    /// Invariant 12: a sink that joins holds what its source does, updates in flight apart.
    fn equal_sink(&mut self, chain: &Chain, old: &Chain) -> Result<(), Violation> {
        let joined = old.syncing().filter(|&t| chain.state_of(t) == Some(PublicState::Serving));
        let Some((sink, source)) = joined.zip(old.tail()) else { return Ok(()) };
        let (Some((_, a)), Some((_, b))) = (self.open_of(source), self.open_of(sink)) else { return Ok(()) };
        for key in self.keys.clone().iter() {
            let (ours, theirs) = (a.store.chunks().meta(key), b.store.chunks().meta(key));
            let busy = [ours, theirs].iter().any(|m| m.is_some_and(|m| m.staged.is_some()));
            let content = |m: Option<ChunkMeta>| m.and_then(|m| m.committed).map(|c| (c.ver, c.len, c.checksum));
            if !busy && content(ours) != content(theirs) {
                let text = format!("target {sink} joins with {theirs:?} as {key}, its source {source} has {ours:?}");
                return Err(Rule::Sync.broken(text));
            }
        }
        self.coverage.checked(Rule::Sync);
        Ok(())
    }

    /// Invariant 13: a last serving set ends when its chosen member has opened under the version that chose it.
    fn revival(&mut self, chain: &Chain, old: &Chain) -> Result<(), Violation> {
        if old.in_state(PublicState::LastSrv).count() == 0 || chain.in_state(PublicState::LastSrv).count() > 0 {
            return Ok(());
        }
        let chosen = old.members.iter().find(|m| m.chosen).map(|m| m.target);
        let opened = chosen.and_then(|t| self.adopted_by(t)).is_some_and(|ver| ver >= old.chain_ver);
        let serves = chosen.is_some_and(|t| chain.state_of(t) == Some(PublicState::Serving));
        if opened && serves {
            self.coverage.hit("rule a last serving set ends with its chosen member");
            return Ok(());
        }
        Err(Rule::Membership.broken(format!("the last serving set of {old:?} ends before {chosen:?} has opened: {chain:?}")))
    }

    /// Everybody who serves loses power now: chains whose members are all there must come to a last serving set of all.
    pub(super) fn all_go_dark(&mut self) {
        let routing = self.manager.decided();
        for chain in &routing.chains {
            let serving: Vec<TargetId> = chain.serving().collect();
            let serves =
                |t: &TargetId| self.open_of(*t).is_some_and(|(n, open)| open.replica.may_serve(self.nodes[n].local(self.now)));
            if !serving.is_empty() && serving.iter().all(serves) {
                self.checks.dark.insert(chain.id, serving);
            }
        }
    }

    /// The manager has heard a node that may have sent that before it lost power: what it decides may rest on it.
    pub(super) fn heard_from_before(&mut self) {
        self.checks.dark.clear();
    }

    /// Invariant 13: members that lost power together become the last serving set together.
    fn all_at_once(&mut self, chain: &Chain, old: &Chain) -> Result<(), Violation> {
        let Some(dark) = self.checks.dark.get(&chain.id).cloned() else { return Ok(()) };
        if chain.serving().eq(old.serving()) {
            return Ok(());
        }
        self.checks.dark.remove(&chain.id);
        if dark.iter().all(|&t| chain.state_of(t) == Some(PublicState::LastSrv)) {
            self.coverage.hit("rule all of a last serving set at once");
            return Ok(());
        }
        Err(Rule::Membership.broken(format!("{dark:?} lost power together, and the manager makes of it: {chain:?}")))
    }

    fn count_moves(&mut self, old: &Chain, new: &Chain) {
        if old.members.iter().any(|m| new.state_of(m.target).is_none()) {
            self.coverage.hit("member departed");
        }
        for m in &new.members {
            let before = old.state_of(m.target).unwrap_or(PublicState::Offline);
            if before != m.state() {
                self.coverage.hit(format!("move {before:?} to {:?}", m.state()));
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

fn one_sink(chain: &Chain) -> Result<(), Violation> {
    if chain.in_state(PublicState::Syncing).count() > 1 {
        return Err(Rule::Sync.broken(format!("two SYNCING targets: {chain:?}")));
    }
    Ok(())
}

/// A chain keeps all its replicas while one of them moves; whoever leaves leaves a full chain, or never served; and nobody
/// is a member of two. One that was joining and had come to serve may be found out, and lost for so long that it is given up,
/// in one step: the replica that it was to take the place of is still a member then.
fn replicas(
    routing: &Routing,
    chain: &Chain,
    (old, joining): (Option<&Chain>, Option<TargetId>),
    replicas: usize,
) -> Result<(), Violation> {
    if !(replicas..=replicas + 1).contains(&chain.members.len()) {
        return Err(Rule::Replicas.broken(format!("{} members instead of {replicas}: {chain:?}", chain.members.len())));
    }
    if let Some(m) = chain.members.iter().find(|m| routing.target(m.target).is_none_or(|t| t.chain != chain.id)) {
        return Err(Rule::Replicas.broken(format!("target {} is a member, but assigned elsewhere: {chain:?}", m.target)));
    }
    let Some(old) = old else { return Ok(()) };
    let gone = |m: &&Member| chain.state_of(m.target).is_none();
    // Of a last serving set that was revived by another one, whoever is out is like any other.
    let revived = chain.serving().next().is_some();
    let needed = |m: &Member| m.state() == PublicState::Serving || (m.state() == PublicState::LastSrv && !revived);
    match old.members.iter().find(gone).filter(|m| Some(m.target) != joining && needed(m) && chain.serving().count() < replicas) {
        Some(m) => Err(Rule::Replicas.broken(format!("target {} left before {chain:?} was full", m.target))),
        None => Ok(()),
    }
}

fn membership(chain: &Chain, old: Option<&Chain>) -> Result<(), Violation> {
    let count = |state| chain.in_state(state).count();
    if count(PublicState::Serving) + count(PublicState::LastSrv) == 0 {
        return Err(Rule::Membership.broken(format!("neither SERVING nor LASTSRV members: {chain:?}")));
    }
    match old.filter(|old| old.chain_ver > chain.chain_ver) {
        Some(old) => Err(Rule::Membership.broken(format!("chain {} went back from {}", chain.id, old.chain_ver))),
        None => Ok(()),
    }
}

/// What a target holds: of every chunk, in the order of the world's keys.
struct Held<'a> {
    open: &'a Open,
    metas: Vec<Option<ChunkMeta>>,
    floor: Ver,
}

impl Held<'_> {
    /// Whether it has committed this version or a later one, or removed the chunk since.
    fn has_committed(&self, n: usize, ver: Ver) -> bool {
        self.metas[n].and_then(|m| m.committed).map_or(self.floor, |c| c.ver) >= ver
    }
}

/// Whether a target holds this version, or a later one, durably: committed, staged, or removed since. `floor` is the
/// newest version it has removed.
fn holds(meta: Option<ChunkMeta>, floor: Ver, ver: Ver) -> bool {
    let Some(meta) = meta else { return floor >= ver };
    let staged = meta.staged.is_some_and(|s| s.ver >= ver && s.durable);
    staged || meta.committed.map_or(floor, |c| c.ver) >= ver
}
