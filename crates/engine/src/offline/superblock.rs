//! The two copies of the superblock, and which of them counts.

use catena_types::limits::BLOCK;

use super::report::{Class, Findings, Severity};
use super::{BLOCK64, Medium};
use crate::error::OpenError;
use crate::format::FORMAT;
use crate::format::superblock::{SUPERBLOCK_OFFSETS, SuperProblem, Superblock};

/// What each copy is.
pub(super) type Copies = [Result<Superblock, SuperProblem>; 2];

/// Reads both copies; gives them and the one that counts.
///
/// # Errors
/// Why there is no target, or none that can be looked at.
pub(super) fn read(medium: &dyn Medium, findings: &Findings) -> Result<(Copies, Superblock), OpenError> {
    let name = medium.name();
    let blocks = read_copies(medium, findings)?;
    let copies = [Superblock::decode(&blocks[0]), Superblock::decode(&blocks[1])];
    let [first, second] = copies;
    let best = match (first, second) {
        (Ok(a), Ok(b)) => Ok(if b.generation > a.generation { b } else { a }),
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
        (Err(a), Err(b)) => Err([a, b]),
    };
    let best = best.map_err(|problems| why_none(name, &problems))?;
    let right = best.encode();
    for n in 0..2 {
        if let Some(at) = blocks[n].iter().zip(&right).position(|(a, b)| a != b) {
            let what = match copies[n] {
                Ok(old) => format!("copy {n} of the superblock is of generation {}, not {}", old.generation, best.generation),
                Err(problem) => format!("copy {n} of the superblock {}", describe(problem)),
            };
            findings.note(Class::Superblock, Severity::Repairable, SUPERBLOCK_OFFSETS[n] + at as u64, what);
        }
    }
    check(&best, medium, findings);
    Ok((copies, best))
}

/// The blocks of both copies. One is enough.
fn read_copies(medium: &dyn Medium, findings: &Findings) -> Result<[Vec<u8>; 2], OpenError> {
    let mut blocks = [vec![0; BLOCK as usize], vec![0; BLOCK as usize]];
    let mut failed = 0;
    for (block, offset) in blocks.iter_mut().zip(SUPERBLOCK_OFFSETS) {
        let Err(source) = medium.read(offset, block) else { continue };
        failed += 1;
        if failed == 2 {
            return Err(OpenError::Io { name: medium.name(), action: "reading the superblock".to_string(), source });
        }
        block.fill(0);
        findings.note(Class::Unreadable, Severity::Repairable, offset, format!("a block cannot be read: {source}"));
    }
    Ok(blocks)
}

fn why_none(name: String, problems: &[SuperProblem; 2]) -> OpenError {
    let format = problems.iter().find_map(|p| match p {
        SuperProblem::Format(found) => Some(*found),
        _ => None,
    });
    match format {
        Some(found) => OpenError::UnknownFormat { name, found, known: FORMAT },
        None if problems.contains(&SuperProblem::Damaged) => OpenError::CorruptSuperblock { name },
        None if problems == &[SuperProblem::Empty; 2] => OpenError::Empty { name },
        None => OpenError::NotATarget { name },
    }
}

/// What is wrong with a copy.
pub(super) fn describe(problem: SuperProblem) -> String {
    match problem {
        SuperProblem::Empty => "is empty".to_string(),
        SuperProblem::Foreign => "does not start with the magic number".to_string(),
        SuperProblem::Format(found) => format!("is of format {found}"),
        SuperProblem::Damaged => "does not match its checksum, or makes no sense".to_string(),
    }
}

/// What the fields must say beyond what decoding asks.
fn check(best: &Superblock, medium: &dyn Medium, findings: &Findings) {
    let c = &best.checkpoint;
    let offset = SUPERBLOCK_OFFSETS[0];
    let odd = |what: String| findings.note(Class::Superblock, Severity::Damage, offset, what);
    if c.generation > best.generation {
        odd(format!("the checkpoint is of generation {}, the superblock of {}", c.generation, best.generation));
    }
    let first = c.slices == 0;
    if first != (c.bytes == 0) || (first && c.seq != 0) || c.append == 0 || !c.bytes.is_multiple_of(BLOCK64) {
        odd(format!("the checkpoint has {} slices, {} bytes and ends with record {}", c.slices, c.bytes, c.seq));
    }
    let wanted = best.params.size();
    if let Some(size) = medium.size().filter(|&size| size < wanted) {
        let what = format!("the file has {size} bytes, the target {wanted}: what is behind the end reads as zeroes");
        findings.note(Class::Size, Severity::Damage, size, what);
    }
}
