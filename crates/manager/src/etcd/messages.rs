//! The part of etcd's v3 API that the manager uses: four calls, in the field numbers of etcd 3.4.
//!
//! Written out by hand, since etcd's own files need a compiler for them at build time. Fields that are never set or read
//! are left out; etcd and prost both skip what they do not know.

/// Of every answer.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Header {
    /// Of the store, when the request was applied.
    #[prost(int64, tag = "3")]
    pub(super) revision: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KeyValue {
    #[prost(int64, tag = "2")]
    pub(super) create_revision: i64,
    #[prost(int64, tag = "3")]
    pub(super) mod_revision: i64,
    #[prost(bytes = "vec", tag = "5")]
    pub(super) value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Range {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RangeReply {
    #[prost(message, repeated, tag = "2")]
    pub(super) kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Put {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
    /// The key goes with this lease; 0: it stays.
    #[prost(int64, tag = "3")]
    pub(super) lease: i64,
}

/// A condition of a transaction. `result` 0: equal.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Compare {
    #[prost(int32, tag = "1")]
    pub(super) result: i32,
    #[prost(int32, tag = "2")]
    pub(super) target: i32,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) key: Vec<u8>,
    #[prost(oneof = "Revision", tags = "5, 6")]
    pub(super) revision: Option<Revision>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Revision {
    #[prost(int64, tag = "5")]
    Create(i64),
    #[prost(int64, tag = "6")]
    Modify(i64),
}

impl Compare {
    /// The key was made at that revision; 0: it is not there.
    pub(super) fn created(key: &str, revision: i64) -> Compare {
        Compare { result: 0, target: 1, key: key.into(), revision: Some(Revision::Create(revision)) }
    }

    /// The key was last written at that revision; 0: it is not there.
    pub(super) fn modified(key: &str, revision: i64) -> Compare {
        Compare { result: 0, target: 2, key: key.into(), revision: Some(Revision::Modify(revision)) }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Operation {
    #[prost(oneof = "OperationKind", tags = "1, 2")]
    pub(super) kind: Option<OperationKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum OperationKind {
    #[prost(message, tag = "1")]
    Range(Range),
    #[prost(message, tag = "2")]
    Put(Put),
}

impl Operation {
    pub(super) fn range(key: &str) -> Operation {
        Operation { kind: Some(OperationKind::Range(Range { key: key.into() })) }
    }

    pub(super) fn put(key: &str, value: Vec<u8>, lease: i64) -> Operation {
        Operation { kind: Some(OperationKind::Put(Put { key: key.into(), value, lease })) }
    }
}

/// The first of an operation's answer; of a put there is nothing to read.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OperationReply {
    #[prost(message, optional, tag = "1")]
    pub(super) range: Option<RangeReply>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Transaction {
    #[prost(message, repeated, tag = "1")]
    pub(super) compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub(super) success: Vec<Operation>,
    #[prost(message, repeated, tag = "3")]
    pub(super) failure: Vec<Operation>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TransactionReply {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<Header>,
    #[prost(bool, tag = "2")]
    pub(super) succeeded: bool,
    #[prost(message, repeated, tag = "3")]
    pub(super) replies: Vec<OperationReply>,
}

impl TransactionReply {
    /// What the range among the operations that was `nth` of all found.
    pub(super) fn found(&self, nth: usize) -> Option<&KeyValue> {
        self.replies.get(nth)?.range.as_ref()?.kvs.first()
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LeaseGrant {
    /// Seconds.
    #[prost(int64, tag = "1")]
    pub(super) ttl: i64,
}

/// Of a grant and of a renewal alike.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LeaseReply {
    #[prost(int64, tag = "2")]
    pub(super) id: i64,
    /// Seconds; 0: there is no such lease.
    #[prost(int64, tag = "3")]
    pub(super) ttl: i64,
}

/// Revokes or renews it, depending on the call.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Lease {
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Nothing {}
