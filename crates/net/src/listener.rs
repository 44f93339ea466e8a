//! The accepting side. Every connection says hello in a task of its own, so that a slow one holds nobody up.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use catena_arena::Arena;
use catena_types::{Code, Failure};
use catena_wire::header::{HeaderError, Kind};
use catena_wire::hello::{Hello, HelloReply};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::handshake::{expect, handshake_frame, hello_reply, split};
use crate::{Frame, FrameReceiver, FrameSender, NetError, Security};

/// Time for the hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after the system refused to accept (no file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that have said hello and wait to be accepted.
const BACKLOG: usize = 128;

/// Accepts connections on one address. Dropping it stops that; accepted connections live on.
pub struct Listener {
    addr: SocketAddr,
    incoming: mpsc::Receiver<Incoming>,
    task: AbortHandle,
}

/// A connection that has said hello and waits for the answer. Dropping it closes the connection.
pub struct Incoming {
    /// What it said.
    pub hello: Hello,
    /// Whether it has the cluster's own secret; true if there is none.
    pub member: bool,
    /// Where it comes from.
    pub peer_addr: SocketAddr,
    sender: FrameSender,
    receiver: FrameReceiver,
}

impl Listener {
    /// Listens on `addr` (port 0: any free one). Whoever connects proves what `security` asks
    /// for. Payloads are received into buffers of `arena`.
    ///
    /// # Errors
    /// [`NetError::Bind`] names the address and the next step.
    pub async fn bind(addr: SocketAddr, security: Security, arena: Arena) -> Result<Listener, NetError> {
        let failed = |source: io::Error| {
            let next = match source.kind() {
                io::ErrorKind::AddrInUse => {
                    "another process, perhaps an earlier start of this one, has it: stop it or choose another port"
                }
                io::ErrorKind::AddrNotAvailable => "this machine has no such address: choose one of its own",
                io::ErrorKind::PermissionDenied => "ports below 1024 need privileges: choose a higher one",
                _ => "choose another address",
            };
            NetError::Bind { addr: addr.to_string(), source, next }
        };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let (ready, incoming) = mpsc::channel(BACKLOG);
        let task = tokio::spawn(accept_all(listener, security, arena, ready)).abort_handle();
        Ok(Listener { addr, incoming, task })
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection that has said hello.
    pub async fn accept(&mut self) -> Incoming {
        match self.incoming.recv().await {
            Some(incoming) => incoming,
            // The task ends only when this listener is dropped.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Incoming {
    /// Accepts: queues `reply` and hands the connection over.
    pub fn accept(self, reply: HelloReply) -> (FrameSender, FrameReceiver) {
        // If the connection has broken meanwhile, the receiver says so.
        let _ = self.sender.send(Frame::new(Kind::HelloReply, 0, &reply).reply());
        (self.sender, self.receiver)
    }

    /// Refuses, says why, and closes.
    pub fn refuse(self, failure: Failure) {
        tracing::debug!(peer = %self.peer_addr, "connection refused: {failure}");
        refuse(&self.sender, failure);
    }
}

async fn accept_all(listener: TcpListener, security: Security, arena: Arena, ready: mpsc::Sender<Incoming>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                tokio::spawn(greet(stream, peer, security.clone(), arena.clone(), ready.clone()));
            }
            Err(e) => {
                tracing::warn!("cannot accept a connection: {e}; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn greet(stream: TcpStream, peer_addr: SocketAddr, security: Security, arena: Arena, ready: mpsc::Sender<Incoming>) {
    let peer = peer_addr.to_string();
    let (sender, mut receiver) = match split(stream, arena, &peer) {
        Ok(halves) => halves,
        Err(e) => return tracing::debug!(peer, "{e}"),
    };
    let introduced = tokio::time::timeout(HELLO_TIMEOUT, introduce(&security, &sender, &mut receiver)).await;
    let timed_out = |_| NetError::Timeout { what: "hello".into(), ms: HELLO_TIMEOUT.as_millis() as u64 };
    match introduced.map_err(timed_out).flatten() {
        // Fails only when the listener is gone.
        Ok((hello, member)) => drop(ready.send(Incoming { hello, member, peer_addr, sender, receiver }).await),
        Err(NetError::Refused(failure)) => {
            tracing::warn!(peer, "connection refused: {failure}");
            refuse(&sender, failure);
        }
        Err(e) => {
            tracing::debug!(peer, "connection closed: {e}");
            let code = match e {
                NetError::Header(HeaderError::Version { .. }) => Code::WrongProtocol,
                _ => Code::Malformed,
            };
            refuse(&sender, Failure::new(code, e.to_string()));
        }
    }
}

/// What the other side says of itself, and whether it has proved to be a member.
async fn introduce(security: &Security, sender: &FrameSender, receiver: &mut FrameReceiver) -> Result<(Hello, bool), NetError> {
    let frame = expect(handshake_frame(receiver).await?, Kind::Hello)?;
    let hello: Hello = frame.decode()?;
    let member = security.examine(&hello, &frame.body, sender, receiver).await?;
    receiver.handshake_done();
    Ok((hello, member))
}

fn refuse(sender: &FrameSender, failure: Failure) {
    let reply = HelloReply { failure: Some(failure), ..hello_reply(0, 0, 0) };
    // Whoever cannot be told why is closed all the same.
    let _ = sender.send(Frame::new(Kind::HelloReply, 0, &reply).reply());
    sender.close();
}
