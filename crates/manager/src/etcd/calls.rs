//! Calls to etcd over gRPC: to whichever of its members answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::messages::{Lease, LeaseGrant, LeaseReply, Nothing, Transaction, TransactionReply};
use crate::error::StoreError;

/// The members of an etcd cluster.
pub(super) struct Etcd {
    members: Vec<(String, Channel)>,
    /// Index of the one asked next.
    current: AtomicUsize,
    /// Longest wait for an answer.
    patience: Duration,
}

impl Etcd {
    /// Connects when it is first needed. To be called in a runtime.
    pub(super) fn new(addrs: &[String], patience: Duration) -> Result<Etcd, StoreError> {
        let wrong = |addr: &str, reason: &str| StoreError::Address { addr: addr.to_owned(), reason: reason.to_owned() };
        if addrs.is_empty() {
            return Err(wrong("", "give at least one, HOST:PORT"));
        }
        let member = |addr: &String| {
            if addr.starts_with("https:") {
                return Err(wrong(addr, "only plain HTTP is spoken to etcd: use a private network"));
            }
            let url = if addr.starts_with("http://") { addr.clone() } else { format!("http://{addr}") };
            let endpoint = Endpoint::from_shared(url).map_err(|e| wrong(addr, &e.to_string()))?;
            Ok((addr.clone(), endpoint.connect_timeout(patience).tcp_nodelay(true).connect_lazy()))
        };
        let members = addrs.iter().map(member).collect::<Result<_, _>>()?;
        Ok(Etcd { members, current: AtomicUsize::new(0), patience })
    }

    pub(super) async fn transaction(&self, request: Transaction) -> Result<TransactionReply, StoreError> {
        self.call("/etcdserverpb.KV/Txn", request).await
    }

    pub(super) async fn grant(&self, ttl: i64) -> Result<LeaseReply, StoreError> {
        self.call("/etcdserverpb.Lease/LeaseGrant", LeaseGrant { ttl }).await
    }

    pub(super) async fn revoke(&self, id: i64) -> Result<Nothing, StoreError> {
        self.call("/etcdserverpb.Lease/LeaseRevoke", Lease { id }).await
    }

    /// One renewal. etcd offers a stream of them; one of length one tells when each was sent.
    pub(super) async fn keep_alive(&self, id: i64) -> Result<LeaseReply, StoreError> {
        let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
        self.attempt(async |mut grpc| {
            let request = Request::new(tokio_stream::once(Lease { id }));
            let codec: ProstCodec<Lease, LeaseReply> = ProstCodec::default();
            let mut replies = grpc.streaming(request, path, codec).await?.into_inner();
            replies.message().await?.ok_or_else(|| Status::unavailable("the stream of renewals has ended"))
        })
        .await
    }

    async fn call<Req, Rep>(&self, path: &'static str, request: Req) -> Result<Rep, StoreError>
    where
        Req: prost::Message + 'static,
        Rep: prost::Message + Default + 'static,
    {
        let path = PathAndQuery::from_static(path);
        let codec: ProstCodec<Req, Rep> = ProstCodec::default();
        self.attempt(async |mut grpc| Ok(grpc.unary(Request::new(request), path, codec).await?.into_inner())).await
    }

    /// One call to the present member; after a failure the next one is asked.
    async fn attempt<Rep>(&self, call: impl AsyncFnOnce(Grpc<Channel>) -> Result<Rep, Status>) -> Result<Rep, StoreError> {
        let current = self.current.load(Ordering::Relaxed) % self.members.len();
        let (addr, channel) = &self.members[current];
        let made = async {
            let mut grpc = Grpc::new(channel.clone());
            grpc.ready().await.map_err(|e| e.to_string())?;
            call(grpc).await.map_err(|status| status.message().to_owned())
        };
        let late = || Err(format!("no answer within {:?}", self.patience));
        tokio::time::timeout(self.patience, made).await.unwrap_or_else(|_| late()).map_err(|reason| {
            self.current.store(current + 1, Ordering::Relaxed);
            StoreError::Unreachable { addr: addr.clone(), reason }
        })
    }
}
