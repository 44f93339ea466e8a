//! Identities and version numbers.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// A storage process, numbered by whoever set the cluster up. Zero is "none".
pub type NodeId = u32;
/// One thread of a node, counted from zero.
pub type ShardId = u32;
/// One replica container on one disk of one node; given by the manager, never reused. Zero is "none".
pub type TargetId = u32;
/// One chain of the chain table.
pub type ChainId = u32;
/// Version of a chain's membership; grows with every change of its SERVING, LASTSRV or SYNCING members.
pub type ChainVer = u64;
/// Version of a chunk; the first update of a chunk makes version `remove_floor + 1` (1 where nothing was removed).
pub type Ver = u64;
/// One start of a node; ordered, given by the manager.
pub type Incarnation = u64;
/// A client process, drawn at random.
pub type ClientId = u64;
/// Number of an update within a session; grows by at least one per update.
pub type Seq = u64;
/// Nanoseconds of a clock that also runs during suspend (`CLOCK_BOOTTIME`), or of the simulator's clock.
pub type Time = u64;

/// One slot of a client in which at most one update is in flight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Message)]
pub struct SessionId {
    /// The client.
    #[prost(fixed64, tag = "1")]
    pub client: ClientId,
    /// The client's slot.
    #[prost(uint32, tag = "2")]
    pub channel: u32,
}

/// Names one update of one client, over every retry: the key of exactly-once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Message)]
pub struct Tag {
    /// The client.
    #[prost(fixed64, tag = "1")]
    pub client: ClientId,
    /// The client's slot.
    #[prost(uint32, tag = "2")]
    pub channel: u32,
    /// Number of the update within the slot.
    #[prost(uint64, tag = "3")]
    pub seq: Seq,
}

impl Tag {
    /// A number for people to follow the update by, through the logs of every process. Equal for equal tags; others differ
    /// but for chance.
    pub fn trace(&self) -> u64 {
        let session = self.client ^ u64::from(self.channel).rotate_left(32);
        session.wrapping_add(self.seq).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// The session this update belongs to.
    pub fn session(&self) -> SessionId {
        SessionId { client: self.client, channel: self.channel }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}/{}/{}", self.client, self.channel, self.seq)
    }
}

/// Name of a chunk: 1 to 255 bytes, ordered bytewise. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkKey(Arc<[u8]>);

impl ChunkKey {
    /// Checks the length. `None` if `bytes` is empty or longer than [`crate::limits::MAX_KEY`].
    pub fn new(bytes: &[u8]) -> Option<ChunkKey> {
        (1..=crate::limits::MAX_KEY).contains(&bytes.len()).then(|| ChunkKey(bytes.into()))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for ChunkKey {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_length_is_checked() {
        assert!(ChunkKey::new(b"").is_none());
        assert!(ChunkKey::new(&[7; 255]).is_some());
        assert!(ChunkKey::new(&[7; 256]).is_none());
        assert_eq!(ChunkKey::new(b"a\x00b").map(|k| k.to_string()).as_deref(), Some("a\\x00b"));
    }
}
