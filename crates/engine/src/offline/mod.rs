//! Looking at a target that nobody has open: [`fsck`] checks it, [`inspect`] shows what is in it.
//!
//! The bytes are read as `docs/disk-format.md` draws them, through [`crate::format`] and nothing else of the engine: the
//! replay into plain maps and the arithmetic are this module's own, so that a mistake of the engine is found here and not
//! made again. What must hold: nothing is written, nothing panics on what is read, and memory holds the index and one
//! structure or one part of a chunk at a time.

mod checkpoint;
mod content;
mod fsck;
pub mod inspect;
mod journal;
mod load;
mod medium;
mod model;
mod owners;
mod report;
mod superblock;
mod table;
#[cfg(test)]
mod tests;

pub use fsck::{Checked, Options, Progress, Report, fsck};
pub use medium::{Medium, TargetFile};
pub use report::{Class, Finding, Severity};

use catena_types::crc::crc32c;
use catena_types::limits::BLOCK;

use crate::error::OpenError;
use crate::format::Params;
use crate::format::superblock::Superblock;
use report::Findings;
use superblock::Copies;

const BLOCK64: u64 = BLOCK as u64;
/// Most bytes that are searched for a structure whose length is not known: more than any has.
const SEARCH: u64 = 128 << 20;

/// A target that is being looked at.
struct Target<'m> {
    medium: &'m dyn Medium,
    copies: Copies,
    superblock: Superblock,
    uuid_crc: u32,
    findings: Findings,
}

impl<'m> Target<'m> {
    /// # Errors
    /// Why there is nothing to look at.
    fn open(medium: &'m dyn Medium) -> Result<Target<'m>, OpenError> {
        let findings = Findings::default();
        let (copies, superblock) = superblock::read(medium, &findings)?;
        let uuid_crc = crc32c(&superblock.params.identity.uuid);
        Ok(Target { medium, copies, superblock, uuid_crc, findings })
    }

    fn params(&self) -> &Params {
        &self.superblock.params
    }

    fn note(&self, class: Class, severity: Severity, offset: u64, what: impl Into<String>) {
        self.findings.note(class, severity, offset, what);
    }

    /// `len` bytes from `offset`. Blocks that the disk does not give are zero here, and noted: what they are part of says
    /// what that costs, and only of data they are a loss in any case.
    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        if self.medium.read(offset, &mut out).is_ok() {
            return out;
        }
        for (n, block) in out.chunks_mut(BLOCK as usize).enumerate() {
            let at = offset + n as u64 * BLOCK64;
            if let Err(e) = self.medium.read(at, block) {
                block.fill(0);
                let lost = if at < self.params().data_offset() { Severity::Repairable } else { Severity::Damage };
                self.note(Class::Unreadable, lost, at, format!("a block cannot be read: {e}"));
            }
        }
        out
    }

    /// Compares a structure that could be read with the bytes it should have, and notes what differs: the block that its
    /// parity made up for if it was `mended`, or else the parity, or padding. `place` says where a byte of it lies.
    fn compare(&self, read: &Stored<'_>, right: &[u8], place: impl Fn(u64) -> u64) {
        let block = BLOCK as usize;
        for (n, (found, right)) in read.found.chunks(block).zip(right.chunks(block)).enumerate() {
            let Some(at) = found.iter().zip(right).position(|(a, b)| a != b) else { continue };
            let offset = place((n * block + at) as u64);
            let name = &read.name;
            let (class, what) = match n {
                1 => (Class::Parity, format!("the parity block of {name} is bad")),
                _ if read.mended => (read.class, format!("block {n} of {name} is bad, and is made up for by its parity")),
                _ => (Class::Parity, format!("padding in block {n} of {name} is bad: its parity would not make up for a loss")),
            };
            self.note(class, Severity::Repairable, offset, what);
        }
    }
}

/// A structure as it was found on disk.
struct Stored<'a> {
    class: Class,
    name: String,
    /// All of its blocks, the parity included.
    found: &'a [u8],
    /// One block had to be mended.
    mended: bool,
}
