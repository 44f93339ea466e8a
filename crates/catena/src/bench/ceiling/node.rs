//! One process of the bare chain: receives, checksums, writes with O_DIRECT, forwards at the same time, and answers when it is
//! durable here and at all that follow. No protocol, no index, no lease: a place in a file is all there is.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use catena_arena::Arena;
use catena_engine::disk::file::{Backend, FileDisk, Ring};
use catena_engine::disk::{Completion, Disk, Io, IoOp};
use catena_types::crc::crc32c;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};

use super::stream::{Head, Incoming, Kind, Message, Outgoing};
use crate::bench::raw;
use crate::cmd::{follow_parent, runtime};
use crate::fault::{Doing, Result};

/// Bytes its buffers may take together.
const MEMORY: usize = 1 << 30;
/// The completion of a flush; operations are numbered from 1.
const FLUSH: u64 = 0;

/// What a process of the bare chain is told. [`super::Chain`] starts it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  catena bench ceiling-node --file /tmp/bare --size 67108864 --announce /tmp/addr")]
pub(crate) struct Args {
    /// File to write to and read from
    #[arg(long)]
    file: PathBuf,
    /// Its bytes
    #[arg(long)]
    size: u64,
    /// Who follows in the chain
    #[arg(long)]
    next: Option<SocketAddr>,
    /// Answer before anything is flushed
    #[arg(long)]
    no_flush: bool,
    /// File the address is written to, when it can be reached
    #[arg(long)]
    announce: PathBuf,
    /// Stop when the process with this id, the parent, is gone
    #[arg(long, value_name = "PID")]
    die_with_parent: Option<u32>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    args.die_with_parent.map_or(Ok(()), follow_parent)?;
    let arena = Arena::new(MEMORY);
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let opened = File::options().read(true).write(true).create(true).truncate(true).custom_flags(direct).open(&args.file);
    let file = opened.doing(format_args!("open {} with O_DIRECT", args.file.display()))?;
    raw::fill(&file, &arena, args.size)?;
    runtime()?.block_on(LocalSet::new().run_until(serve(args, file, arena)))
}

async fn serve(args: &Args, file: File, arena: Arena) -> Result<()> {
    let ring = Ring::new(Backend::Auto, &arena).doing("start the disk's ring")?;
    let event = ring.event_fd().and_then(pipe::Receiver::from_owned_fd_unchecked).doing("watch the disk's ring")?;
    let next = match args.next {
        Some(addr) => Some(connect(addr).await.doing(format_args!("connect to {addr}"))?.into_split()),
        None => None,
    };
    let (from_next, to_next) = next.map(|(from, to)| (Incoming::new(from, &arena), Outgoing::start(to))).unzip();
    let node = Rc::new(Node {
        state: RefCell::new(State {
            disk: ring.attach(file, args.size, args.file.display().to_string()),
            flush: !args.no_flush,
            last: FLUSH,
            operations: HashMap::new(),
            written: Vec::new(),
            flushing: Vec::new(),
            next: to_next,
        }),
        arena: arena.clone(),
        staged: Notify::new(),
    });
    if let Some(from) = from_next {
        spawn_local(node.clone().receive(from, None));
    }
    spawn_local(node.clone().complete(event));
    spawn_local(node.clone().kick());
    let listener = TcpListener::bind("127.0.0.1:0").await.doing("listen on loopback")?;
    announce(&args.announce, listener.local_addr().doing("listen on loopback")?)?;
    loop {
        let (stream, _) = listener.accept().await.doing("accept a connection")?;
        stream.set_nodelay(true).doing("set up a connection")?;
        let (from, to) = stream.into_split();
        spawn_local(node.clone().receive(Incoming::new(from, &arena), Some(Outgoing::start(to))));
    }
}

/// Connects over loopback, without delay for small messages.
pub(super) async fn connect(addr: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whoever finds the file finds all of the address.
fn announce(path: &Path, addr: SocketAddr) -> Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, addr.to_string()).doing(format_args!("write {}", new.display()))?;
    std::fs::rename(&new, path).doing(format_args!("write {}", path.display()))
}

struct Node {
    state: RefCell<State>,
    arena: Arena,
    /// There are operations for the disk to start.
    staged: Notify,
}

struct State {
    disk: FileDisk,
    flush: bool,
    /// Number of the last operation.
    last: u64,
    operations: HashMap<u64, Operation>,
    /// Written since the flush that runs was started.
    written: Vec<u64>,
    /// What the flush that runs makes durable; empty if none runs.
    flushing: Vec<u64>,
    next: Option<Outgoing>,
}

struct Operation {
    from: Outgoing,
    /// What its sender calls it.
    number: u64,
    durable: bool,
    /// Durable at all that follow.
    followed: bool,
}

impl Node {
    /// Everything that comes on one connection: requests if they can be answered there, else answers of who follows.
    async fn receive(self: Rc<Self>, mut incoming: Incoming, answer: Option<Outgoing>) {
        while let Ok(Some(message)) = incoming.next().await {
            let mut state = self.state.borrow_mut();
            let mut message = Some(message);
            while let Some(one) = message {
                match &answer {
                    Some(answer) => state.request(&self.arena, answer, one),
                    None => state.advance(one.head.number, |operation| operation.followed = true),
                }
                // A broken connection ends with the next wait.
                message = incoming.try_next().ok().flatten();
            }
            self.staged.notify_one();
        }
    }

    /// Starts with one system call what has been staged in this turn.
    async fn kick(self: Rc<Self>) {
        loop {
            self.staged.notified().await;
            self.state.borrow_mut().disk.kick();
        }
    }

    async fn complete(self: Rc<Self>, mut event: pipe::Receiver) {
        let mut completions = Vec::new();
        while event.read(&mut [0; 16]).await.is_ok() {
            let mut state = self.state.borrow_mut();
            state.disk.poll(&mut completions);
            completions.drain(..).for_each(|completion| state.completed(completion));
            state.start_flush();
            state.disk.kick();
        }
    }
}

impl State {
    fn request(&mut self, arena: &Arena, from: &Outgoing, Message { head, payload }: Message) {
        self.last += 1;
        let id = self.last;
        let followed = head.kind == Kind::Read || self.next.is_none();
        let op = match head.kind {
            Kind::Read => IoOp::Read { offset: head.at, buf: arena.take_or_alloc(head.len as usize) },
            _ => IoOp::Write { offset: head.at, data: payload.clone() },
        };
        self.disk.submit(Io { id, op });
        if let (Some(next), false) = (&self.next, followed) {
            next.send(Message { head: Head { number: id, ..head }, payload });
        }
        self.operations.insert(id, Operation { from: from.clone(), number: head.number, durable: false, followed });
    }

    fn completed(&mut self, Completion { id, result }: Completion) {
        match result {
            // No answer is the only one there is: whoever waits sees the connection end.
            Err(error) => {
                eprintln!("the disk fails: {error}");
                std::process::exit(1);
            }
            Ok(Some(buf)) => self.answer_read(id, buf.freeze()),
            Ok(None) if id == FLUSH => {
                for id in std::mem::take(&mut self.flushing) {
                    self.advance(id, |operation| operation.durable = true);
                }
            }
            Ok(None) if self.flush => self.written.push(id),
            Ok(None) => self.advance(id, |operation| operation.durable = true),
        }
    }

    /// One flush at a time, for all that has been written before it.
    fn start_flush(&mut self) {
        if self.flushing.is_empty() && !self.written.is_empty() {
            std::mem::swap(&mut self.flushing, &mut self.written);
            self.disk.submit(Io { id: FLUSH, op: IoOp::Flush });
        }
    }

    fn answer_read(&mut self, id: u64, payload: Bytes) {
        let Some(operation) = self.operations.remove(&id) else { return };
        let (len, sum) = (payload.len() as u32, crc32c(&payload));
        let head = Head { kind: Kind::Data, number: operation.number, at: 0, len, sum };
        operation.from.send(Message { head, payload });
    }

    /// Takes a step of a write, and answers it after its last.
    fn advance(&mut self, id: u64, step: impl FnOnce(&mut Operation)) {
        let Some(operation) = self.operations.get_mut(&id) else { return };
        step(operation);
        if operation.durable && operation.followed {
            let head = Head { kind: Kind::Done, number: operation.number, at: 0, len: 0, sum: 0 };
            operation.from.send(Message { head, payload: Bytes::new() });
            self.operations.remove(&id);
        }
    }
}
