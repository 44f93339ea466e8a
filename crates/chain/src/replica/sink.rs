//! The SYNCING member's part of a resync: it says what it holds, takes what differs, and says when all is durable
//! (protocol section 7, amendments C13 and H6).

use std::collections::BTreeMap;

use catena_types::limits::{self, valid_chunk_size};
use catena_types::store::Part;
use catena_types::{ChunkKey, ChunkMeta, Code, Payload};
use catena_wire::peer::{
    Body, Page, PageEntry, Sums, SyncDone, SyncDoneReply, SyncDrop, SyncLost, SyncPage, SyncPart, SyncPatch, SyncPut,
    SyncSessions, SyncSums, Synced,
};

use super::chunk::{Busy, Turn};
use super::{Cx, Replica};
use crate::mutation::{Mutation, is};

/// State of a sink under one chain version.
#[derive(Clone, Hash)]
pub(super) struct Sink<P> {
    /// Session rows were forgotten, as a resync does first.
    started: bool,
    /// IO that was in flight when the resync began has ended.
    quiet: bool,
    /// The page to answer once it is quiet.
    asked: Option<SyncPage>,
    /// Everything the source sent is durable.
    done: bool,
    /// What the engine has been asked for.
    syncs: BTreeMap<u64, Waiting>,
    /// Parts of chunks that have come, and the question they belong to.
    parts: BTreeMap<ChunkKey, (u64, Vec<Part<P>>)>,
    /// A chunk was lost.
    lost: bool,
}

#[derive(Clone, Hash)]
enum Waiting {
    Quiet,
    /// Checksums of the chunk's blocks, for the question of that number.
    Sums(ChunkKey, u64),
    /// A version of the chunk, by the patch of that number if it is not 0.
    Install(ChunkKey, u64),
    Done,
}

impl<P> Default for Sink<P> {
    fn default() -> Sink<P> {
        Sink {
            started: false,
            quiet: false,
            asked: None,
            done: false,
            syncs: BTreeMap::new(),
            parts: BTreeMap::new(),
            lost: false,
        }
    }
}

impl<P> Sink<P> {
    pub(super) fn up_to_date(&self) -> bool {
        self.done
    }
}

impl<P: Clone> Replica<P> {
    pub(super) fn on_sync_page(&mut self, cx: &mut Cx<P>, page: SyncPage) {
        let id = self.new_id();
        let Some(sink) = &mut self.sink else { return };
        if !sink.started {
            sink.started = true;
            if !is(Mutation::KeepOldRows) {
                cx.store.clear_sessions();
            }
            sink.syncs.insert(id, Waiting::Quiet);
            cx.store.sync(id);
        }
        if sink.quiet || is(Mutation::NotQuiet) {
            return self.answer_page(cx, page);
        }
        sink.asked = Some(page);
    }

    fn answer_page(&mut self, cx: &mut Cx<P>, page: SyncPage) {
        let most = limits::MAX_PAGE as usize;
        let mut held = cx.store.scan(&page.from, most + 1);
        let mut end = page.to;
        if held.len() > most && (end.is_empty() || held[most].0.as_bytes() < end.as_slice()) {
            end = held[most].0.as_bytes().to_vec();
        }
        held.retain(|(key, _)| end.is_empty() || key.as_bytes() < end.as_slice());
        // An empty entry never compares as equal: what is damaged here is sent anew.
        let entry = |(key, meta): (ChunkKey, ChunkMeta)| {
            let meta = if self.damage.knows(&key) { ChunkMeta::default() } else { meta };
            PageEntry { key: key.as_bytes().to_vec(), meta }
        };
        let entries = held.into_iter().map(entry).collect();
        self.reply_upstream(cx, Body::Page(Page { from: page.from, end, entries }));
    }

    pub(super) fn on_sync_put(&mut self, cx: &mut Cx<P>, put: SyncPut, payload: Payload<P>) {
        let good = payload.len == put.committed.len && payload.crc == put.committed.checksum && valid_chunk_size(put.chunk_size);
        let Some(key) = ChunkKey::new(&put.key).filter(|_| good) else {
            self.counters.protocol_errors += 1;
            return;
        };
        self.chunks.entry(key.clone()).or_default().queue.push_back(Turn::Put(Box::new(put), payload));
        self.advance(cx, &key);
    }

    pub(super) fn on_sync_drop(&mut self, cx: &mut Cx<P>, drop: SyncDrop) {
        let Some(key) = ChunkKey::new(&drop.key) else { return };
        self.chunks.entry(key.clone()).or_default().queue.push_back(Turn::Drop);
        self.advance(cx, &key);
    }

    /// The source wants to know what differs.
    pub(super) fn on_sync_sums(&mut self, cx: &mut Cx<P>, sums: SyncSums) {
        let Some(key) = ChunkKey::new(&sums.key) else { return };
        self.chunks.entry(key.clone()).or_default().queue.push_back(Turn::Sums(sums.id));
        self.advance(cx, &key);
    }

    pub(super) fn on_sync_part(&mut self, part: SyncPart, payload: Payload<P>) {
        let (Some(key), Some(sink)) = (ChunkKey::new(&part.key), &mut self.sink) else { return };
        let (id, parts) = sink.parts.entry(key).or_insert((part.id, Vec::new()));
        if *id != part.id {
            (*id, *parts) = (part.id, Vec::new());
        }
        parts.push(Part { offset: part.offset, len: payload.len, crc: payload.crc, payload: payload.data });
    }

    pub(super) fn on_sync_patch(&mut self, cx: &mut Cx<P>, patch: SyncPatch) {
        let (Some(key), Some(sink)) = (ChunkKey::new(&patch.key), &mut self.sink) else { return };
        let (id, mut parts) = sink.parts.remove(&key).unwrap_or((patch.id, Vec::new()));
        // Parts are read side by side, and come as they were read.
        parts.sort_by_key(|part| part.offset);
        if id != patch.id || parts.len() != patch.parts as usize {
            // A link broke between them. The source has begun anew, or will.
            return self.synced(cx, &key, Code::Corrupt, patch.id);
        }
        self.chunks.entry(key.clone()).or_default().queue.push_back(Turn::Patch(Box::new(patch), parts));
        self.advance(cx, &key);
    }

    pub(super) fn on_sync_lost(&mut self, cx: &mut Cx<P>, lost: SyncLost) {
        let good = valid_chunk_size(lost.chunk_size) && lost.committed.len <= lost.chunk_size;
        let Some(key) = ChunkKey::new(&lost.key).filter(|_| good) else {
            self.counters.protocol_errors += 1;
            return;
        };
        self.chunks.entry(key.clone()).or_default().queue.push_back(Turn::Lost(Box::new(lost)));
        self.advance(cx, &key);
    }

    /// Answers with what is held now, and the checksums of its blocks where they may be compared: what is staged or
    /// damaged is sent anew.
    pub(super) fn start_sums(&mut self, cx: &mut Cx<P>, key: &ChunkKey, question: u64) {
        let meta = cx.store.meta(key).filter(|m| m.staged.is_none() && !self.damage.knows(key));
        let Some(committed) = meta.and_then(|m| m.committed) else { return self.answer_sums(cx, key, question, Vec::new()) };
        let id = self.new_id();
        let Some(sink) = &mut self.sink else { return };
        sink.syncs.insert(id, Waiting::Sums(key.clone(), question));
        self.chunks.entry(key.clone()).or_default().busy = Some(Busy::Install);
        cx.store.sums(id, key, committed.ver);
    }

    fn answer_sums(&mut self, cx: &mut Cx<P>, key: &ChunkKey, id: u64, crcs: Vec<u32>) {
        let meta = cx.store.meta(key);
        self.reply_upstream(cx, Body::Sums(Sums { id, key: key.as_bytes().to_vec(), meta, crcs }));
    }

    /// The engine has the checksums that the source asked for, or we those of our own blocks.
    pub(super) fn on_store_sums(&mut self, cx: &mut Cx<P>, id: u64, result: Result<Vec<u32>, Code>) {
        let Some(sink) = &mut self.sink else { return self.on_own_sums(cx, id, result) };
        let Some(Waiting::Sums(key, question)) = sink.syncs.remove(&id) else { return };
        self.answer_sums(cx, &key, question, result.unwrap_or_default());
        self.end_install(cx, &key);
    }

    pub(super) fn start_put(&mut self, cx: &mut Cx<P>, key: &ChunkKey, put: SyncPut, payload: Payload<P>) {
        let id = self.new_id();
        match cx.store.install(id, key, put.chunk_size, put.committed, payload) {
            Ok(()) if is(Mutation::SyncedEarly) => {
                self.installing(id, key, 0);
                self.synced(cx, key, Code::Ok, 0);
            }
            Ok(()) => self.installing(id, key, 0),
            Err(code) => self.synced(cx, key, code, 0),
        }
    }

    pub(super) fn start_patch(&mut self, cx: &mut Cx<P>, key: &ChunkKey, patch: SyncPatch, parts: Vec<Part<P>>) {
        let id = self.new_id();
        match cx.store.patch(id, key, patch.committed, parts) {
            Ok(()) => self.installing(id, key, patch.id),
            Err(_) => self.synced(cx, key, Code::Corrupt, patch.id),
        }
    }

    pub(super) fn start_lost(&mut self, cx: &mut Cx<P>, key: &ChunkKey, lost: SyncLost) {
        let id = self.new_id();
        match cx.store.install_lost(id, key, lost.chunk_size, lost.committed) {
            Ok(()) => {
                self.damage.lost(key, lost.committed.ver);
                self.installing(id, key, 0);
                if let Some(sink) = &mut self.sink {
                    sink.lost = true;
                }
            }
            Err(code) => self.synced(cx, key, code, 0),
        }
    }

    pub(super) fn start_drop(&mut self, cx: &mut Cx<P>, key: &ChunkKey) {
        let id = self.new_id();
        cx.store.purge(id, key);
        self.installing(id, key, 0);
    }

    fn installing(&mut self, id: u64, key: &ChunkKey, patch: u64) {
        if let Some(sink) = &mut self.sink {
            sink.syncs.insert(id, Waiting::Install(key.clone(), patch));
            self.chunks.entry(key.clone()).or_default().busy = Some(Busy::Install);
        }
    }

    fn synced(&mut self, cx: &mut Cx<P>, key: &ChunkKey, code: Code, id: u64) {
        self.reply_upstream(cx, Body::Synced(Synced { key: key.as_bytes().to_vec(), code: code as i32, id }));
    }

    fn end_install(&mut self, cx: &mut Cx<P>, key: &ChunkKey) {
        if let Some(chunk) = self.chunks.get_mut(key) {
            chunk.busy = None;
        }
        self.advance(cx, key);
    }

    /// What is held here is not what the parts were made for.
    pub(super) fn on_not_patched(&mut self, cx: &mut Cx<P>, id: u64) {
        let Some(Waiting::Install(key, patch)) = self.sink.as_mut().and_then(|s| s.syncs.remove(&id)) else { return };
        self.synced(cx, &key, Code::Corrupt, patch);
        self.end_install(cx, &key);
    }

    pub(super) fn on_sync_sessions(&mut self, cx: &mut Cx<P>, sessions: SyncSessions) {
        for entry in sessions.rows {
            cx.store.put_session(entry.id, entry.row);
        }
    }

    pub(super) fn on_sync_done(&mut self, cx: &mut Cx<P>, done: SyncDone) {
        // The record of a lost chunk cannot be told from a torn one while it is the journal's last: so it is not.
        let above = u64::from(self.sink.as_ref().is_some_and(|s| s.lost));
        let floor = done.remove_floor.max(cx.store.remove_floor() + above);
        cx.store.raise_remove_floor(floor * u64::from(!is(Mutation::ForgetFloor)));
        let id = self.new_id();
        if let Some(sink) = &mut self.sink {
            sink.done = is(Mutation::DoneEarly);
            sink.syncs.insert(id, Waiting::Done);
            cx.store.sync(id);
        }
    }

    /// The engine has made something durable: a repair, or what this sink asked for under the present chain version.
    pub(super) fn on_store_synced(&mut self, cx: &mut Cx<P>, id: u64) {
        if self.on_installed(cx, id) {
            return;
        }
        let Some(sink) = &mut self.sink else { return };
        match sink.syncs.remove(&id) {
            Some(Waiting::Quiet) => {
                sink.quiet = true;
                if let Some(page) = sink.asked.take() {
                    self.answer_page(cx, page);
                }
            }
            Some(Waiting::Install(key, patch)) => {
                self.damage.arrived(&key);
                self.synced(cx, &key, Code::Ok, patch);
                self.end_install(cx, &key);
            }
            Some(Waiting::Done) => {
                sink.done = true;
                self.reply_upstream(cx, Body::SyncDoneReply(SyncDoneReply {}));
            }
            Some(Waiting::Sums(..)) | None => {}
        }
    }
}
