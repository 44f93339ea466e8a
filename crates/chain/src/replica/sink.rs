//! The SYNCING member's part of a resync: it says what it holds, takes what differs, and says when all is durable
//! (protocol section 7, amendments C13 and H6).

use std::collections::BTreeMap;

use catena_types::{ChunkKey, ChunkMeta, Code, limits};
use catena_wire::peer::{Body, Page, PageEntry, SyncDone, SyncDoneReply, SyncDrop, SyncPage, SyncPut, SyncSessions, Synced};

use super::chunk::{Busy, Turn};
use super::{Cx, Replica};
use crate::api::Payload;
use crate::mutation::{Mutation, is};

/// State of a sink under one chain version.
#[derive(Clone, Default, Hash)]
pub(super) struct Sink {
    /// Session rows were forgotten, as a resync does first.
    started: bool,
    /// IO that was in flight when the resync began has ended.
    quiet: bool,
    /// The page to answer once it is quiet.
    asked: Option<SyncPage>,
    /// Everything the source sent is durable.
    done: bool,
    /// What the engine has been asked to make durable.
    syncs: BTreeMap<u64, Waiting>,
}

#[derive(Clone, Hash)]
enum Waiting {
    Quiet,
    Install(ChunkKey),
    Done,
}

impl Sink {
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
        let good =
            payload.len == put.committed.len && payload.crc == put.committed.checksum && limits::valid_chunk_size(put.chunk_size);
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

    pub(super) fn start_put(&mut self, cx: &mut Cx<P>, key: &ChunkKey, put: SyncPut, payload: Payload<P>) {
        let id = self.new_id();
        match cx.store.install(id, key, put.chunk_size, put.committed, payload.data) {
            Ok(()) if is(Mutation::SyncedEarly) => {
                self.installing(id, key);
                self.reply_upstream(cx, Body::Synced(Synced { key: key.as_bytes().to_vec(), code: Code::Ok as i32 }));
            }
            Ok(()) => self.installing(id, key),
            Err(code) => self.reply_upstream(cx, Body::Synced(Synced { key: key.as_bytes().to_vec(), code: code as i32 })),
        }
    }

    pub(super) fn start_drop(&mut self, cx: &mut Cx<P>, key: &ChunkKey) {
        let id = self.new_id();
        cx.store.purge(id, key);
        self.installing(id, key);
    }

    fn installing(&mut self, id: u64, key: &ChunkKey) {
        if let Some(sink) = &mut self.sink {
            sink.syncs.insert(id, Waiting::Install(key.clone()));
            self.chunks.entry(key.clone()).or_default().busy = Some(Busy::Install);
        }
    }

    pub(super) fn on_sync_sessions(&mut self, cx: &mut Cx<P>, sessions: SyncSessions) {
        for entry in sessions.rows {
            cx.store.put_session(entry.id, entry.row);
        }
    }

    pub(super) fn on_sync_done(&mut self, cx: &mut Cx<P>, done: SyncDone) {
        cx.store.raise_remove_floor(done.remove_floor * u64::from(!is(Mutation::ForgetFloor)));
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
            Some(Waiting::Install(key)) => {
                self.damage.forget(&key);
                self.reply_upstream(cx, Body::Synced(Synced { key: key.as_bytes().to_vec(), code: Code::Ok as i32 }));
                if let Some(chunk) = self.chunks.get_mut(&key) {
                    chunk.busy = None;
                }
                self.advance(cx, &key);
            }
            Some(Waiting::Done) => {
                sink.done = true;
                self.reply_upstream(cx, Body::SyncDoneReply(SyncDoneReply {}));
            }
            None => {}
        }
    }
}
