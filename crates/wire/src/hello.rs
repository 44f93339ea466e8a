//! The first frame in each direction of every connection.

use catena_types::Failure;

/// Who connects. Clients and tools have node 0.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    /// [`catena_types::limits::PROTOCOL`] of the sender.
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    /// The cluster the sender belongs to; 0 if it has not learned it yet.
    #[prost(fixed64, tag = "2")]
    pub cluster: u64,
    /// The sender's node; 0 for clients and tools.
    #[prost(uint32, tag = "3")]
    pub node: u32,
    /// The sender's shard.
    #[prost(uint32, tag = "4")]
    pub shard: u32,
    /// The sender's present start: with `epoch`, orders the connections of a link.
    #[prost(uint64, tag = "5")]
    pub incarnation: u64,
    /// Number of this connection among those of the same shards and incarnation, growing. Once a connection with a
    /// higher (incarnation, epoch) is seen, frames of the older one are dropped.
    #[prost(uint64, tag = "6")]
    pub epoch: u64,
    /// Drawn for this connection, if the sender has a secret; else empty.
    #[prost(bytes = "vec", tag = "7")]
    pub nonce: Vec<u8>,
    /// Names the sender's secret without telling it; empty if it has none.
    #[prost(bytes = "vec", tag = "8")]
    pub secret_id: Vec<u8>,
    /// The sender can move payloads beside the frames.
    #[prost(message, optional, tag = "9")]
    pub lane: Option<LaneHello>,
}

/// One side of a one-sided transport. Builds that know nothing of it skip it, and stay with frames.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LaneHello {
    /// Names the transport and what it reaches; used only if both sides have the same.
    #[prost(string, tag = "1")]
    pub transport: String,
    /// What the other side connects to.
    #[prost(bytes = "vec", tag = "2")]
    pub address: Vec<u8>,
}

/// The answer to a [`Hello`] with a known `secret_id`: the answering side knows the secret, and asks for the same.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Challenge {
    /// Drawn for this connection.
    #[prost(bytes = "vec", tag = "1")]
    pub nonce: Vec<u8>,
    /// Over this nonce and the hello received.
    #[prost(bytes = "vec", tag = "2")]
    pub proof: Vec<u8>,
}

/// The answer to a [`Challenge`]; the [`HelloReply`] follows.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Proof {
    /// Over the nonce of the challenge and the hello sent.
    #[prost(bytes = "vec", tag = "1")]
    pub proof: Vec<u8>,
}

/// The answer. With `failure` set the connection is closed behind it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HelloReply {
    /// Why the connection is refused.
    #[prost(message, optional, tag = "1")]
    pub failure: Option<Failure>,
    /// Protocol of the answering side.
    #[prost(uint32, tag = "2")]
    pub protocol: u32,
    /// Cluster of the answering side; 0 if it has not learned it yet.
    #[prost(fixed64, tag = "3")]
    pub cluster: u64,
    /// Node of the answering side; 0 for a manager.
    #[prost(uint32, tag = "4")]
    pub node: u32,
    /// Present start of the answering side.
    #[prost(uint64, tag = "5")]
    pub incarnation: u64,
    /// The answering side takes part in the transport that the hello offers.
    #[prost(message, optional, tag = "6")]
    pub lane: Option<LaneHello>,
}
