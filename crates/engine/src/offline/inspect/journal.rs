//! The journal: every append in the ring, and the records of those that replay takes.

use std::collections::BTreeMap;

use catena_types::ChunkKey;
use serde::Serialize;

use super::super::journal::Step;
use super::super::{Finding, Medium, Target};
use crate::error::OpenError;
use crate::format::journal::{Append, Placed, Record, StageRecord};

/// The journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JournalView {
    /// Blocks of the ring.
    pub blocks: u32,
    /// Blocks from the start of the replay to the head.
    pub live: u32,
    /// Where the next append goes: journal block.
    pub head: u32,
    /// The last record that anything says is durable.
    pub known_durable: u64,
    /// The last record.
    pub last_record: u64,
    /// Records of an append at the head that is not whole.
    pub torn: u32,
    /// Every append whose header is there, of any lap, by place.
    pub appends: Vec<AppendView>,
    /// What was found wrong.
    pub findings: Vec<Finding>,
}

/// An append.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AppendView {
    /// Where, in bytes.
    pub offset: u64,
    /// Its first journal block.
    pub block: u32,
    /// Its blocks, the parity included.
    pub blocks: u32,
    /// Its number.
    pub append: u64,
    /// Generation of the superblock when it was written.
    pub generation: u64,
    /// Number of its first record.
    pub first_record: u64,
    /// Number of records.
    pub records: u32,
    /// Bytes of records.
    pub bytes: u32,
    /// The last record known durable when it was issued.
    pub known_durable: u64,
    /// Whether replay takes it.
    pub live: bool,
    /// The records, if it is live.
    pub contents: Vec<RecordView>,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordView {
    /// Its number.
    pub record: u64,
    /// What it does.
    pub kind: &'static str,
    /// The chunk it is about.
    pub key: Option<String>,
    /// Everything else.
    pub what: String,
}

/// Shows the journal.
///
/// # Errors
/// Why there is nothing to show.
pub fn journal(medium: &dyn Medium) -> Result<JournalView, OpenError> {
    let target = Target::open(medium)?;
    let survey = target.survey();
    let mut place = target.replay_start();
    let mut live = BTreeMap::new();
    let torn = loop {
        match target.next_append(&mut place) {
            Step::Append(append, records) => {
                live.insert(append.pos, (append, records));
            }
            Step::End { torn } => break torn,
            Step::Nonsense => break 0,
        }
    };
    let mut appends: BTreeMap<u32, AppendView> =
        survey.headers.iter().map(|append| (append.pos, target.append_view(append))).collect();
    for (pos, (append, records)) in live {
        // The header of a live one may be mended.
        let view = appends.entry(pos).or_insert_with(|| target.append_view(&append));
        view.live = true;
        view.contents = (append.first_seq..).zip(&records).map(|(n, record)| record_view(n, record)).collect();
    }
    Ok(JournalView {
        blocks: target.ring(),
        live: place.used,
        head: place.pos,
        known_durable: survey.known,
        last_record: place.seq - 1,
        torn,
        appends: appends.into_values().collect(),
        findings: target.findings.take().0,
    })
}

impl Target<'_> {
    fn append_view(&self, append: &Append) -> AppendView {
        AppendView {
            offset: self.journal_byte(append.pos),
            block: append.pos,
            blocks: append.blocks(),
            append: append.append,
            generation: append.generation,
            first_record: append.first_seq,
            records: append.records,
            bytes: append.body,
            known_durable: append.durable,
            live: false,
            contents: Vec::new(),
        }
    }
}

fn record_view(number: u64, record: &Record) -> RecordView {
    let of = |kind, key: &ChunkKey, what| RecordView { record: number, kind, key: Some(key.to_string()), what };
    let alone = |kind, what| RecordView { record: number, kind, key: None, what };
    match record {
        Record::Stage(s) => of(if s.remove { "stage remove" } else { "stage" }, &s.key, stage(s)),
        Record::Commit { key, ver, chain_ver } => of("commit", key, format!("version {ver}, chain version {chain_ver}")),
        Record::Unstage { key, ver } => of("unstage", key, format!("version {ver}")),
        Record::Install { key, chunk_size, committed: c, placed: p } => {
            let what = format!("version {}, {} bytes of {chunk_size}, checksum {:08x}", c.ver, c.len, c.checksum);
            of("install", key, format!("{what}{}", placed(p)))
        }
        Record::Purge { key } => of("purge", key, String::new()),
        Record::ClearSessions => alone("clear sessions", String::new()),
        Record::PutSession { id, row } => {
            let what = format!("client {:x} channel {} seq {}, version {}", id.client, id.channel, row.seq, row.ver);
            alone("put session", what)
        }
        Record::DropSession { id, seq } => {
            alone("drop session", format!("client {:x} channel {} seq {seq}", id.client, id.channel))
        }
        Record::Floor(ver) => alone("raise remove floor", format!("to {ver}")),
        Record::Move { key, ver, placed: p } => of("move", key, format!("version {ver}{}", placed(p))),
        Record::Scrub(mark) => {
            let what = format!("{} passes, {} bytes in this one, {} bad", mark.passes, mark.bytes, mark.bad);
            alone("scrub", what)
        }
    }
}

fn stage(s: &StageRecord) -> String {
    let mut what = format!("version {} on {}, {} bytes of {}, checksum {:08x}", s.ver, s.base, s.len, s.chunk_size, s.checksum);
    if !s.crcs.is_empty() {
        let runs: Vec<String> = s.runs.iter().map(|r| format!("{}+{}", r.disk, r.len)).collect();
        what += &format!(", blocks {}+{} at {}", s.first, s.crcs.len(), runs.join(" "));
    }
    if let Some(slot) = s.slot {
        what += &format!(", slot {slot}");
    }
    let held: u64 = s.held.iter().map(|h| h.blocks()).sum();
    if held > 0 {
        what += &format!(", {held} blocks held");
    }
    format!("{what}, tag {}", s.tag)
}

fn placed(p: &Placed) -> String {
    let runs: Vec<String> = p.runs.iter().map(|r| format!("{}+{}", r.disk, r.len)).collect();
    let slot = p.slot.map_or_else(String::new, |slot| format!(", slot {slot}"));
    if runs.is_empty() { slot } else { format!(", blocks at {}{slot}", runs.join(" ")) }
}
