//! Bit rot: bits flip in data blocks of a node's disks, open or closed.
//!
//! In most runs only one node rots, so that at most one replica of a chunk is damaged at a time; and its rot is taken back,
//! as if it had never been, where nobody else could have good bytes. So everything can be demanded to be whole at the end,
//! by repair alone. In the others every node rots, copies are lost, and nothing may be wrong but that; the rot that is left
//! is taken back when the faults stop.

use std::collections::BTreeMap;

use catena_engine::disk::BLOCK_BYTES;
use catena_engine::disk::mem::MemDisk;
use catena_types::crc::crc32c;
use catena_types::{PublicState, Routing, TargetId};

use super::World;
use crate::rng::Rng;

/// What is rotten on one disk, by block. A block that has been written since is not.
#[derive(Default)]
pub(super) struct Rot(BTreeMap<u64, Rotten>);

struct Rotten {
    /// Byte and bit.
    flips: Vec<(u64, u8)>,
    /// CRC-32C of the block as it is now.
    crc: u32,
}

impl Rot {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Flips a bit in about one of `one_in` data blocks, which start at byte `data`. Returns how many. Blocks that a power
    /// cut may still change are spared: what it left there could not be told from rot.
    pub(super) fn strike(&mut self, disk: &MemDisk, data: u64, one_in: u64, rng: &mut Rng) -> u64 {
        let mut struck = 0;
        let unflushed = disk.unflushed_blocks();
        for block in disk.blocks().into_iter().filter(|b| b * BLOCK_BYTES >= data && !unflushed.contains(b)) {
            if rng.below(one_in) > 0 {
                continue;
            }
            struck += 1;
            let flip = (block * BLOCK_BYTES + rng.below(BLOCK_BYTES), rng.below(8) as u8);
            let mut flips = self.0.remove(&block).filter(|r| r.crc == crc_of(disk, block)).map_or(Vec::new(), |r| r.flips);
            disk.flip(flip.0, flip.1);
            flips.push(flip);
            self.0.insert(block, Rotten { flips, crc: crc_of(disk, block) });
        }
        struck
    }

    /// Takes it back wherever the block has not been written since. Says whether there was any.
    pub(super) fn take_back(&self, disk: &MemDisk) -> bool {
        for (block, rotten) in &self.0 {
            if rotten.crc == crc_of(disk, *block) {
                rotten.flips.iter().for_each(|(byte, bit)| disk.flip(*byte, *bit));
            }
        }
        !self.is_empty()
    }
}

fn crc_of(disk: &MemDisk, block: u64) -> u32 {
    let (offset, len) = (block * BLOCK_BYTES, BLOCK_BYTES as usize);
    if disk.is_unreadable(offset, len) { 0 } else { crc32c(&disk.peek(offset, len)) }
}

impl World {
    /// A disk of a node that rots loses some bits; of the only one that does, if somebody else has what is on it.
    pub(super) fn rot(&mut self, node: usize) {
        let node = self.plan.rotting.unwrap_or(node);
        let slot = self.rng.below(self.plan.targets as u64) as usize;
        let one_in = self.rng.between(1, 4);
        let target = self.nodes[node].slots[slot].id;
        if self.nodes[node].slots[slot].has_other_disk() {
            return;
        }
        let alone = alone(&self.manager.routing(), target) || alone(&self.manager.decided(), target);
        if self.plan.rotting.is_some() && alone {
            return self.coverage.hit("rot held back");
        }
        let s = &mut self.nodes[node].slots[slot];
        s.rotted = true;
        let (struck, what) = match &mut s.open {
            Some(open) => (open.store.rot(&mut s.rot, one_in, &mut self.rng), "rot while open"),
            None => (s.medium.rot(&mut s.rot, one_in, &mut self.rng), "rot while closed"),
        };
        self.coverage.add(what, struck);
        self.note(|| format!("bits flip at {struck} places of t{target}"));
    }

    /// Where the rotting target is the last one to have its chain's data, it never rotted.
    pub(super) fn spare_the_last(&mut self, routing: &Routing) {
        let Some(node) = self.plan.rotting else { return };
        for slot in 0..self.nodes[node].slots.len() {
            if alone(routing, self.nodes[node].slots[slot].id) {
                self.take_back(node, slot);
            }
        }
    }

    /// The faults stop: where all disks rotted, what is left of it never was.
    pub(super) fn end_rot(&mut self) {
        let nodes = if self.plan.rotting.is_none() { self.nodes.len() } else { 0 };
        for node in 0..nodes {
            (0..self.nodes[node].slots.len()).for_each(|slot| self.take_back(node, slot));
        }
    }

    fn take_back(&mut self, node: usize, slot: usize) {
        let s = &mut self.nodes[node].slots[slot];
        let rot = std::mem::take(&mut s.rot);
        let any = match &mut s.open {
            Some(open) => open.store.take_back(&rot),
            None => s.medium.take_back(&rot),
        };
        if any {
            self.coverage.hit("rot taken back");
            self.note(|| format!("rot of node {} slot {slot} is taken back", node + 1));
        }
    }

    /// The end of a journal whose data has rotted cannot be told from one that a power cut tore, and is dropped: a limit of
    /// the engine that is known, and not what is tested here.
    pub(super) fn spare_the_journals_end(&mut self, node: usize, slot: usize) {
        let s = &self.nodes[node].slots[slot];
        let Some(disk) = s.medium.disk().filter(|_| !s.rot.is_empty()) else { return };
        if disk.dropped_at_open() != disk.without(&s.rot).dropped_at_open() {
            self.take_back(node, slot);
        }
    }
}

/// Whether nobody but `target` has the data of its chain for sure.
fn alone(routing: &Routing, target: TargetId) -> bool {
    let chain = routing.target(target).and_then(|t| routing.chain(t.chain));
    let has_data = |state: PublicState| matches!(state, PublicState::Serving | PublicState::LastSrv);
    let node = |target| routing.target(target).map(|t| t.node);
    // A replica may be moving between two disks of one node: both rot.
    let elsewhere = |t: TargetId| node(t) != node(target);
    !chain.is_some_and(|c| c.members.iter().any(|m| elsewhere(m.target) && has_data(m.state())))
}
