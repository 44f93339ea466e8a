//! A connection to whichever manager answers.

use std::time::Duration;

use catena_arena::Arena;
use catena_net::{NetError, Rpc, Security};
use catena_types::Failure;
use catena_wire::header::Kind;
use catena_wire::hello::Hello;

/// Longest wait for an answer of the only manager.
const PATIENCE: Duration = Duration::from_secs(1);

/// Calls managers: the one that answered last, and after a failure the next in the list.
pub(crate) struct Managers {
    addrs: Vec<String>,
    current: usize,
    rpc: Option<Rpc>,
    hello: Hello,
    security: Security,
    arena: Arena,
}

impl Managers {
    /// Of `addrs` (at least one), to which this process says `hello`.
    pub(crate) fn new(addrs: Vec<String>, hello: Hello, security: Security) -> Managers {
        // Managers send no payloads.
        Managers { addrs, current: 0, rpc: None, hello, security, arena: Arena::new(0) }
    }

    /// How many are known.
    pub(crate) fn count(&self) -> usize {
        self.addrs.len()
    }

    /// How long to wait for one of them: shorter where another one may have been elected meanwhile.
    pub(crate) fn patience(&self) -> Duration {
        if self.addrs.len() > 1 { PATIENCE / 2 } else { PATIENCE }
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

    /// The present one does not answer what it was asked: go on to whom it names, or else to the next.
    pub(crate) fn redirect(&mut self, failure: &Failure) {
        if failure.elsewhere.is_empty() || failure.elsewhere == self.addr() {
            return self.next();
        }
        self.rpc = None;
        self.current = self.addrs.iter().position(|a| *a == failure.elsewhere).unwrap_or_else(|| {
            self.addrs.push(failure.elsewhere.clone());
            self.addrs.len() - 1
        });
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
            None => Rpc::connect(self.addr(), self.hello.clone(), &self.security, self.arena.clone(), timeout).await?,
        };
        let rpc = self.rpc.insert(rpc);
        Ok(rpc.call(kind, request, timeout).await?.0)
    }
}
