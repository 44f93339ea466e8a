//! Replica moves, with progress, for people and programs.

use catena_wire::manager::{MoveReason, ReplicaMove, StatusReply, SyncProgress};
use comfy_table::Cell;
use serde_json::{Value, json};

use crate::cmd::target::{sync_json, sync_words};
use crate::health::state_word;
use crate::output::{self, Tone, cell};

/// Why, in a word.
fn reason(m: &ReplicaMove) -> &'static str {
    match m.reason() {
        MoveReason::Lost => "lost",
        MoveReason::Drain => "drain",
        MoveReason::Rebalance => "rebalance",
        MoveReason::Asked => "asked",
    }
}

/// `chain 7: t31 -> t44 (drain)`
pub(super) fn move_words(m: &ReplicaMove) -> String {
    let ReplicaMove { chain, leaving, joining, .. } = m;
    match *joining {
        0 => format!("chain {chain}: t{leaving} has nowhere to go ({})", reason(m)),
        to if to == *leaving => format!("chain {chain}: t{leaving} becomes the tail"),
        to => format!("chain {chain}: t{leaving} -> t{to} ({})", reason(m)),
    }
}

pub(super) fn move_json(m: &ReplicaMove) -> Value {
    json!({ "chain": m.chain, "leaving": m.leaving, "joining": (m.joining != 0).then_some(m.joining), "reason": reason(m) })
}

/// Where a move is: what its new member is now, and how far its resync is.
fn progress(status: &StatusReply, m: &ReplicaMove) -> (&'static str, Option<SyncProgress>) {
    let Some(chain) = status.routing.chain(m.chain) else { return ("unknown", None) };
    let Some(state) = chain.state_of(m.joining) else { return ("no room elsewhere", None) };
    let source = status.targets.iter().find(|t| Some(t.report.target) == chain.tail());
    let sync = source.and_then(|s| s.report.sync).filter(|_| chain.syncing() == Some(m.joining));
    (state_word(state), sync)
}

/// All moves, for programs.
pub(crate) fn moves_json(status: &StatusReply) -> Vec<Value> {
    let one = |m: &ReplicaMove| {
        let (state, sync) = progress(status, m);
        let mut value = move_json(m);
        value["state"] = json!(state);
        value["sync"] = json!(sync.as_ref().map(sync_json));
        value["eta_ms"] = json!(sync.and_then(|s| s.eta_ms()));
        value
    };
    status.moves.iter().map(one).collect()
}

/// All moves as a table.
pub(crate) fn show_moves(status: &StatusReply) {
    let node = |target: u32| status.routing.target(target).map_or(0, |t| t.node);
    let place = |target: u32| if target == 0 { "-".to_owned() } else { format!("t{target}@n{}", node(target)) };
    let mut table = output::table(&["MOVE OF CHAIN", "FROM", "TO", "WHY", "STATE", "PROGRESS"], &[0]);
    for m in &status.moves {
        let (state, sync) = progress(status, m);
        let tone = if m.joining == 0 { Tone::Odd } else { Tone::Good };
        table.add_row(vec![
            Cell::new(m.chain),
            Cell::new(place(m.leaving)),
            Cell::new(place(m.joining)),
            Cell::new(reason(m)),
            cell(state, tone),
            Cell::new(sync.as_ref().map_or_else(String::new, sync_words)),
        ]);
    }
    output::print_table(&table, "");
}
