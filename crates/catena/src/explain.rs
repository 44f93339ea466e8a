//! What every replica did for one update, drawn from the times and counts the replicas sent back.
//!
//! Replicas on one machine share a clock, so that their times are shown relative to the moment the head received the
//! update. On several machines clocks differ, and every replica's times are relative to its own receipt.

use std::time::Duration;

use catena_client::Updated;
use catena_types::store::ChecksumMethod;
use catena_types::{Routing, StageInfo};
use catena_wire::client::Hop;
use comfy_table::Cell;
use serde_json::{Value, json};

use crate::output::{self, dim, say};
use crate::units::time_short;

/// Columns of the drawn timeline.
const WIDTH: usize = 32;

/// The hops of an update in chain order, with times in microseconds relative to one zero per replica.
struct Timeline {
    rows: Vec<Row>,
    one_clock: bool,
    end: u64,
}

/// One replica.
struct Row {
    hop: Hop,
    node: u32,
    /// Receipt, stage, release, commit.
    at: [u64; 4],
}

impl Timeline {
    fn new(updated: &Updated, routing: &Routing) -> Timeline {
        let node = |target: u32| routing.target(target).map_or(0, |t| t.node);
        let host = |hop: &Hop| routing.addr_of(hop.target).and_then(|a| a.rsplit_once(':')).map(|(host, _)| host.to_owned());
        let hops: Vec<Hop> = updated.hops.iter().rev().copied().collect();
        let one_clock = hops.windows(2).all(|pair| host(&pair[0]) == host(&pair[1]));
        let zero = hops.first().map_or(0, |head| head.received_us);
        let rows: Vec<Row> = hops
            .into_iter()
            .map(|hop| {
                let zero = if one_clock { zero } else { hop.received_us };
                let times = [hop.received_us, hop.staged_us, hop.released_us, hop.committed_us];
                Row { hop, node: node(hop.target), at: times.map(|t| t.saturating_sub(zero)) }
            })
            .collect();
        let end = rows.iter().map(|r| r.at[3]).max().unwrap_or(0);
        Timeline { rows, one_clock, end }
    }

    fn role(&self, n: usize) -> &'static str {
        match (n, self.rows.len()) {
            (0, 1) => "head, tail",
            (0, _) => "head",
            (n, len) if n + 1 == len => "tail",
            _ => "middle",
        }
    }
}

/// Prints the table of an explained update, each line behind `indent`. Nothing is printed if no hops came back.
pub(crate) fn show(updated: &Updated, routing: &Routing, indent: &str) {
    let line = Timeline::new(updated, routing);
    if line.rows.is_empty() {
        return;
    }
    let head = [
        "",
        "TARGET",
        "RECEIVED",
        "STAGED",
        "RELEASED",
        "COMMITTED",
        "",
        "VER",
        "CHAIN_VER",
        "CRC-32C",
        "BLOCKS W/R",
        "CHECKSUM BY",
    ];
    let mut table = output::table(&head, &[2, 3, 4, 5, 7, 8, 10]);
    for (n, row) in line.rows.iter().enumerate() {
        let hop = &row.hop;
        let mut cells = vec![Cell::new(line.role(n)), Cell::new(format!("t{} on node {}", hop.target, row.node))];
        cells.extend(row.at.iter().map(|us| Cell::new(time_short(Duration::from_micros(*us)))));
        cells.extend([
            Cell::new(draw(&row.at, line.end)),
            Cell::new(hop.ver),
            Cell::new(hop.chain_ver),
            Cell::new(format!("{:08x}", hop.stage.checksum)),
            Cell::new(format!("{}/{}", hop.stage.blocks_written, hop.stage.blocks_read)),
            Cell::new(method(&hop.stage)),
        ]);
        table.add_row(cells);
    }
    output::print_table(&table, indent);
    let zero = if line.one_clock { "the head's receipt" } else { "each replica's own receipt (clocks differ between machines)" };
    say!(
        "{indent}{}",
        dim(format_args!("times since {zero}; ━ stored and forwarded at once, ─ waits for the chain, C committed"))
    );
}

/// How the chunk checksum was found, in a word.
pub(crate) fn method(stage: &StageInfo) -> &'static str {
    match stage.method() {
        ChecksumMethod::Reuse => "reuse",
        ChecksumMethod::Combine => "combine",
        ChecksumMethod::Derive => "derive",
    }
}

/// A replica's row of the timeline: `━` from receipt to stage, `─` from stage to commit, `C` at the commit.
fn draw(at: &[u64; 4], end: u64) -> String {
    let column = |us: u64| ((us.min(end) as usize) * (WIDTH - 1)) / (end.max(1) as usize);
    let [received, staged, _, committed] = at.map(column);
    let mark = |n: usize| match n {
        n if n == committed => 'C',
        n if n < received || n > committed => ' ',
        n if n <= staged => '━',
        _ => '─',
    };
    (0..WIDTH).map(mark).collect()
}

/// The same for programs.
pub(crate) fn to_json(updated: &Updated, routing: &Routing) -> Value {
    let line = Timeline::new(updated, routing);
    let hops = line.rows.iter().enumerate().map(|(n, row)| {
        let [received, staged, released, committed] = row.at;
        json!({
            "target": row.hop.target, "node": row.node, "role": line.role(n),
            "received_us": received, "staged_us": staged, "released_us": released, "committed_us": committed,
            "ver": row.hop.ver, "chain_ver": row.hop.chain_ver, "checksum": format!("{:08x}", row.hop.stage.checksum),
            "first_block": row.hop.stage.first_block, "blocks_written": row.hop.stage.blocks_written,
            "blocks_read": row.hop.stage.blocks_read, "checksum_by": method(&row.hop.stage),
        })
    });
    json!({ "one_clock": line.one_clock, "hops": hops.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use catena_types::{NodeInfo, TargetInfo};

    fn hop(target: u32, received_us: u64) -> Hop {
        let stage = StageInfo { len: 1, checksum: 2, first_block: 0, blocks_written: 1, blocks_read: 0, method: 0 };
        Hop {
            target,
            received_us,
            staged_us: received_us + 10,
            released_us: received_us + 5,
            committed_us: received_us + 30,
            stage,
            ver: 1,
            chain_ver: 1,
        }
    }

    fn world(hosts: [&str; 2]) -> (Updated, Routing) {
        let hops = vec![hop(2, 1_000_100), hop(1, 1_000_000)];
        let updated = Updated { ver: 1, len: 1, checksum: 2, chain_ver: 1, chain: 1, hops, attempts: 1, trace: 1 };
        let node = |id: u32| NodeInfo {
            id,
            incarnation: 1,
            shard_addrs: vec![format!("{}:{}", hosts[id as usize - 1], 7000 + id)],
            alive: true,
            rack: String::new(),
        };
        let target = |id: u32| TargetInfo { id, node: id, shard: 0, uuid: vec![], chain: 1 };
        let routing = Routing {
            version: 1,
            cluster: 1,
            nodes: vec![node(1), node(2)],
            targets: vec![target(1), target(2)],
            chains: vec![],
            table: vec![],
        };
        (updated, routing)
    }

    #[test]
    fn head_comes_first_and_one_machine_has_one_clock() {
        let (updated, routing) = world(["10.0.0.1", "10.0.0.1"]);
        let line = Timeline::new(&updated, &routing);
        assert!(line.one_clock);
        assert_eq!(line.rows[0].at, [0, 10, 5, 30]);
        assert_eq!(line.rows[1].at, [100, 110, 105, 130]);
        assert_eq!((line.role(0), line.role(1)), ("head", "tail"));
    }

    #[test]
    fn two_machines_have_two_clocks() {
        let (updated, routing) = world(["10.0.0.1", "10.0.0.2"]);
        let line = Timeline::new(&updated, &routing);
        assert!(!line.one_clock);
        assert_eq!(line.rows[1].at, [0, 10, 5, 30]);
    }

    #[test]
    fn a_drawing_never_leaves_its_columns() {
        for at in [[0, 0, 0, 0], [5, 4, 3, 2], [0, 10, 5, 1 << 40], [1 << 40, 0, 0, 3]] {
            assert_eq!(draw(&at, 100).chars().count(), WIDTH);
        }
        assert!(draw(&[0, 50, 0, 100], 100).starts_with('━') && draw(&[0, 50, 0, 100], 100).ends_with('C'));
    }
}
