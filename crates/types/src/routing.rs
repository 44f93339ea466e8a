//! Routing: a versioned snapshot of nodes, targets and chains, and where a key lives.

use crate::ids::{ChainId, ChainVer, Incarnation, NodeId, ShardId, TargetId};

/// State of a target as the manager sees it; the order is the order of members in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum PublicState {
    /// Holds every committed update and serves.
    Serving = 0,
    /// Was SERVING when nobody was left: any such member may revive the chain.
    LastSrv = 1,
    /// Is being brought up to date by the last SERVING member.
    Syncing = 2,
    /// Alive, waits for its turn to sync.
    Waiting = 3,
    /// Not heard of, or not usable.
    Offline = 4,
}

/// State of a target as its node reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum LocalState {
    /// Open and alive.
    Online = 0,
    /// A sink that has answered SyncDone under the reported chain version.
    UpToDate = 1,
    /// Stopped on purpose; serves no more.
    Stopped = 2,
    /// Its disk failed; serves no more.
    Failed = 3,
}

/// One replica's place in a chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Member {
    /// The target.
    #[prost(uint32, tag = "1")]
    pub target: TargetId,
    /// Its state.
    #[prost(enumeration = "PublicState", tag = "2")]
    pub state: i32,
    /// Chosen to revive the chain (LASTSRV only).
    #[prost(bool, tag = "3")]
    pub chosen: bool,
}

/// A chain and its members, in order: SERVING (head first, tail last), LASTSRV, SYNCING, WAITING, OFFLINE.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Chain {
    /// The chain.
    #[prost(uint32, tag = "1")]
    pub id: ChainId,
    /// Grows when the ordered list of SERVING, LASTSRV and SYNCING members changes, and only then.
    #[prost(uint64, tag = "2")]
    pub chain_ver: ChainVer,
    /// In order.
    #[prost(message, repeated, tag = "3")]
    pub members: Vec<Member>,
}

impl Chain {
    /// SERVING members, head first.
    pub fn serving(&self) -> impl DoubleEndedIterator<Item = TargetId> + '_ {
        self.in_state(PublicState::Serving)
    }
    /// The SYNCING member, if any.
    pub fn syncing(&self) -> Option<TargetId> {
        self.in_state(PublicState::Syncing).next()
    }
    /// Members in `state`, in order.
    pub fn in_state(&self, state: PublicState) -> impl DoubleEndedIterator<Item = TargetId> + '_ {
        self.members.iter().filter(move |m| m.state() == state).map(|m| m.target)
    }
    /// Where client updates go.
    pub fn head(&self) -> Option<TargetId> {
        self.serving().next()
    }
    /// Who answers version queries: the last SERVING member.
    pub fn tail(&self) -> Option<TargetId> {
        self.serving().next_back()
    }
    /// State of a member; `None` if `target` is not in this chain.
    pub fn state_of(&self, target: TargetId) -> Option<PublicState> {
        self.members.iter().find(|m| m.target == target).map(Member::state)
    }
}

/// A node and where its shards listen.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct NodeInfo {
    /// The node.
    #[prost(uint32, tag = "1")]
    pub id: NodeId,
    /// Its present start.
    #[prost(uint64, tag = "2")]
    pub incarnation: Incarnation,
    /// `host:port` of each shard, in order.
    #[prost(string, repeated, tag = "3")]
    pub shard_addrs: Vec<String>,
    /// Heard of within a lease.
    #[prost(bool, tag = "4")]
    pub alive: bool,
    /// What it shares with others that may fail together with it; empty: nothing.
    #[prost(string, tag = "5")]
    pub rack: String,
}

/// A target and who owns it.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct TargetInfo {
    /// The target.
    #[prost(uint32, tag = "1")]
    pub id: TargetId,
    /// The node it is on.
    #[prost(uint32, tag = "2")]
    pub node: NodeId,
    /// The shard that owns it.
    #[prost(uint32, tag = "3")]
    pub shard: ShardId,
    /// Written to the superblock when the target was made; 16 bytes.
    #[prost(bytes = "vec", tag = "4")]
    pub uuid: Vec<u8>,
    /// The chain it belongs to; 0 if none.
    #[prost(uint32, tag = "5")]
    pub chain: ChainId,
}

/// The cluster as of one version. Versions never go back.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Routing {
    /// Grows with every change.
    #[prost(uint64, tag = "1")]
    pub version: u64,
    /// Drawn when the cluster was made.
    #[prost(fixed64, tag = "2")]
    pub cluster: u64,
    /// By id.
    #[prost(message, repeated, tag = "3")]
    pub nodes: Vec<NodeInfo>,
    /// By id.
    #[prost(message, repeated, tag = "4")]
    pub targets: Vec<TargetInfo>,
    /// By id.
    #[prost(message, repeated, tag = "5")]
    pub chains: Vec<Chain>,
    /// The chain table: slot `hash(key) mod len` holds the key's chain.
    #[prost(uint32, repeated, tag = "6")]
    pub table: Vec<ChainId>,
}

impl Routing {
    /// The chain a key lives on; `None` before the chain table is made.
    pub fn chain_of(&self, key: &[u8]) -> Option<ChainId> {
        let slots = self.table.len() as u64;
        (slots > 0).then(|| self.table[(key_hash(key) % slots) as usize])
    }
    /// A chain by id.
    pub fn chain(&self, id: ChainId) -> Option<&Chain> {
        self.chains.iter().find(|c| c.id == id)
    }
    /// A target by id.
    pub fn target(&self, id: TargetId) -> Option<&TargetInfo> {
        self.targets.iter().find(|t| t.id == id)
    }
    /// A node by id.
    pub fn node(&self, id: NodeId) -> Option<&NodeInfo> {
        self.nodes.iter().find(|n| n.id == id)
    }
    /// `host:port` of the shard that owns a target.
    pub fn addr_of(&self, target: TargetId) -> Option<&str> {
        let t = self.target(target)?;
        self.node(t.node)?.shard_addrs.get(t.shard as usize).map(String::as_str)
    }
}

/// Stable hash of a key: FNV-1a, 64 bits, with the finalizer of SplitMix64 behind it so that the low bits are even.
/// Pinned by golden vectors: a change of this function would lose every chunk.
pub fn key_hash(key: &[u8]) -> u64 {
    let fnv = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let z = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_hash_is_pinned() {
        let golden: [(&[u8], u64); 4] = [
            (b"", 0xf52a_15e9_a9b5_e89b),
            (b"a", 0x02c0_bdbf_4814_20f8),
            (b"checkpoint/000001", 0x9984_fa32_a9f0_86ba),
            (&[0xff; 255], 0x049b_5a78_d122_3a1e),
        ];
        for (key, hash) in golden {
            assert_eq!(key_hash(key), hash, "key {:?}: {:#x}", key.escape_ascii().to_string(), key_hash(key));
        }
    }

    #[test]
    fn keys_spread_evenly() {
        let mut slots = [0u32; 8];
        for n in 0..80_000u32 {
            slots[(key_hash(format!("object/{n:08}").as_bytes()) % 8) as usize] += 1;
        }
        assert!(slots.iter().all(|&n| (9_500..10_500).contains(&n)), "{slots:?}");
    }
}
