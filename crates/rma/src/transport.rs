//! The fabric as `catena-net` knows a one-sided transport.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use catena_arena::AlignedBuf;
use catena_net::{Lane, LaneError, Moved, Offered, OneSided, RemoteBuffer};

use crate::{Endpoint, Exposed, Fabric, Far, RmaError};

/// Payloads over a provider of libfabric.
#[derive(Debug)]
pub struct Transport {
    fabric: Fabric,
    name: String,
}

impl Transport {
    /// Opens `provider`, such as `tcp;ofi_rxm`, `shm` or `verbs;ofi_rxm`. `bind`: the address of this machine the others
    /// reach it at, for providers over IP.
    ///
    /// # Errors
    /// libfabric or the provider is not there, or refuses.
    pub fn open(provider: &str, bind: Option<IpAddr>) -> Result<Transport, RmaError> {
        let fabric = Fabric::open(provider, bind)?;
        let machine = if fabric.is_ip() { String::new() } else { boot_id() };
        Ok(Transport { name: format!("libfabric/{provider}/{machine}"), fabric })
    }
}

/// Names this start of this machine: shared memory reaches no other. Empty if the system does not say.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

impl From<RmaError> for LaneError {
    fn from(e: RmaError) -> LaneError {
        LaneError(e.to_string())
    }
}

impl OneSided for Transport {
    fn name(&self) -> &str {
        &self.name
    }

    fn open(&self) -> Result<Arc<dyn Lane>, LaneError> {
        Ok(Arc::new(Open(Arc::new(self.fabric.endpoint()?))))
    }
}

/// An endpoint for one connection.
struct Open(Arc<Endpoint>);

impl Lane for Open {
    fn address(&self) -> Vec<u8> {
        self.0.address().to_vec()
    }

    fn connect(&self, peer: &[u8]) -> Result<(), LaneError> {
        Ok(self.0.connect(peer)?)
    }

    fn offer_data(&self, data: Bytes) -> Result<Box<dyn Offered>, LaneError> {
        Ok(Box::new(self.0.expose_data(data)?))
    }

    fn offer_room(&self, room: AlignedBuf) -> Result<Box<dyn Offered>, LaneError> {
        Ok(Box::new(self.0.expose_room(room)?))
    }

    fn pull(&self, from: RemoteBuffer, room: AlignedBuf) -> Moved<AlignedBuf> {
        let (endpoint, far) = (self.0.clone(), far(from));
        Box::pin(async move { Ok(endpoint.read(far, room).await?) }) as Pin<Box<_>>
    }

    fn push(&self, data: Bytes, to: RemoteBuffer) -> Moved<()> {
        let (endpoint, far) = (self.0.clone(), far(to));
        Box::pin(async move { Ok(endpoint.write(far, data).await?) }) as Pin<Box<_>>
    }

    fn close(&self) {
        self.0.close();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn far(buffer: RemoteBuffer) -> Far {
    Far { addr: buffer.addr, key: buffer.key }
}

impl Offered for Exposed {
    fn place(&self) -> (u64, u64) {
        (self.addr, self.key)
    }

    fn take_back(self: Box<Self>) -> Option<AlignedBuf> {
        (*self).take_back()
    }
}
