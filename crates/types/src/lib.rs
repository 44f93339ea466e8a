//! The words every other crate speaks: ids, versions, states, limits, error codes and the checksum.
//!
//! Pure: no clock, no randomness, no IO, no hashed iteration order. Structs that travel between processes derive
//! `prost::Message`, so that a value has one shape in memory and on the wire; unknown fields are skipped, which is
//! what lets versions be mixed during a rolling upgrade.

pub mod chunk;
pub mod crc;
pub mod delta;
pub mod error;
pub mod ids;
pub mod limits;
pub mod mutation;
pub mod routing;
pub mod store;

pub use chunk::{ChunkMeta, Committed, Op, OpKind, Precondition, Staged};
pub use delta::RoutingDelta;
pub use error::{Class, Code, Failure};
pub use ids::{ChainId, ChainVer, ChunkKey, ClientId, Incarnation, NodeId, Seq, SessionId, ShardId, Tag, TargetId, Time, Ver};
pub use routing::{Chain, LocalState, Member, NodeInfo, PublicState, Routing, TargetInfo};
pub use store::{ChunkStore, Done, Payload, SessionRow, Space, StageInfo, StageRequest};
