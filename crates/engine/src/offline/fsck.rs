//! The check of a whole target: structures, replay, owners, and then all the data.

use serde::Serialize;

use super::content::Version;
use super::load::Counts;
use super::model::Model;
use super::report::{Class, Finding, Findings, Severity};
use super::table::Table;
use super::{BLOCK64, Medium, Target};
use crate::error::OpenError;
use crate::format::superblock::SUPERBLOCK_OFFSETS;

/// What is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Only the structures, not the checksum table and the data.
    pub quick: bool,
}

/// How far a check has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being looked at.
    pub step: &'static str,
    /// Bytes looked at.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Slices of the checkpoint.
    pub slices: u64,
    /// Index leaves.
    pub leaves: u64,
    /// Journal appends behind the checkpoint.
    pub appends: u64,
    /// Records in them that count.
    pub records: u64,
    /// Records at the end that the next open drops.
    pub dropped: u64,
    /// Committed chunks.
    pub chunks: u64,
    /// Staged updates.
    pub staged: u64,
    /// Session rows.
    pub sessions: u64,
    /// Bytes of data blocks that have an owner.
    pub used: u64,
    /// Bytes of data blocks in all.
    pub capacity: u64,
    /// Bytes of chunks compared with their checksums.
    pub bytes: u64,
    /// Whether the data was looked at: not on request, nor after something fatal.
    pub data: bool,
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The target.
    pub name: String,
    /// What was looked at.
    pub checked: Checked,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
    /// Findings that are not listed, because there are too many.
    pub omitted: u64,
}

impl Report {
    /// The worst finding; `None`: the target is as it should be.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|f| f.severity).max()
    }

    /// Whether something is lost.
    pub fn is_damaged(&self) -> bool {
        self.worst() >= Some(Severity::Damage)
    }

    fn new(name: String, checked: Checked, findings: Findings) -> Report {
        let (findings, omitted) = findings.take();
        Report { name, checked, findings, omitted }
    }
}

/// Checks a target that nobody has open. `progress` is called now and then.
///
/// # Errors
/// Why there is nothing to check: no target, one of another format, or a disk that cannot be read at all.
pub fn fsck(medium: &dyn Medium, options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Report, OpenError> {
    let target = match Target::open(medium) {
        Ok(target) => target,
        Err(OpenError::CorruptSuperblock { name }) => {
            let findings = Findings::default();
            let what = "both copies of the superblock are bad".to_string();
            findings.note(Class::Superblock, Severity::Fatal, SUPERBLOCK_OFFSETS[0], what);
            return Ok(Report::new(name, Checked::default(), findings));
        }
        Err(e) => return Err(e),
    };
    let (model, counts) = target.load();
    let used = target.check_owners(&model) * BLOCK64;
    let mut checked = Checked { used, ..counted(&target, &model, &counts) };
    if !options.quick && target.findings.worst() < Some(Severity::Fatal) {
        checked.data = true;
        checked.bytes = target.check_data(&model, progress);
    }
    Ok(Report::new(medium.name(), checked, target.findings))
}

fn counted(target: &Target<'_>, model: &Model, counts: &Counts) -> Checked {
    Checked {
        slices: counts.slices,
        leaves: counts.leaves,
        appends: counts.appends,
        records: counts.records,
        dropped: counts.dropped,
        chunks: model.chunks.len() as u64,
        staged: model.staged.len() as u64,
        sessions: model.sessions.len() as u64,
        capacity: target.params().capacity,
        ..Checked::default()
    }
}

impl Target<'_> {
    /// Checks the table, and every version against it and its own checksum; gives the bytes compared.
    fn check_data(&self, model: &Model, progress: &mut dyn FnMut(Progress)) -> u64 {
        let table = Table::new(self, model);
        table.check_sectors(model, progress);
        let staged = || model.staged.iter().filter(|(_, side)| !side.staged.remove);
        let lens = model.chunks.values().map(|item| item.committed.len).chain(staged().map(|(_, side)| side.staged.len));
        let total = lens.map(u64::from).sum();
        let mut done = 0;
        let mut check = |name: String, version: Version<'_>| {
            self.check_version(&name, &version, &table);
            done += u64::from(version.len);
            progress(Progress { step: "data", done, total });
        };
        for (key, item) in &model.chunks {
            check(format!("chunk {key} version {}", item.committed.ver), Version::committed(model, key, item));
        }
        for (key, side) in staged() {
            check(format!("staged {key} version {}", side.staged.ver), Version::staged(model, key, side));
        }
        done
    }
}
