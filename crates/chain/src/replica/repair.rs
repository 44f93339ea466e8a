//! Damage found on this target's disk, and its repair from a neighbour (protocol section 8, amendment M7).
//!
//! A repair has the chunk's turn, and nothing of the chunk is staged here while it lasts. So the version committed here is
//! the one committed at the successor, and at the predecessor the committed or the staged one: either can be asked for it.
//! What must hold: only the bytes of exactly the version and checksum committed here are taken, so that nothing changes
//! but what the disk holds; an update whose stage failed keeps its turn until it is staged or refused.

use std::collections::{BTreeMap, BTreeSet};

use catena_types::{ChunkKey, ChunkMeta, Code, Committed, Payload, StageRequest, TargetId, Ver};
use catena_wire::peer::{Body, Fetch, Fetched};

use super::chunk::{Busy, Next, Repair, Step, Turn};
use super::read::Reading;
use super::{Condition, Cx, Replica};
use crate::mutation::{Mutation, is};

/// What is known of damage at this target.
#[derive(Clone, Default, Hash)]
pub(super) struct Damage {
    /// Chunks found damaged and not repaired since, with the version of which it is known.
    known: BTreeMap<ChunkKey, Ver>,
    /// Those of them that are to be repaired when the window allows.
    wanted: BTreeSet<ChunkKey>,
    /// Chunks with a repair turn that has come or is queued.
    running: BTreeSet<ChunkKey>,
    /// Good bytes on their way to the disk, by the id the engine knows them by.
    installs: BTreeMap<u64, ChunkKey>,
    /// Chunks of which resync brought no bytes, since nobody had them.
    lost: BTreeSet<ChunkKey>,
    /// Chunks found damaged since the target was opened; one that was repaired counts anew.
    found: u64,
}

impl Damage {
    /// Whether the chunk is known to be damaged here.
    pub(super) fn knows(&self, key: &ChunkKey) -> bool {
        self.known.contains_key(key)
    }

    /// Chunks known to be damaged here.
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    /// The chunk is as it should be, or gone.
    pub(super) fn forget(&mut self, key: &ChunkKey) {
        self.known.remove(key);
        self.wanted.remove(key);
    }

    /// Resync brings this version without its bytes: they are damaged here too.
    pub(super) fn lost(&mut self, key: &ChunkKey, ver: Ver) {
        self.known.insert(key.clone(), ver);
        self.lost.insert(key.clone());
    }

    /// What resync brought is durable.
    pub(super) fn arrived(&mut self, key: &ChunkKey) {
        if !self.lost.remove(key) {
            self.forget(key);
        }
    }

    /// A version of the chunk was read whole and is what it should be: a read had failed for another reason.
    fn is_good(&mut self, key: &[u8], ver: Ver) {
        if let Some((key, _)) = self.known.get_key_value(key).filter(|(_, known)| **known == ver) {
            self.forget(&key.clone());
        }
    }

    /// Nothing goes on any more; what is damaged stays known.
    pub(super) fn stand_down(&mut self) {
        self.running.clear();
        self.installs.clear();
        self.lost.clear();
    }
}

impl<P: Clone> Replica<P> {
    /// The engine found a version that does not match its checksum.
    pub(super) fn on_damaged(&mut self, cx: &mut Cx<P>, key: ChunkKey, ver: Ver) {
        self.counters.damaged += 1;
        if !matches!(self.condition, Condition::Running) {
            return;
        }
        let before = self.damage.known.insert(key.clone(), ver);
        // What a neighbour's question shows anew is no reason to ask again: two with damage would ask each other for ever.
        let asked = |r: &Reading| matches!(r, Reading::Fetch { fetch, .. } if fetch.key == key.as_bytes());
        if before != Some(ver) || !self.reads.values().any(asked) {
            self.damage.wanted.insert(key.clone());
        }
        if before.is_some() {
            return;
        }
        self.damage.found += 1;
        let (found, limit) = (self.damage.found, self.config.max_damaged);
        if found > limit {
            self.stand_down(cx, "its disk damages chunks");
            let text = format!(
                "{found} damaged chunks since it was opened (limit {limit}), the last one {key} version {ver}: replace the disk"
            );
            self.condition = Condition::Failed(text);
        }
    }

    /// Queues as many repairs as the window allows. Called after every event.
    pub(super) fn pump_repairs(&mut self, cx: &mut Cx<P>) {
        let serving = self.role.as_ref().is_some_and(super::Role::serving) && matches!(self.condition, Condition::Running);
        while serving && self.damage.running.len() < self.config.repair_window {
            let Some(key) = self.damage.wanted.pop_first() else { return };
            if self.damage.running.insert(key.clone()) {
                self.chunks.entry(key.clone()).or_default().queue.push_back(Turn::Repair);
                self.advance(cx, &key);
            }
        }
    }

    /// A repair's turn has come. The chunk may have moved on since: whatever is committed now is repaired, since an update
    /// keeps the damaged blocks that it does not write.
    pub(super) fn start_repair(&mut self, cx: &mut Cx<P>, key: &ChunkKey) {
        let committed = cx.store.meta(key).and_then(|m| m.committed).filter(|_| self.damage.knows(key));
        let Some(committed) = committed else {
            self.damage.forget(key);
            self.damage.running.remove(key);
            return;
        };
        self.chunks.entry(key.clone()).or_default().busy = Some(Busy::Repair);
        self.begin_repair(cx, key, committed);
    }

    /// Asks the neighbours for the version committed here. Whoever has the turn keeps it.
    pub(super) fn begin_repair(&mut self, cx: &mut Cx<P>, key: &ChunkKey, wanted: Committed) {
        let rest = self.neighbours();
        self.chunks.entry(key.clone()).or_default().repair = Some(Repair { wanted, rest, step: Step::Waiting });
        self.ask_next(cx, key);
    }

    /// Who may hold what is held here, in the order in which they are not asked.
    fn neighbours(&self) -> Vec<TargetId> {
        let role = self.role();
        [role.sink, role.pred, role.succ].into_iter().flatten().collect()
    }

    fn repair(&mut self, key: &ChunkKey) -> Option<&mut Repair> {
        self.chunks.get_mut(key)?.repair.as_mut()
    }

    fn ask_next(&mut self, cx: &mut Cx<P>, key: &ChunkKey) {
        let id = self.new_id();
        let Some(repair) = self.repair(key) else { return };
        let Some(from) = repair.rest.pop() else { return self.not_repaired(cx, key, Code::Corrupt) };
        repair.step = Step::Asking { id, from };
        let Committed { ver, checksum, .. } = repair.wanted;
        self.send(cx, from, Body::Fetch(Fetch { id, key: key.as_bytes().to_vec(), ver, checksum }), None);
    }

    /// There is a new link to `peer`: questions to it may be lost.
    pub(super) fn fetch_again(&mut self, cx: &mut Cx<P>, peer: TargetId) {
        let asked = |r: &Repair| matches!(r.step, Step::Asking { from, .. } if from == peer);
        for key in self.repairs_in(asked) {
            if let Some(repair) = self.repair(&key) {
                repair.rest.push(peer);
            }
            self.ask_next(cx, &key);
        }
    }

    /// There is a new chain version: other neighbours, and what was asked under the old one is void.
    pub(super) fn restart_repairs(&mut self, cx: &mut Cx<P>) {
        self.damage.wanted = self.damage.known.keys().cloned().collect();
        for key in self.repairs_in(|r| !matches!(r.step, Step::Installing { .. })) {
            let rest = self.neighbours();
            if let Some(repair) = self.repair(&key) {
                repair.rest = rest;
            }
            self.ask_next(cx, &key);
        }
    }

    fn repairs_in(&self, wanted: impl Fn(&Repair) -> bool) -> Vec<ChunkKey> {
        self.chunks.iter().filter(|(_, c)| c.repair.as_ref().is_some_and(&wanted)).map(|(key, _)| key.clone()).collect()
    }

    /// A neighbour asks. The predecessor waits until what it has sent of this chunk is staged here, or rejected: what is
    /// damaged here is repaired for that, and where nobody has it, its update is decided before it hears so. A successor
    /// never waits, so nobody waits in a circle.
    pub(super) fn on_fetch(&mut self, cx: &mut Cx<P>, from: TargetId, fetch: Fetch) {
        let Some(key) = ChunkKey::new(&fetch.key) else { return };
        let upstream = self.role().pred == Some(from);
        match self.chunks.get_mut(&key).filter(|c| upstream && c.unsettled()) {
            Some(chunk) => chunk.asker = Some(fetch),
            None => self.answer_fetch(cx, from, &key, fetch),
        }
    }

    fn answer_fetch(&mut self, cx: &mut Cx<P>, from: TargetId, key: &ChunkKey, fetch: Fetch) {
        let held = cx.store.meta(key).and_then(|m| if is(Mutation::FetchAny) { m.committed } else { held(&m, fetch.ver) });
        let held = held.filter(|c| c.checksum == fetch.checksum || is(Mutation::FetchAny));
        let Some(held) = held else { return self.on_fetch_read(cx, from, fetch, Err(Code::NotFound)) };
        let id = self.new_id();
        self.reads.insert(id, Reading::Fetch { to: from, fetch, held });
        cx.store.read(id, key, held.ver, 0, held.len);
    }

    /// Answers the predecessor, if its question waited and can be answered now.
    pub(super) fn answer_asker(&mut self, cx: &mut Cx<P>, key: &ChunkKey) {
        let asker = self.chunks.get_mut(key).and_then(|c| if c.unsettled() { None } else { c.asker.take() });
        if let (Some(fetch), Some(pred)) = (asker, self.role().pred) {
            self.answer_fetch(cx, pred, key, fetch);
        }
    }

    /// What a neighbour asked for has been read, or cannot be.
    pub(super) fn on_fetch_read(
        &mut self,
        cx: &mut Cx<P>,
        to: TargetId,
        fetch: Fetch,
        result: Result<(Committed, Payload<P>), Code>,
    ) {
        let Fetch { id, key, ver, .. } = fetch;
        if result.is_ok() {
            self.damage.is_good(&key, ver);
        }
        let (code, committed, payload) = match result {
            Ok((held, payload)) => (Code::Ok, Some(held), Some(payload)),
            Err(code) => (code, None, None),
        };
        self.counters.fetches_served += u64::from(committed.is_some());
        self.send(cx, to, Body::Fetched(Fetched { id, key, code: code as i32, committed }), payload);
    }

    /// A neighbour's answer: taken only if it is what is committed here, to the byte.
    pub(super) fn on_fetched(&mut self, cx: &mut Cx<P>, from: TargetId, fetched: Fetched, payload: Option<Payload<P>>) {
        let Some(key) = ChunkKey::new(&fetched.key) else { return };
        let asked = Step::Asking { id: fetched.id, from };
        let Some(repair) = self.repair(&key).filter(|r| r.step == asked) else { return };
        let wanted = repair.wanted;
        let same = fetched.committed.is_some_and(|c| (c.ver, c.checksum) == (wanted.ver, wanted.checksum));
        let bytes = payload.filter(|p| same && (p.len, p.crc) == (wanted.len, wanted.checksum) || is(Mutation::TakeAny));
        let (Code::Ok, Some(payload)) = (fetched.code(), bytes) else {
            self.counters.protocol_errors += u64::from(fetched.code() == Code::Ok);
            return self.ask_next(cx, &key);
        };
        let Some(chunk_size) = cx.store.meta(&key).map(|m| m.chunk_size) else { return };
        let id = self.new_id();
        match cx.store.install(id, &key, chunk_size, wanted, payload) {
            Ok(()) => {
                self.damage.installs.insert(id, key.clone());
                self.chunks.entry(key).or_default().repair =
                    Some(Repair { wanted, rest: Vec::new(), step: Step::Installing { id } });
            }
            Err(code) => self.not_repaired(cx, &key, code),
        }
    }

    /// Something is durable; `true` if it was a repair.
    pub(super) fn on_installed(&mut self, cx: &mut Cx<P>, id: u64) -> bool {
        let Some(key) = self.damage.installs.remove(&id) else { return false };
        self.counters.repairs += 1;
        self.damage.forget(&key);
        // The turn may have ended since: an update was rejected, a chain version came.
        if self.repair(&key).is_some_and(|r| r.step == Step::Installing { id }) {
            self.repaired(cx, &key);
        }
        true
    }

    fn repaired(&mut self, cx: &mut Cx<P>, key: &ChunkKey) {
        let Some(chunk) = self.chunks.get_mut(key) else { return };
        chunk.repair = None;
        match chunk.busy {
            Some(Busy::Update(_)) => self.stage_again(cx, key),
            // What the sink holds now is not known: an empty entry never compares as equal.
            Some(Busy::Settle) => self.start_settle(cx, key, Some(ChunkMeta::default())),
            _ => return self.end_repair(cx, key),
        }
        self.answer_asker(cx, key);
    }

    /// No neighbour has it, or there is no room for it.
    fn not_repaired(&mut self, cx: &mut Cx<P>, key: &ChunkKey, code: Code) {
        self.counters.unrepaired += 1;
        let Some(chunk) = self.chunks.get_mut(key) else { return };
        match chunk.busy {
            Some(Busy::Update(_)) => self.cannot_stage(cx, key, code),
            Some(Busy::Settle) => self.cannot_settle(cx, key, code),
            _ => self.end_repair(cx, key),
        }
    }

    fn end_repair(&mut self, cx: &mut Cx<P>, key: &ChunkKey) {
        self.damage.running.remove(key);
        if let Some(chunk) = self.chunks.get_mut(key) {
            chunk.repair = None;
            chunk.busy = None;
        }
        self.answer_asker(cx, key);
        self.advance(cx, key);
    }

    /// A stage that had been accepted ended without anything staged: blocks that the update keeps are damaged. Nobody can
    /// have committed an update that is not staged here, so every neighbour still has what it builds on.
    pub(super) fn on_stage_failed(&mut self, cx: &mut Cx<P>, key: &ChunkKey, ver: Ver, code: Code) {
        let meta = cx.store.meta(key);
        let Some(chunk) = self.chunks.get_mut(key).filter(|c| c.repair.is_none()) else { return };
        let Some(inflight) = chunk.update().filter(|f| f.ver == ver && f.stage.is_none() && f.undoing.is_none()) else { return };
        if meta.and_then(|m| m.staged).is_some() {
            return; // about an earlier update of this version, which was rejected
        }
        match meta.and_then(|m| m.committed).filter(|_| inflight.payload.is_some()) {
            Some(committed) => self.begin_repair(cx, key, committed),
            None => self.cannot_stage(cx, key, code),
        }
    }

    /// What the update in flight builds on is good again: the same update, of the same version.
    fn stage_again(&mut self, cx: &mut Cx<P>, key: &ChunkKey) {
        let chain_ver = self.chain_ver();
        let Some(inflight) = self.chunks.get_mut(key).and_then(|c| c.update()) else { return };
        let (Some(op), Some(payload)) = (inflight.op, inflight.payload.clone()) else { return };
        let request = StageRequest {
            key: key.clone(),
            ver: inflight.ver,
            chain_ver,
            tag: inflight.tag,
            op,
            chunk_size: inflight.chunk_size,
            payload,
        };
        match cx.store.stage(request) {
            Ok(()) => self.counters.restaged += 1,
            Err(code) => self.cannot_stage(cx, key, code),
        }
    }

    /// The update that has the turn cannot be staged here. With nobody behind it is refused like one without room. The
    /// sink of a resync is given up for that; but once SyncDone was sent, the next chain version decides. A successor may
    /// hold the update: then this target leaves the chain, which goes on without it, and rejoins through resync.
    fn cannot_stage(&mut self, cx: &mut Cx<P>, key: &ChunkKey, code: Code) {
        let succ = self.role().succ.is_some();
        let Some(inflight) = self.chunks.get_mut(key).and_then(|c| c.update()) else { return };
        let text = format!("chunk {key} version {} cannot be staged: {code:?}", inflight.ver);
        if matches!(inflight.next, Next::To(_)) {
            if succ {
                return self.distrust(cx, text);
            }
            if !self.source.as_mut().is_some_and(|source| source.give_up(text.clone())) {
                return match self.repair(key) {
                    Some(repair) => repair.step = Step::Waiting,
                    None => self.distrust(cx, text),
                };
            }
            self.act_as_tail(cx);
        }
        self.undone(cx, key, code, self.me);
    }
}

/// What is held of version `ver`, committed or staged durably.
fn held(meta: &ChunkMeta, ver: Ver) -> Option<Committed> {
    let staged = meta.staged.filter(|s| s.durable && !s.remove).map(|s| Committed {
        ver: s.ver,
        chain_ver: s.chain_ver,
        len: s.len,
        checksum: s.checksum,
        tag: s.tag,
    });
    [meta.committed, staged].into_iter().flatten().find(|c| c.ver == ver)
}
