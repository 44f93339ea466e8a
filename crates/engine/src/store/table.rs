//! Checksums of data blocks: what is known of the table in memory.
//!
//! Pages are read when a checksum in them is asked for, kept up to a limit, and written by the next checkpoint when they
//! have changed. What must hold: a checksum that was set is not forgotten before a checkpoint has written it, and the write
//! has ended; what the disk says never replaces what was set.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::format::table::{PER_PAGE, decode_page, encode_page, page_of};

/// Pages kept in memory: the checksums of 64 GiB of data.
const PAGES: usize = 16 << 10;
/// Changed pages after which a checkpoint is due.
const CHANGED: usize = 8 << 10;

/// What is known of a block's checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It is this.
    Yes(u32),
    /// The table does not say: its sector is bad, or was never written.
    No,
    /// This page has to be read first.
    Ask(u64),
}

struct Page {
    crcs: Box<[u32; PER_PAGE]>,
    /// One bit per checksum: set or read.
    known: [u64; PER_PAGE.div_ceil(64)],
    /// It has been read: what is not known is not to be had.
    read: bool,
    changed: bool,
    /// Used since the hand passed.
    used: bool,
}

/// The table of one target.
pub(crate) struct Table {
    pages: BTreeMap<u64, Page>,
    changed: usize,
    limit: usize,
    /// Where the search for a page to give up goes on.
    hand: u64,
}

impl Default for Table {
    fn default() -> Table {
        Table { pages: BTreeMap::new(), changed: 0, limit: PAGES, hand: 0 }
    }
}

impl Page {
    fn new() -> Page {
        let known = [0; PER_PAGE.div_ceil(64)];
        Page { crcs: Box::new([0; PER_PAGE]), known, read: false, changed: false, used: true }
    }

    fn knows(&self, at: usize) -> bool {
        self.known[at / 64] & 1 << (at % 64) != 0
    }

    fn learn(&mut self, at: usize, crc: u32) {
        self.crcs[at] = crc;
        self.known[at / 64] |= 1 << (at % 64);
    }
}

impl Table {
    /// For tests: fewer pages in memory.
    pub(crate) fn set_limit(&mut self, pages: usize) {
        self.limit = pages.max(1);
    }

    /// Pages in memory.
    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// The checksum of a data block.
    pub(crate) fn get(&mut self, block: u64) -> Known {
        let (number, at) = page_of(block);
        let Some(page) = self.pages.get_mut(&number) else { return Known::Ask(number) };
        page.used = true;
        match page.knows(at) {
            true => Known::Yes(page.crcs[at]),
            false if page.read => Known::No,
            false => Known::Ask(number),
        }
    }

    /// Sets the checksum of a data block.
    pub(crate) fn set(&mut self, block: u64, crc: u32) {
        let (number, at) = page_of(block);
        let page = self.pages.entry(number).or_insert_with(Page::new);
        page.learn(at, crc);
        page.used = true;
        self.changed += usize::from(!page.changed);
        page.changed = true;
    }

    /// Takes in a page that was read; without bytes it could not be.
    pub(crate) fn take_in(&mut self, number: u64, stored: Option<&[u8]>, uuid_crc: u32) {
        let page = self.pages.entry(number).or_insert_with(Page::new);
        page.read = true;
        page.used = true;
        let Some(stored) = stored else { return };
        decode_page(number, stored, uuid_crc, |at, crc| {
            if !page.knows(at) {
                page.learn(at, crc);
            }
        });
    }

    /// Gives up unused pages above the limit, but for those to be kept. Not while pages are being written.
    pub(crate) fn shrink(&mut self, keep: impl Fn(u64) -> bool) {
        let mut looked = 0;
        while self.pages.len() > self.limit.max(self.changed) && looked < 2 * self.pages.len() {
            looked += 1;
            let above = (Bound::Included(self.hand), Bound::Unbounded);
            let Some((&number, page)) = self.pages.range_mut(above).next() else {
                self.hand = 0;
                continue;
            };
            self.hand = number + 1;
            if page.changed || page.used || keep(number) {
                page.used = false;
            } else {
                self.pages.remove(&number);
            }
        }
    }

    /// Whether a checkpoint is due for the pages' sake.
    pub(crate) fn is_full(&self) -> bool {
        self.changed >= CHANGED.min(self.limit)
    }

    /// Numbers of the pages that have changed since they were written.
    pub(crate) fn changed(&self) -> Vec<u64> {
        self.pages.iter().filter(|(_, page)| page.changed).map(|(number, _)| *number).collect()
    }

    /// Whether the page can be written: it has been read, or everything in it is known.
    pub(crate) fn is_whole(&self, number: u64) -> bool {
        let all = |page: &Page| (0..PER_PAGE).all(|at| page.knows(at));
        self.pages.get(&number).is_none_or(|page| page.read || all(page))
    }

    /// The page's bytes, to be written now.
    pub(crate) fn write(&mut self, number: u64, uuid_crc: u32) -> Option<Vec<u8>> {
        let page = self.pages.get_mut(&number).filter(|page| page.changed)?;
        page.changed = false;
        self.changed -= 1;
        Some(encode_page(number, &page.crcs, uuid_crc))
    }
}
