//! The contents of a disk at one moment, and what a power cut then may leave of them.
//!
//! Writes that no flush has covered are kept apart, sector by sector. What must hold: between two cuts of one recorded
//! history, [`Cut::fingerprint`] depends on the bytes left alone, so that two that leave the same bytes are known to be one.
//! Whole blocks are not copied: a write, what reads see and what is durable share them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};

use super::{BLOCK_BYTES, Event, MemDisk, SECTOR};

pub(super) const PAGE: usize = BLOCK_BYTES as usize;
/// What was ever written, by block: [`PAGE`] bytes each.
pub(super) type Pages = BTreeMap<u64, Bytes>;
static ZEROES: [u8; 1 << 20] = [0; 1 << 20];
const SECTOR64: u64 = SECTOR as u64;

/// A write that no flush has covered.
#[derive(Clone)]
struct Unflushed {
    /// Its number among all writes.
    number: u64,
    offset: u64,
    data: Bytes,
}

/// The contents of a disk at one moment.
#[derive(Clone, Default)]
pub struct Image {
    pub(super) durable: Pages,
    /// In order.
    unflushed: VecDeque<Unflushed>,
    pub(super) writes: u64,
    /// Of what has become durable since it was recorded; `None` where nobody asks.
    fingerprint: Option<u64>,
}

/// A sector of a write that no flush has covered, and that a power cut may keep or lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loose {
    /// The write, counted from 0 among those that no flush has covered.
    pub write: usize,
    /// The sector within it.
    pub sector: usize,
    /// Where it is on the disk, in bytes.
    pub offset: u64,
}

impl Image {
    /// Of durable contents only.
    pub(super) fn of(durable: Pages) -> Image {
        Image { durable, ..Image::default() }
    }

    /// The same, as the start of a record: cuts of what it becomes have fingerprints.
    pub(super) fn recorded(&self) -> Image {
        Image { fingerprint: Some(0), ..self.clone() }
    }

    /// Replays a recorded event.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Write { offset, data } => {
                self.writes += 1;
                self.unflushed.push_back(Unflushed { number: self.writes, offset: *offset, data: data.clone() });
            }
            Event::Flush { covered } => self.flush(*covered),
            Event::Forget { covered } => self.forget(*covered),
            Event::Mark(_) => {}
        }
    }

    /// Writes not covered by a flush.
    pub fn unflushed(&self) -> usize {
        self.unflushed.len()
    }

    /// Sectors of [`SECTOR`] bytes in writes not covered by a flush.
    pub fn unflushed_sectors(&self) -> usize {
        self.unflushed.iter().map(|w| w.data.len() / SECTOR).sum()
    }

    /// Numbers of the blocks that they touch.
    pub(super) fn unflushed_blocks(&self) -> BTreeSet<u64> {
        let touched = |w: &Unflushed| w.offset / BLOCK_BYTES..(w.offset + w.data.len() as u64).div_ceil(BLOCK_BYTES);
        self.unflushed.iter().flat_map(touched).collect()
    }

    /// The sectors not covered by a flush that make a difference: they change what is durable, or what an earlier write
    /// not covered by a flush put in the same place.
    pub fn loose(&self) -> Vec<Loose> {
        let mut touched = BTreeMap::new();
        let mut out = Vec::new();
        for (write, w) in self.unflushed.iter().enumerate() {
            for (sector, bytes) in w.data.chunks(SECTOR).enumerate() {
                let offset = w.offset + sector as u64 * SECTOR64;
                if touched.contains_key(&offset) || self.durable_sector(offset) != bytes {
                    touched.insert(offset, ());
                    out.push(Loose { write, sector, offset });
                }
            }
        }
        out
    }

    /// What is on the medium after a power cut at which `keep(write, sector)` decides, for each sector of each write not
    /// covered by a flush (both counted from 0, in order), whether it had reached the medium.
    pub fn cut(&self, mut keep: impl FnMut(usize, usize) -> bool) -> Cut<'_> {
        let mut kept = BTreeMap::new();
        for (write, w) in self.unflushed.iter().enumerate() {
            for (sector, bytes) in w.data.chunks(SECTOR).enumerate() {
                if keep(write, sector) {
                    kept.insert(w.offset + sector as u64 * SECTOR64, bytes);
                }
            }
        }
        Cut { image: self, kept }
    }

    /// As [`Image::cut`], for the sectors of [`Image::loose`] that are in `kept`.
    pub fn cut_to(&self, kept: impl Iterator<Item = Loose>) -> Cut<'_> {
        let bytes = |l: Loose| &self.unflushed[l.write].data[l.sector * SECTOR..(l.sector + 1) * SECTOR];
        Cut { image: self, kept: kept.map(|l| (l.offset, bytes(l))).collect() }
    }

    /// As [`Image::cut`], as a disk.
    pub fn crash(&self, keep: impl FnMut(usize, usize) -> bool) -> MemDisk {
        self.cut(keep).disk()
    }

    /// The disk after the process was killed and before the system has written anything back: reads show everything
    /// written, and the next flush makes all of it durable; till then a power cut loses it.
    pub fn killed(&self) -> MemDisk {
        let mut current = self.durable.clone();
        self.unflushed.iter().for_each(|w| store(&mut current, w.offset, &w.data));
        MemDisk::with(self.clone(), current)
    }

    fn durable_sector(&self, offset: u64) -> &[u8] {
        let at = (offset % BLOCK_BYTES) as usize;
        self.durable.get(&(offset / BLOCK_BYTES)).map_or(&[0; SECTOR], |page| &page[at..at + SECTOR])
    }

    fn flush(&mut self, covered: u64) {
        while let Some(w) = self.unflushed.pop_front_if(|w| w.number <= covered) {
            self.fingerprint = self.fingerprint.map(|print| print ^ self.change(&w));
            store(&mut self.durable, w.offset, &w.data);
        }
    }

    /// What a write changes in the fingerprint as it becomes durable.
    fn change(&self, w: &Unflushed) -> u64 {
        let sectors = (w.offset..).step_by(SECTOR).zip(w.data.chunks(SECTOR));
        let prints = sectors.map(|(offset, bytes)| print_of(offset, self.durable_sector(offset)) ^ print_of(offset, bytes));
        prints.fold(0, |sum, print| sum ^ print)
    }

    /// Drops what a flush would have covered.
    fn forget(&mut self, covered: u64) {
        self.unflushed.retain(|w| w.number > covered);
    }

    /// Changes durable contents behind everybody's back.
    pub(super) fn poke(&mut self, offset: u64, data: &Bytes) {
        store(&mut self.durable, offset, data);
    }
}

/// What a power cut leaves.
pub struct Cut<'a> {
    image: &'a Image,
    /// By place; of two writes to one place the later counts.
    kept: BTreeMap<u64, &'a [u8]>,
}

impl Cut<'_> {
    /// Names the contents: cuts of images that events made out of one recorded ([`MemDisk::record`]) have equal fingerprints
    /// if they leave equal bytes, and hardly ever otherwise.
    pub fn fingerprint(&self) -> u64 {
        let changes = self.kept.iter().map(|(&offset, bytes)| {
            let before = self.image.durable_sector(offset);
            if before == *bytes { 0 } else { print_of(offset, before) ^ print_of(offset, bytes) }
        });
        changes.fold(self.image.fingerprint.unwrap_or(0), |sum, print| sum ^ print)
    }

    /// As a disk.
    pub fn disk(&self) -> MemDisk {
        let mut pages = self.image.durable.clone();
        self.kept.iter().for_each(|(&offset, bytes)| patch(&mut pages, offset, bytes));
        MemDisk::of(pages)
    }
}

/// What one sector adds to a fingerprint; zeroes add nothing, as what was never written.
fn print_of(offset: u64, sector: &[u8]) -> u64 {
    let mut sum = 0u64;
    for word in sector.as_chunks().0 {
        let word = u64::from_le_bytes(*word);
        sum = (sum.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    if sum == 0 {
        return 0;
    }
    let mixed = (sum ^ sum >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ offset.wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// A copy, which keeps no buffer from being used again.
pub(super) fn copy(data: &[u8]) -> Bytes {
    match ZEROES.get(..data.len()) {
        Some(zeroes) if data == zeroes => Bytes::from_static(zeroes),
        _ => Bytes::copy_from_slice(data),
    }
}

/// Writes `data` into pages, which share its whole blocks.
pub(super) fn store(pages: &mut Pages, offset: u64, data: &Bytes) {
    let mut at = 0;
    while at < data.len() {
        let place = offset + at as u64;
        let n = (data.len() - at).min(PAGE - (place % BLOCK_BYTES) as usize);
        if n < PAGE || data[at..at + n] == ZEROES[..PAGE] {
            patch(pages, place, &data[at..at + n]);
        } else {
            pages.insert(place / BLOCK_BYTES, data.slice(at..at + n));
        }
        at += n;
    }
}

/// Copies `data`, which lies within one block, into pages.
pub(super) fn patch(pages: &mut Pages, offset: u64, data: &[u8]) {
    let (block, at) = (offset / BLOCK_BYTES, (offset % BLOCK_BYTES) as usize);
    let old = pages.get_mut(&block).map(std::mem::take);
    if old.is_none() && *data == ZEROES[..data.len()] {
        // What was never written reads as zeroes anyhow: a zeroed journal takes no memory.
        return;
    }
    let old = old.unwrap_or_else(|| Bytes::from_static(&ZEROES[..PAGE]));
    let mut page = old.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    page[at..at + data.len()].copy_from_slice(data);
    pages.insert(block, page.freeze());
}
