//! The first frame in each direction, and the sockets under it.

use std::time::Duration;

use catena_arena::Arena;
use catena_types::{Code, Failure, limits};
use catena_wire::header::Kind;
use catena_wire::hello::{Hello, HelloReply};
use tokio::net::TcpStream;

use crate::decoder::Decoder;
use crate::{Frame, FrameReceiver, FrameSender, NetError, Security};

/// Bytes sent and not acknowledged by the other machine for this long end the connection, unless
/// [`FrameReceiver::give_up_after`] says otherwise.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// Connects, says hello and waits for the answer, all within `timeout`. `hello.protocol` is filled in.
///
/// # Errors
/// [`NetError::Refused`] carries the other side's reason.
pub async fn connect(
    addr: &str,
    hello: Hello,
    security: &Security,
    arena: Arena,
    timeout: Duration,
) -> Result<(FrameSender, FrameReceiver, HelloReply), NetError> {
    let attempt = async {
        let stream = TcpStream::connect(addr).await.map_err(|source| NetError::Connect { addr: addr.to_owned(), source })?;
        let (sender, mut receiver) = split(stream, arena, addr)?;
        let mut hello = Hello { protocol: limits::PROTOCOL.into(), ..hello };
        security.introduce(&mut hello)?;
        let hello = Frame::new(Kind::Hello, 0, &hello);
        sender.send(hello.clone())?;
        let answer = security.convince(&hello.body, &sender, &mut receiver).await?;
        let reply: HelloReply = expect(answer, Kind::HelloReply)?.decode()?;
        receiver.handshake_done();
        match reply.failure {
            Some(failure) => Err(NetError::Refused(failure)),
            None => Ok((sender, receiver, reply)),
        }
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(result) => result,
        Err(_) => Err(NetError::Timeout { what: format!("connection to {addr}"), ms: timeout.as_millis() as u64 }),
    }
}

/// Sets the socket up and starts its writer.
pub(crate) fn split(stream: TcpStream, arena: Arena, peer: &str) -> Result<(FrameSender, FrameReceiver), NetError> {
    let failed = |source| NetError::Io { peer: peer.to_owned(), source };
    stream.set_nodelay(true).map_err(failed)?;
    give_up_after(&stream, UNACKNOWLEDGED).map_err(failed)?;
    let (read, write) = stream.into_split();
    let receiver = FrameReceiver::new(read, Decoder::new(arena), peer.to_owned());
    Ok((FrameSender::start(write, peer.to_owned()), receiver))
}

/// How long bytes may be sent and not acknowledged.
pub(crate) fn give_up_after(stream: &TcpStream, time: Duration) -> std::io::Result<()> {
    let ms = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, ms)?)
}

/// The next frame before the handshake is done.
pub(crate) async fn handshake_frame(receiver: &mut FrameReceiver) -> Result<Frame, NetError> {
    let closed = |peer: &str| NetError::Closed { peer: peer.to_owned(), reason: "closed before it said hello".into() };
    receiver.recv().await?.ok_or_else(|| closed(receiver.peer()))
}

/// The frame, which must be of kind `kind`.
pub(crate) fn expect(frame: Frame, kind: Kind) -> Result<Frame, NetError> {
    if frame.kind == kind { Ok(frame) } else { Err(NetError::Unexpected { got: frame.kind, expected: "a hello" }) }
}

/// Whether a process of this build and `cluster` (0: not known yet) talks to the one that said `hello`.
///
/// # Errors
/// `WrongProtocol` or `WrongCluster`, naming both values.
pub fn check_hello(hello: &Hello, cluster: u64) -> Result<(), Failure> {
    let ours = u32::from(limits::PROTOCOL);
    if hello.protocol != ours {
        let message = format!(
            "you speak protocol version {}, this process speaks {ours}: run builds of one protocol version",
            hello.protocol
        );
        return Err(Failure::new(Code::WrongProtocol, message));
    }
    if hello.cluster != 0 && cluster != 0 && hello.cluster != cluster {
        let message = format!(
            "you belong to cluster {:016x}, this process to {cluster:016x}: check the addresses you were given",
            hello.cluster
        );
        return Err(Failure::new(Code::WrongCluster, message));
    }
    Ok(())
}

/// The answer of a process of `cluster`, `node` (0 for a manager) and `incarnation` that accepts.
pub fn hello_reply(cluster: u64, node: u32, incarnation: u64) -> HelloReply {
    HelloReply { failure: None, protocol: limits::PROTOCOL.into(), cluster, node, incarnation, lane: None }
}
