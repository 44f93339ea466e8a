//! Makes a refuted history small enough to be read by a person.

use catena_types::Time;

use super::model::{Effect, Item};
use super::search::{self, Stuck, Verdict};
use super::{Action, OpId, Outcome, Record, Seen};

/// Searches of one explanation: each costs about as much as the check itself.
const MAX_TRIES: usize = 200;

/// The shortest beginning of the history that has no order, with the reads that play no part left out. `items` have
/// none themselves.
pub(super) fn shrink(items: &[Item]) -> (String, Vec<OpId>) {
    let mut ends: Vec<Time> = items.iter().map(|i| i.end).filter(|&end| end != Time::MAX).collect();
    ends.sort_unstable();
    // A longer beginning of a refuted one is refuted: look for the first refuted one by halving.
    let (mut good, mut bad) = (0, ends.len());
    while good + 1 < bad {
        let middle = good.midpoint(bad);
        if stuck(&beginning(items, ends[middle - 1])).is_some() { bad = middle } else { good = middle }
    }
    let mut small = beginning(items, ends[bad - 1]);
    let mut tries = 0;
    let mut step = small.len().div_ceil(2);
    while step > 0 && tries < MAX_TRIES {
        let mut at = 0;
        while at < small.len() && tries < MAX_TRIES {
            let end = (at + step).min(small.len());
            let keep = |n: usize, item: &Item| !(at..end).contains(&n) || item.is_update();
            let fewer: Vec<Item> = small.iter().enumerate().filter(|(n, i)| keep(*n, i)).map(|(_, i)| i.clone()).collect();
            tries += 1;
            if fewer.len() < small.len() && stuck(&fewer).is_some() { small = fewer } else { at = end }
        }
        step /= 2;
    }
    describe(&small, &stuck(&small).unwrap_or_default())
}

/// What was known at time `at`: later operations are gone, those in progress are open.
fn beginning(items: &[Item], at: Time) -> Vec<Item> {
    let begun = items.iter().filter(|i| i.begin <= at && (i.end <= at || i.is_update()));
    begun
        .map(|i| {
            let mut item = i.clone();
            if let Effect::Update { seen, required, .. } = &mut item.effect
                && item.end > at
            {
                // It may still be what made this version, but need not have been.
                (*seen, *required, item.end) = (Seen::default(), false, Time::MAX);
            }
            item
        })
        .collect()
}

fn stuck(items: &[Item]) -> Option<Stuck> {
    match search::run(items) {
        Verdict::Stuck(stuck) => Some(stuck),
        Verdict::Linearizable { .. } | Verdict::TooHard { .. } => None,
    }
}

fn describe(items: &[Item], stuck: &Stuck) -> (String, Vec<OpId>) {
    let (exists, ver, exact, len) = stuck.state;
    let chunk = match (exists, exact) {
        (false, _) => format!("absent (last version {ver})"),
        (true, true) => format!("at version {ver} with {len} bytes"),
        (true, false) => format!("at version {ver} or higher with {len} bytes"),
    };
    let Some(blocker) = items.get(stuck.blocker) else {
        return ("no order exists".into(), Vec::new());
    };
    let what = format!(
        "at best the chunk is {chunk} when operation {} must take effect, and nothing that may come first helps",
        blocker.id
    );
    let mut ids: Vec<OpId> = stuck.placed.iter().map(|&i| items[i].id).collect();
    // Updates of unknown outcome can be many; the latest are the ones that matter.
    ids.extend(stuck.window.iter().rev().take(12).map(|&i| items[i].id));
    ids.push(blocker.id);
    (what, ids)
}

/// One operation in one line.
pub(super) fn line(id: OpId, record: &Record) -> String {
    let end = record.completed.map_or_else(|| "open".into(), |t| t.to_string());
    let action = match &record.action {
        Action::Update { op, data, precondition } => {
            format!("{:?} {}+{} {} if {precondition:?}", op.kind(), op.offset, op.len, preview(data))
        }
        Action::Read { offset, len } => format!("Read {offset}+{len}"),
    };
    let outcome = match &record.outcome {
        Outcome::Updated(seen) => format!("updated{}", told(seen)),
        Outcome::Read { bytes, seen } => format!("{} bytes {}{}", bytes.len(), preview(bytes), told(seen)),
        Outcome::Absent => "absent".into(),
        Outcome::PreconditionFailed(found) => format!("precondition failed, found {found:?}"),
        Outcome::Rejected => "rejected".into(),
        Outcome::Unknown => "unknown".into(),
    };
    format!("#{id} [{} .. {end}] client {:x}: {action} -> {outcome}", record.invoked, record.client)
}

fn told(seen: &Seen) -> String {
    let ver = seen.ver.map_or_else(String::new, |v| format!(" ver {v}"));
    let len = seen.len.map_or_else(String::new, |l| format!(" len {l}"));
    let sum = seen.checksum.map_or_else(String::new, |c| format!(" crc {c:08x}"));
    ver + &len + &sum
}

fn preview(bytes: &[u8]) -> String {
    let shown = bytes.iter().take(8).map(|b| format!("{b:02x}")).collect::<String>();
    if bytes.len() > 8 { shown + ".." } else { shown }
}
