//! The checksum table: what it and the journal say of a data block, and which of its sectors are bad.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use catena_types::limits::BLOCK;

use super::model::Model;
use super::report::{Class, Severity};
use super::{BLOCK64, Progress, Target};
use crate::format::table::{PER_PAGE, decode_page, is_sealed, page_of};
use crate::version::Extent;

/// Checksums in a sector, and its size in bytes.
const PER_SECTOR: u64 = PER_PAGE as u64 / 8;
const SECTOR: usize = 512;
/// Pages kept in memory: the checksums of 256 MiB of data.
const PAGES: usize = 64;

type Page = Box<[Option<u32>; PER_PAGE]>;

/// The table of a target, read as it is asked.
pub(super) struct Table<'t> {
    target: &'t Target<'t>,
    /// What the journal says counts before what the table says.
    journal: &'t BTreeMap<u64, u32>,
    pages: RefCell<BTreeMap<u64, Page>>,
}

impl<'t> Table<'t> {
    pub(super) fn new(target: &'t Target<'t>, model: &'t Model) -> Table<'t> {
        Table { target, journal: &model.crcs, pages: RefCell::default() }
    }

    /// The checksum of a data block, if anything says it, and whether that is the journal.
    pub(super) fn get(&self, disk: u64) -> Option<(u32, bool)> {
        if let Some(&crc) = self.journal.get(&disk) {
            return Some((crc, true));
        }
        let (number, at) = page_of(disk);
        let mut pages = self.pages.borrow_mut();
        if !pages.contains_key(&number) {
            if pages.len() >= PAGES {
                pages.clear();
            }
            pages.insert(number, self.load(number).1);
        }
        pages.get(&number).and_then(|page| page[at]).map(|crc| (crc, false))
    }

    /// Where the checksum of a data block is, in bytes.
    pub(super) fn byte_of(&self, disk: u64) -> u64 {
        let sector = disk / PER_SECTOR;
        self.target.params().table_offset() + sector * SECTOR as u64 + 4 + disk % PER_SECTOR * 4
    }

    fn load(&self, number: u64) -> (Vec<u8>, Page) {
        let stored = self.target.read(self.target.params().table_offset() + number * BLOCK64, BLOCK as usize);
        let mut page: Page = Box::new([None; PER_PAGE]);
        decode_page(number, &stored, self.target.uuid_crc, |at, crc| page[at] = Some(crc));
        (stored, page)
    }

    /// Notes the bad sectors in the pages that are needed. A sector that was never written is zero: it is bad if it
    /// should say something.
    pub(super) fn check_sectors(&self, model: &Model, progress: &mut dyn FnMut(Progress)) {
        let needed = self.needed(model);
        let pages: BTreeSet<u64> = needed.keys().map(|sector| sector / 8).collect();
        let (mut done, total) = (0, pages.len() as u64 * BLOCK64);
        for number in pages {
            let (stored, _) = self.load(number);
            for (n, bytes) in stored.chunks(SECTOR).enumerate() {
                let sector = number * 8 + n as u64;
                let good = is_sealed(number, n, bytes, self.target.uuid_crc);
                let empty = bytes.iter().all(|&b| b == 0);
                if !good && (!empty || needed.get(&sector) == Some(&true)) {
                    let (from, to) = (sector * PER_SECTOR, (sector + 1) * PER_SECTOR - 1);
                    let what = format!("the sector with the checksums of data blocks {from} to {to} does not match its seal");
                    let offset = self.target.params().table_offset() + sector * SECTOR as u64;
                    self.target.note(Class::Table, Severity::Repairable, offset, what);
                }
            }
            done += BLOCK64;
            progress(Progress { step: "checksum table", done, total });
        }
    }

    /// The sectors of blocks in use, and whether they have to say something that the journal does not.
    fn needed(&self, model: &Model) -> BTreeMap<u64, bool> {
        let total = self.target.params().blocks();
        let mut out = BTreeMap::new();
        let mut add = |extents: &[Extent], elsewhere: &dyn Fn(u32) -> bool| {
            for e in extents.iter().filter(|e| e.disk.checked_add(u64::from(e.len)).is_some_and(|end| end <= total)) {
                for i in 0..e.len {
                    let disk = e.disk + u64::from(i);
                    let must = !elsewhere(e.logical + i) && !self.journal.contains_key(&disk);
                    *out.entry(disk / PER_SECTOR).or_insert(false) |= must;
                }
            }
        };
        for (key, item) in &model.chunks {
            let waiting = model.waiting.get(key);
            add(&item.extents, &|block| waiting.is_some_and(|w| w.contains_key(&block)));
        }
        for (key, side) in &model.staged {
            let waiting = model.waiting.get(key);
            add(&side.extents, &|block| side.held.contains_key(&block) || waiting.is_some_and(|w| w.contains_key(&block)));
        }
        out
    }
}
