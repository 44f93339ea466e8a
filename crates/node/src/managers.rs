//! A connection to whichever manager answers.

use std::time::Duration;

use catena_arena::Arena;
use catena_net::{NetError, Rpc};
use catena_wire::header::Kind;
use catena_wire::hello::Hello;

/// Calls managers: the one that answered last, and after a failure the next in the list.
pub(crate) struct Managers {
    addrs: Vec<String>,
    current: usize,
    rpc: Option<Rpc>,
    hello: Hello,
    arena: Arena,
}

impl Managers {
    /// Of `addrs` (at least one), to which this process says `hello`.
    pub(crate) fn new(addrs: Vec<String>, hello: Hello) -> Managers {
        // Managers send no payloads.
        Managers { addrs, current: 0, rpc: None, hello, arena: Arena::new(0) }
    }

    /// Address of the present one.
    pub(crate) fn addr(&self) -> &str {
        &self.addrs[self.current]
    }

    /// One request to the present manager, all within `timeout`. After an error the next call goes to the next one.
    pub(crate) async fn call<Req, Rep>(&mut self, kind: Kind, request: &Req, timeout: Duration) -> Result<Rep, NetError>
    where
        Req: prost::Message,
        Rep: prost::Message + Default,
    {
        let result = self.attempt(kind, request, timeout).await;
        if result.is_err() {
            self.next();
        }
        result
    }

    /// The present one is of no use: go on to the next.
    pub(crate) fn next(&mut self) {
        self.rpc = None;
        self.current = (self.current + 1) % self.addrs.len();
    }

    async fn attempt<Req, Rep>(&mut self, kind: Kind, request: &Req, timeout: Duration) -> Result<Rep, NetError>
    where
        Req: prost::Message,
        Rep: prost::Message + Default,
    {
        let rpc = match self.rpc.take().filter(|rpc| !rpc.is_closed()) {
            Some(rpc) => rpc,
            None => Rpc::connect(self.addr(), self.hello.clone(), self.arena.clone(), timeout).await?,
        };
        let rpc = self.rpc.insert(rpc);
        Ok(rpc.call(kind, request, timeout).await?.0)
    }
}
