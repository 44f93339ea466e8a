//! A chunk that differs at the sink of a resync: block by block, or whole.
//!
//! The source asks for the checksums of the sink's blocks, compares them with its own, reads and sends the blocks that
//! differ, and then says which version they make. The chunk keeps its turn all the time, so that neither side changes.
//! What must hold: the sink takes the version only if its checksum comes out; whatever else happens, the whole chunk is
//! sent. All that is sent because of one question carries its number, so that nothing of an earlier one is taken for it.

use std::ops::Range;

use catena_types::limits::BLOCK;
use catena_types::{ChunkKey, Code, Committed, Payload};
use catena_wire::peer::{Body, Sums, SyncPart, SyncPatch, SyncSums};

use super::read::Reading;
use super::source::{patchable, same};
use super::{Cx, Replica};
use crate::mutation::{Mutation, is};

/// Most parts a chunk is sent in; parts that lie near each other are sent as one where there are more.
const MOST_PARTS: usize = 256;

/// How a chunk at the sink differs, as far as it is known.
#[derive(Clone, Hash)]
pub(super) struct Difference {
    /// Number of the question, of the own checksums and of everything sent because of them.
    pub(super) id: u64,
    ours: Option<Vec<u32>>,
    theirs: Option<Vec<u32>>,
    /// Length at the sink in bytes.
    their_len: u32,
    /// Parts to be sent, and those of them that are still being read.
    parts: u32,
    reading: u32,
}

impl<P: Clone> Replica<P> {
    /// Asks both sides for the checksums of the chunk's blocks.
    pub(super) fn start_comparison(&mut self, cx: &mut Cx<P>, key: &ChunkKey, ours: Committed) {
        let id = self.new_id();
        let Some(source) = &mut self.source else { return };
        let sink = source.sink();
        let Some(difference) = source.difference(key) else { return };
        *difference = Some(Difference { id, ours: None, theirs: None, their_len: 0, parts: 0, reading: 0 });
        self.send(cx, sink, Body::SyncSums(SyncSums { id, key: key.as_bytes().to_vec() }), None);
        cx.store.sums(id, key, ours.ver);
    }

    /// The difference of the chunk that has the turn, if that is still the question.
    fn difference(&mut self, key: &ChunkKey, id: u64) -> Option<&mut Difference> {
        let in_repair = self.chunks.get(key).is_none_or(|c| c.repair.is_some());
        let difference = self.source.as_mut()?.difference(key)?.as_mut()?;
        (difference.id == id && !in_repair).then_some(difference)
    }

    /// The checksums of our own blocks.
    pub(super) fn on_own_sums(&mut self, cx: &mut Cx<P>, id: u64, result: Result<Vec<u32>, Code>) {
        let Some(key) = self.source.as_ref().and_then(|s| s.compared(id)) else { return };
        let Some(committed) = cx.store.meta(&key).and_then(|m| m.committed) else { return };
        let Some(difference) = self.difference(&key, id) else { return };
        match result {
            Ok(crcs) => {
                difference.ours = Some(crcs);
                self.compare(cx, &key, id, committed);
            }
            Err(_) => self.send_whole(cx, &key, committed),
        }
    }

    /// The checksums of the sink's blocks, or what else it holds.
    pub(super) fn on_sums(&mut self, cx: &mut Cx<P>, sums: Sums) {
        let Some(key) = ChunkKey::new(&sums.key) else { return };
        let mine = cx.store.meta(&key);
        let Some(ours) = mine.and_then(|m| m.committed) else { return };
        let Some(difference) = self.difference(&key, sums.id) else { return };
        if difference.theirs.is_some() {
            return;
        }
        let patches = |theirs: &catena_types::ChunkMeta| {
            mine.is_some_and(|m| m.chunk_size == theirs.chunk_size) && patchable(theirs, &ours) && !sums.crcs.is_empty()
        };
        match sums.meta {
            // A link broke, and yet the sink had taken it.
            Some(theirs) if !sums.crcs.is_empty() && same(&theirs, &ours, mine) => {
                let (key, code) = (sums.key, Code::Ok as i32);
                self.on_synced(cx, catena_wire::peer::Synced { key, code, id: 0 });
            }
            Some(theirs) if patches(&theirs) => {
                difference.their_len = theirs.committed.map_or(0, |c| c.len);
                difference.theirs = Some(sums.crcs);
                self.compare(cx, &key, sums.id, ours);
            }
            _ => self.send_whole(cx, &key, ours),
        }
    }

    /// Both sides are known: reads what differs, if it is worth it.
    fn compare(&mut self, cx: &mut Cx<P>, key: &ChunkKey, id: u64, committed: Committed) {
        let Some(difference) = self.difference(key, id) else { return };
        let (Some(ours), Some(theirs)) = (&difference.ours, &difference.theirs) else { return };
        let grows = difference.their_len < committed.len;
        let blocks = committed.len.div_ceil(BLOCK);
        let (count, mut parts) = differing(ours, theirs, grows);
        if ours.len() as u32 != blocks || count * 4 > blocks * 3 {
            return self.send_whole(cx, key, committed);
        }
        coalesce(&mut parts, MOST_PARTS);
        parts.truncate(parts.len() - usize::from(is(Mutation::SkipPart) && !parts.is_empty()));
        (difference.parts, difference.reading) = (parts.len() as u32, parts.len() as u32);
        for part in &parts {
            let (offset, end) = (part.start * BLOCK, (part.end * BLOCK).min(committed.len));
            let read = self.new_id();
            self.reads.insert(read, Reading::Part { key: key.clone(), id, offset, len: end - offset });
            cx.store.read(read, key, committed.ver, offset, end - offset);
        }
        self.parts_sent(cx, key, id);
    }

    /// A part has been read: sends it.
    pub(super) fn on_part_read(
        &mut self,
        cx: &mut Cx<P>,
        key: &ChunkKey,
        id: u64,
        offset: u32,
        result: Result<Payload<P>, Code>,
    ) {
        let rate = self.config.sync_rate;
        let Some(difference) = self.difference(key, id) else { return };
        let Ok(payload) = result else {
            // A repair makes the chunk whole, and then everything begins again.
            difference.id = 0;
            return self.settle_damaged(cx, key);
        };
        difference.reading -= 1;
        self.counters.sync_bytes += u64::from(payload.len);
        let Some(source) = &mut self.source else { return };
        source.sent(cx.now, payload.len, rate);
        let sink = source.sink();
        self.send(cx, sink, Body::SyncPart(SyncPart { id, key: key.as_bytes().to_vec(), offset }), Some(payload));
        self.parts_sent(cx, key, id);
    }

    /// All parts have been sent: says which version they make.
    fn parts_sent(&mut self, cx: &mut Cx<P>, key: &ChunkKey, id: u64) {
        let Some(committed) = cx.store.meta(key).and_then(|m| m.committed) else { return };
        let Some(difference) = self.difference(key, id).filter(|d| d.reading == 0) else { return };
        let parts = difference.parts;
        self.counters.sync_patches += 1;
        let Some(source) = &mut self.source else { return };
        source.chunk_sent();
        let sink = source.sink();
        self.send(cx, sink, Body::SyncPatch(SyncPatch { id, key: key.as_bytes().to_vec(), committed, parts }), None);
    }

    /// The sink could not make the version from what was sent: it gets the whole chunk.
    pub(super) fn not_patched(&mut self, cx: &mut Cx<P>, key: &ChunkKey, id: u64) {
        let Some(committed) = cx.store.meta(key).and_then(|m| m.committed) else { return };
        if self.difference(key, id).is_some() {
            self.counters.sync_refused += 1;
            self.send_whole(cx, key, committed);
        }
    }
}

/// The blocks of `ours` that `theirs` has not, and how many they are. The last one counts where the chunk has grown: it
/// says how long the chunk is.
fn differing(ours: &[u32], theirs: &[u32], grows: bool) -> (u32, Vec<Range<u32>>) {
    let mut parts: Vec<Range<u32>> = Vec::new();
    let mut count = 0;
    for (block, crc) in (0u32..).zip(ours) {
        let last = block as usize + 1 == ours.len();
        if theirs.get(block as usize) == Some(crc) && !(last && grows) {
            continue;
        }
        count += 1;
        match parts.last_mut() {
            Some(part) if part.end == block => part.end += 1,
            _ => parts.push(block..block + 1),
        }
    }
    (count, parts)
}

/// Joins parts with ever larger gaps between them, until there are no more than `most`.
fn coalesce(parts: &mut Vec<Range<u32>>, most: usize) {
    let mut gap = 1;
    while parts.len() > most {
        let mut joined: Vec<Range<u32>> = Vec::with_capacity(parts.len());
        for part in parts.drain(..) {
            match joined.last_mut() {
                Some(last) if part.start - last.end <= gap => last.end = part.end,
                _ => joined.push(part),
            }
        }
        *parts = joined;
        gap *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs() {
        assert_eq!(differing(&[1, 2, 3, 4], &[1, 9, 9, 4], false), (2, std::iter::once(1..3).collect()));
        assert_eq!(differing(&[1, 2, 3, 4], &[1, 2], false), (2, std::iter::once(2..4).collect()));
        assert_eq!(differing(&[1, 2], &[1, 2], false), (0, Vec::new()));
        assert_eq!(differing(&[1, 2], &[1, 2], true), (1, std::iter::once(1..2).collect()), "the end of a chunk that grew");
        assert_eq!(differing(&[5, 2, 7], &[1, 2, 3], false), (2, vec![0..1, 2..3]));
    }

    #[test]
    fn many_parts_become_few() {
        let mut parts: Vec<Range<u32>> = (0..100).map(|n| n * 3..n * 3 + 1).collect();
        parts.push(1000..1001);
        coalesce(&mut parts, 10);
        assert_eq!(parts, vec![0..298, 1000..1001]);
    }
}
