//! The stored form of the state: one prost message, unknown fields skipped, so that it can grow.

use catena_cluster::{Move, NodeRow, Opening, State, TargetRow, check_chain};
use catena_types::Chain;
use catena_wire::manager::ReplicaMove;
use prost::Message;

/// Format of the record; grows when an older build could not make sense of it.
pub(crate) const FORMAT: u32 = 1;

/// The bytes of a state.
pub(crate) fn encode(state: &State) -> Vec<u8> {
    StateRecord::from(state).encode_to_vec()
}

/// The state of these bytes, or why they are none.
pub(crate) fn decode(bytes: &[u8]) -> Result<State, String> {
    let state = State::from(StateRecord::decode(bytes).map_err(|e| e.to_string())?);
    state.chains.values().try_for_each(check_chain)?;
    Ok(state)
}

/// All of [`State`].
#[derive(Clone, PartialEq, prost::Message)]
struct StateRecord {
    #[prost(fixed64, tag = "1")]
    cluster: u64,
    #[prost(uint64, tag = "2")]
    version: u64,
    #[prost(uint64, tag = "3")]
    next_incarnation: u64,
    #[prost(uint32, tag = "4")]
    next_target: u32,
    #[prost(uint32, tag = "5")]
    replicas: u32,
    #[prost(message, repeated, tag = "6")]
    nodes: Vec<NodeRecord>,
    #[prost(message, repeated, tag = "7")]
    targets: Vec<TargetRecord>,
    #[prost(message, repeated, tag = "8")]
    chains: Vec<Chain>,
    #[prost(uint32, repeated, tag = "9")]
    table: Vec<u32>,
    #[prost(uint32, tag = "10")]
    lease_ms: u32,
    #[prost(message, repeated, tag = "11")]
    moves: Vec<ReplicaMove>,
    #[prost(bool, tag = "12")]
    rebalancing: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NodeRecord {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(uint64, tag = "2")]
    incarnation: u64,
    #[prost(fixed64, tag = "3")]
    process: u64,
    #[prost(string, repeated, tag = "4")]
    shard_addrs: Vec<String>,
    #[prost(bool, tag = "5")]
    alive: bool,
    #[prost(string, tag = "6")]
    rack: String,
    #[prost(bool, tag = "7")]
    draining: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TargetRecord {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(uint32, tag = "2")]
    node: u32,
    #[prost(uint32, tag = "3")]
    shard: u32,
    #[prost(bytes = "vec", tag = "4")]
    uuid: Vec<u8>,
    #[prost(uint32, tag = "5")]
    chain: u32,
    #[prost(uint64, tag = "6")]
    offered: u64,
    #[prost(uint64, tag = "7")]
    opened_incarnation: u64,
    #[prost(uint64, optional, tag = "8")]
    opened_count: Option<u64>,
    #[prost(uint64, tag = "9")]
    born: u64,
    #[prost(bool, tag = "10")]
    draining: bool,
    #[prost(fixed64, tag = "11")]
    lock: u64,
}

impl From<&State> for StateRecord {
    fn from(state: &State) -> StateRecord {
        let node = |(&id, n): (&u32, &NodeRow)| NodeRecord {
            id,
            incarnation: n.incarnation,
            process: n.process,
            shard_addrs: n.shard_addrs.clone(),
            alive: n.alive,
            rack: n.rack.clone(),
            draining: n.draining,
        };
        let target = |(&id, t): (&u32, &TargetRow)| TargetRecord {
            id,
            node: t.node,
            shard: t.shard,
            uuid: t.uuid.clone(),
            chain: t.chain,
            offered: t.offered,
            lock: t.lock,
            opened_incarnation: t.opened.incarnation,
            opened_count: t.opened.count,
            born: t.born,
            draining: t.draining,
        };
        let a_move =
            |(&chain, m): (&u32, &Move)| ReplicaMove { chain, leaving: m.leaving, joining: m.joining, reason: m.reason as i32 };
        StateRecord {
            cluster: state.cluster,
            version: state.version,
            next_incarnation: state.next_incarnation,
            next_target: state.next_target,
            replicas: state.replicas,
            nodes: state.nodes.iter().map(node).collect(),
            targets: state.targets.iter().map(target).collect(),
            chains: state.chains.values().cloned().collect(),
            table: state.table.clone(),
            lease_ms: state.lease_ms,
            moves: state.moves.iter().map(a_move).collect(),
            rebalancing: state.rebalancing,
        }
    }
}

impl From<StateRecord> for State {
    fn from(record: StateRecord) -> State {
        let node = |n: NodeRecord| {
            let row = NodeRow {
                incarnation: n.incarnation,
                process: n.process,
                shard_addrs: n.shard_addrs,
                alive: n.alive,
                rack: n.rack,
                draining: n.draining,
            };
            (n.id, row)
        };
        let target = |t: TargetRecord| {
            let opened = Opening { incarnation: t.opened_incarnation, count: t.opened_count };
            let row = TargetRow {
                node: t.node,
                shard: t.shard,
                uuid: t.uuid,
                chain: t.chain,
                offered: t.offered,
                lock: t.lock,
                opened,
                born: t.born,
                draining: t.draining,
            };
            (t.id, row)
        };
        let a_move = |m: ReplicaMove| (m.chain, Move { leaving: m.leaving, joining: m.joining, reason: m.reason() });
        State {
            cluster: record.cluster,
            version: record.version,
            next_incarnation: record.next_incarnation,
            next_target: record.next_target,
            replicas: record.replicas,
            nodes: record.nodes.into_iter().map(node).collect(),
            targets: record.targets.into_iter().map(target).collect(),
            chains: record.chains.into_iter().map(|c| (c.id, c)).collect(),
            table: record.table,
            lease_ms: record.lease_ms,
            moves: record.moves.into_iter().map(a_move).collect(),
            rebalancing: record.rebalancing,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use catena_cluster::{Manager, Settings};
    use catena_types::Space;
    use catena_wire::manager::{InitRequest, MoveReason, RegisterRequest, TargetOffer};

    /// A cluster of three nodes with two chains.
    pub(crate) fn some_state() -> State {
        let mut manager = Manager::new(Settings::default(), State::new(0xfeed), 0);
        for node in 1..=3_u32 {
            let offer = |n: u8| TargetOffer {
                uuid: vec![node as u8 * 16 + n; 16],
                target: 0,
                shard: 0,
                space: Space::default(),
                lock: n.into(),
            };
            let request = RegisterRequest {
                node,
                cluster: 0,
                process: 7 + u64::from(node),
                shard_addrs: vec![format!("10.0.0.{node}:7000")],
                targets: vec![offer(0), offer(1)],
                rack: format!("r{node}"),
            };
            assert_eq!(manager.register(1, &request).reply.failure, None);
        }
        assert_eq!(
            manager.init(10_000_000_000, &InitRequest { replicas: 3, nodes: 3, ..InitRequest::default() }).reply.chains,
            2
        );
        manager.state().clone()
    }

    #[test]
    fn a_record_is_the_whole_state() {
        let mut state = some_state();
        state.moves.insert(2, Move { leaving: 3, joining: 9, reason: MoveReason::Drain });
        state.nodes.get_mut(&2).expect("node 2").draining = true;
        state.targets.get_mut(&3).expect("target 3").draining = true;
        state.rebalancing = true;
        assert_eq!(decode(&encode(&state)), Ok(state));
        assert!(decode(&[0xff; 7]).is_err());
    }
}
