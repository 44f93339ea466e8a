//! Routing in small pieces: what has changed since a version.
//!
//! What must hold: a change that does not fit what one has is not applied; what is applied equals the snapshot of its
//! version.

use crate::mutation::{Mutation, is};
use crate::routing::Routing;

/// The rows of the routing that have changed since a version. Rows are never removed by one: that takes a snapshot.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RoutingDelta {
    /// It holds every row changed after this version; may be applied to this version or a later one.
    #[prost(uint64, tag = "1")]
    pub since: u64,
    /// The version to which it leads, with the rows that have changed; the chain table only if it has.
    #[prost(message, required, tag = "2")]
    pub changed: Routing,
}

impl RoutingDelta {
    /// The routing to which it leads; `None` if it does not fit, or leads nowhere.
    pub fn apply(&self, have: &Routing) -> Option<Routing> {
        let changed = &self.changed;
        if have.cluster != changed.cluster
            || (have.version < self.since && !is(Mutation::DeltaFromAnywhere))
            || have.version >= changed.version
        {
            return None;
        }
        Some(Routing {
            version: changed.version,
            cluster: changed.cluster,
            nodes: merge(&have.nodes, &changed.nodes, |n| n.id),
            targets: merge(&have.targets, &changed.targets, |t| t.id),
            chains: merge(&have.chains, &changed.chains, |c| c.id),
            table: if changed.table.is_empty() { have.table.clone() } else { changed.table.clone() },
        })
    }
}

/// Rows by id, those of `changed` in place of their former selves.
fn merge<T: Clone>(have: &[T], changed: &[T], id: impl Fn(&T) -> u32) -> Vec<T> {
    let mut rows: std::collections::BTreeMap<u32, &T> = have.iter().map(|row| (id(row), row)).collect();
    rows.extend(changed.iter().map(|row| (id(row), row)));
    rows.into_values().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::{Chain, NodeInfo};

    fn node(id: u32, incarnation: u64) -> NodeInfo {
        NodeInfo { id, incarnation, ..NodeInfo::default() }
    }

    fn routing(version: u64, nodes: Vec<NodeInfo>) -> Routing {
        Routing { version, cluster: 7, nodes, table: vec![1, 1], ..Routing::default() }
    }

    #[test]
    fn it_leads_to_its_version_or_nowhere() {
        let have = routing(5, vec![node(1, 1), node(3, 1)]);
        let chain = Chain { id: 1, ..Chain::default() };
        let mut changed = routing(8, vec![node(2, 1), node(3, 2)]);
        (changed.table, changed.chains) = (vec![], vec![chain.clone()]);
        let delta = RoutingDelta { since: 4, changed };
        let then = delta.apply(&have).expect("it fits");
        let expected = Routing { chains: vec![chain], ..routing(8, vec![node(1, 1), node(2, 1), node(3, 2)]) };
        assert_eq!(then, expected);
        assert_eq!(delta.apply(&then), None, "it leads no further");
        assert_eq!(delta.apply(&routing(3, vec![])), None, "something is missing between");
        assert_eq!(delta.apply(&Routing { cluster: 8, ..have }), None, "another cluster");
    }
}
