//! Pieces of routing: applied to what somebody has, they give the present routing, whatever happened between.

use catena_cluster::Changes;
use catena_types::{Chain, NodeInfo, Routing, TargetInfo};
use proptest::prelude::*;

/// What may change in one version.
#[derive(Clone, Debug)]
enum Change {
    Node(u32, u64),
    Target(u32, u32),
    Chain(u32, u64),
    Table(u32),
    RemoveNode(u32),
}

fn change() -> impl Strategy<Value = Change> {
    let id = 1..6_u32;
    prop_oneof![
        4 => (id.clone(), 0..4_u64).prop_map(|(id, n)| Change::Node(id, n)),
        4 => (id.clone(), 0..4_u32).prop_map(|(id, n)| Change::Target(id, n)),
        4 => (id.clone(), 0..4_u64).prop_map(|(id, n)| Change::Chain(id, n)),
        1 => (1..5_u32).prop_map(Change::Table),
        1 => id.prop_map(Change::RemoveNode),
    ]
}

fn put<T>(rows: &mut Vec<T>, row: T, id: impl Fn(&T) -> u32) {
    rows.retain(|r| id(r) != id(&row));
    rows.push(row);
    rows.sort_by_key(id);
}

fn next(mut routing: Routing, changes: &[Change]) -> Routing {
    routing.version += 1;
    for change in changes {
        match *change {
            Change::Node(id, incarnation) => {
                put(&mut routing.nodes, NodeInfo { id, incarnation, ..NodeInfo::default() }, |n| n.id);
            }
            Change::Target(id, node) => put(&mut routing.targets, TargetInfo { id, node, ..TargetInfo::default() }, |t| t.id),
            Change::Chain(id, chain_ver) => put(&mut routing.chains, Chain { id, chain_ver, members: vec![] }, |c| c.id),
            Change::Table(len) => routing.table = (1..=len).collect(),
            Change::RemoveNode(id) => routing.nodes.retain(|n| n.id != id),
        }
    }
    routing
}

proptest! {
    #[test]
    fn a_piece_leads_to_the_present(versions in prop::collection::vec(prop::collection::vec(change(), 0..4), 1..12)) {
        let first = Routing { version: 10, cluster: 7, ..Routing::default() };
        let mut all = vec![first.clone()];
        let mut changes = Changes::new(first);
        for version in &versions {
            let routing = next(all[all.len() - 1].clone(), version);
            changes.advance(routing.clone());
            all.push(routing);
            for have in &all {
                let then = match changes.since(have.version) {
                    (Some(routing), None) => routing,
                    (None, Some(delta)) => delta.apply(have).expect("it fits"),
                    nothing => {
                        prop_assert_eq!(nothing, (None, None));
                        have.clone()
                    }
                };
                prop_assert_eq!(&then, &all[all.len() - 1]);
            }
        }
        prop_assert!(changes.since(9).0.is_some(), "all of it for who has what was before");
        prop_assert_eq!(changes.since(u64::MAX), (None, None));
    }
}
