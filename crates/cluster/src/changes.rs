//! What of the routing changed when: hands out small pieces to whoever has most of it already.
//!
//! What must hold: a piece since `have`, applied to the routing of that version, gives the present one.

use std::collections::{BTreeMap, BTreeSet};

use catena_types::{Routing, RoutingDelta};

/// The present routing, and the version at which each row got its present content.
#[derive(Clone, Debug)]
pub struct Changes {
    routing: Routing,
    /// What changed up to this version is not known row by row.
    from: u64,
    nodes: Rows,
    targets: Rows,
    chains: Rows,
    table: u64,
}

/// When rows got their present content. The second order is there since every node and client asks after every change: what
/// they are told must not cost a look at every row.
#[derive(Clone, Debug, Default)]
struct Rows {
    /// Version by id.
    versions: BTreeMap<u32, u64>,
    /// The same by version.
    recent: BTreeSet<(u64, u32)>,
}

impl Rows {
    fn note(&mut self, id: u32, version: u64) {
        if let Some(before) = self.versions.insert(id, version) {
            self.recent.remove(&(before, id));
        }
        self.recent.insert((version, id));
    }

    /// Those of the rows that changed after `have`.
    fn since<T: Clone>(&self, have: u64, rows: &[T], id: impl Fn(&T) -> u32) -> Vec<T> {
        let changed: BTreeSet<u32> = self.recent.range((have + 1, 0)..).map(|&(_, id)| id).collect();
        if changed.is_empty() {
            return Vec::new();
        }
        rows.iter().filter(|row| changed.contains(&id(row))).cloned().collect()
    }
}

impl Changes {
    /// Starts with a routing of which no history is known.
    pub fn new(routing: Routing) -> Changes {
        let from = routing.version;
        Changes { routing, from, nodes: Rows::default(), targets: Rows::default(), chains: Rows::default(), table: 0 }
    }

    /// The present routing.
    pub fn routing(&self) -> &Routing {
        &self.routing
    }

    /// The routing that follows. One that is not newer is left out.
    pub fn advance(&mut self, next: Routing) {
        let version = next.version;
        if version <= self.routing.version {
            return;
        }
        let kept = note(&mut self.nodes, version, &self.routing.nodes, &next.nodes, |n| n.id)
            & note(&mut self.targets, version, &self.routing.targets, &next.targets, |t| t.id)
            & note(&mut self.chains, version, &self.routing.chains, &next.chains, |c| c.id);
        if self.routing.table != next.table {
            self.table = version;
        }
        if !kept {
            self.from = version;
        }
        self.routing = next;
    }

    /// What somebody needs who has that version: all of it, or what has changed; nothing if it is the present one or later.
    pub fn since(&self, have: u64) -> (Option<Routing>, Option<RoutingDelta>) {
        let routing = &self.routing;
        if have >= routing.version {
            return (None, None);
        }
        if have < self.from {
            return (Some(routing.clone()), None);
        }
        let changed = Routing {
            version: routing.version,
            cluster: routing.cluster,
            nodes: self.nodes.since(have, &routing.nodes, |n| n.id),
            targets: self.targets.since(have, &routing.targets, |t| t.id),
            chains: self.chains.since(have, &routing.chains, |c| c.id),
            table: if self.table > have { routing.table.clone() } else { Vec::new() },
        };
        (None, Some(RoutingDelta { since: have, changed }))
    }
}

/// Notes the rows that differ; whether none is gone.
fn note<T: PartialEq>(changed: &mut Rows, version: u64, before: &[T], next: &[T], id: impl Fn(&T) -> u32) -> bool {
    let mut old: BTreeMap<u32, &T> = before.iter().map(|row| (id(row), row)).collect();
    for row in next {
        if old.remove(&id(row)) != Some(row) {
            changed.note(id(row), version);
        }
    }
    old.is_empty()
}
