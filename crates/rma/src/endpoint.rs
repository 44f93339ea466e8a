//! One end of a connection: memory exposed to the peer, transfers from and to the peer's memory, and the thread that makes
//! them happen.
//!
//! Software providers move bytes only while somebody asks them to, on the passive side as well; so every endpoint has a
//! thread that does nothing else. With hardware it only reaps completions.
//!
//! What must hold: memory that is exposed, or is the near end of a transfer, belongs to the endpoint until the peer is done
//! with it ([`Exposed::take_back`]), the transfer has ended, or the endpoint has been closed by its thread, which ends all
//! access. A completion names its transfer by a number, never by an address.

use std::collections::{HashMap, VecDeque};
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use catena_arena::AlignedBuf;
use tokio::sync::oneshot;

use crate::abi::{self, CqEntry, CqError, FidAv, FidCq, FidEp, FidMr};
use crate::fabric::Object;
use crate::{Fabric, RmaError};

/// Completions taken at a time.
const BATCH: usize = 64;
/// Longest waits of the thread: with nothing to do, with something under way, and with transfers that found no room.
const IDLE: Duration = Duration::from_millis(100);
const ACTIVE: Duration = Duration::from_millis(10);
const FULL: Duration = Duration::from_millis(1);
/// Without a queue that can be waited on: turns without a result before the thread sleeps, and for how long.
const SPINS: u32 = 200;
const NAP: Duration = Duration::from_micros(50);

/// One end of a connection. Dropping it closes it.
pub struct Endpoint(Arc<Inner>);

/// Memory the peer may use. Dropping it leaves the memory to the endpoint until that is closed, since the peer may still be
/// using it.
pub struct Exposed {
    inner: Arc<Inner>,
    id: u64,
    /// Address the peer names it by.
    pub addr: u64,
    /// Key the peer names it by.
    pub key: u64,
}

/// Memory with one owner, here the endpoint.
enum Memory {
    Data(Bytes),
    Room(AlignedBuf),
}

/// Memory that others may use, registered. The registration ends first.
struct Region {
    _mr: Object<FidMr>,
    memory: Memory,
}

/// A transfer that has not ended. The registration ends first.
struct Transfer {
    local: Option<Object<FidMr>>,
    memory: Memory,
    far: Far,
    done: oneshot::Sender<Result<Option<AlignedBuf>, RmaError>>,
}

/// Memory of the peer, of at least the length of the transfer.
#[derive(Clone, Copy, Debug)]
pub struct Far {
    /// Its address.
    pub addr: u64,
    /// Its key.
    pub key: u64,
}

struct Inner {
    state: Mutex<State>,
    /// Told when there is something to do.
    wake: Condvar,
    closing: AtomicBool,
    address: Vec<u8>,
    peer: OnceLock<u64>,
    /// Below: closed in this order, after the endpoint in `state`.
    peers: Object<FidAv>,
    queue: Object<FidCq>,
    waitable: bool,
    fabric: Fabric,
}

struct State {
    /// `None` once it is closed.
    ep: Option<Object<FidEp>>,
    regions: HashMap<u64, Region>,
    transfers: HashMap<u64, Transfer>,
    /// Transfers the provider has had no room for yet.
    unposted: VecDeque<u64>,
    next: u64,
}

impl Memory {
    fn start(&mut self) -> *mut u8 {
        match self {
            // Only ever read through.
            Memory::Data(bytes) => bytes.as_ptr().cast_mut(),
            Memory::Room(buf) => buf.as_mut_ptr(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Memory::Data(bytes) => bytes.len(),
            Memory::Room(buf) => buf.len(),
        }
    }

    fn room(self) -> Option<AlignedBuf> {
        match self {
            Memory::Data(_) => None,
            Memory::Room(buf) => Some(buf),
        }
    }
}

impl Fabric {
    /// A new endpoint with its thread.
    ///
    /// # Errors
    /// libfabric, or the system's threads, refuse.
    pub fn endpoint(&self) -> Result<Endpoint, RmaError> {
        let (queue, waitable) = self.queue()?;
        let peers = self.peers()?;
        let (ep, address) = self.endpoint_on(&queue, &peers)?;
        let (regions, transfers) = (HashMap::new(), HashMap::new());
        let state = State { ep: Some(ep), regions, transfers, unposted: VecDeque::new(), next: 1 };
        let (wake, closing, peer) = (Condvar::new(), AtomicBool::new(false), OnceLock::new());
        let fabric = self.clone();
        let inner = Arc::new(Inner { state: Mutex::new(state), wake, closing, address, peer, peers, queue, waitable, fabric });
        let progress = inner.clone();
        let thread = std::thread::Builder::new().name("rma".to_owned()).spawn(move || progress.run());
        match thread {
            Ok(_) => Ok(Endpoint(inner)),
            Err(e) => {
                inner.lock().ep = None;
                Err(RmaError::NoThread { cause: e.to_string() })
            }
        }
    }
}

impl Endpoint {
    /// What the peer calls it; means something to endpoints of the same provider only.
    pub fn address(&self) -> &[u8] {
        &self.0.address
    }

    /// Names the one peer. Nothing is sent yet.
    ///
    /// # Errors
    /// The address is none of this provider, or there is a peer already.
    pub fn connect(&self, address: &[u8]) -> Result<(), RmaError> {
        let wanted = self.0.address.len();
        // A name in shared memory has any length, a socket address always the same.
        if address.is_empty() || (address.len() != wanted && self.0.fabric.is_ip()) {
            return Err(RmaError::Length { len: address.len(), room: wanted });
        }
        let state = self.0.lock();
        if state.ep.is_none() {
            return Err(RmaError::Closed);
        }
        let mut text = address.to_vec();
        text.push(0);
        let (peers, mut peer) = (&self.0.peers, 0);
        // SAFETY: an open table; an address of the length its format has, or a text ended by 0.
        let added = unsafe {
            let insert = (*(*peers.as_ptr()).ops).insert;
            insert(peers.as_ptr(), text.as_ptr().cast(), 1, &raw mut peer, 0, ptr::null_mut())
        };
        drop(state);
        if added != 1 {
            let code = if added < 0 { added } else { -libc::EINVAL };
            return Err(self.0.fabric.error("take the peer's address", code as isize));
        }
        self.0.peer.set(peer).map_err(|_| RmaError::NoPeer)
    }

    /// Lets the peer read `data`.
    ///
    /// # Errors
    /// It cannot be registered, or the endpoint is closed.
    pub fn expose_data(&self, data: Bytes) -> Result<Exposed, RmaError> {
        self.expose(Memory::Data(data), abi::REMOTE_READ)
    }

    /// Lets the peer write `room`.
    ///
    /// # Errors
    /// It cannot be registered, or the endpoint is closed.
    pub fn expose_room(&self, room: AlignedBuf) -> Result<Exposed, RmaError> {
        self.expose(Memory::Room(room), abi::REMOTE_WRITE)
    }

    fn expose(&self, mut memory: Memory, access: u64) -> Result<Exposed, RmaError> {
        let inner = &self.0;
        let (start, len) = (memory.start(), memory.len());
        // SAFETY: the region keeps the memory, and nobody looks at it, until it is taken back or the endpoint is closed.
        let (mr, addr) = unsafe { inner.fabric.register(start, len, access)? };
        // SAFETY: an open registration.
        let key = unsafe { (*mr.as_ptr()).key };
        let mut state = inner.lock();
        if state.ep.is_none() {
            return Err(RmaError::Closed);
        }
        let id = state.number();
        state.regions.insert(id, Region { _mr: mr, memory });
        drop(state);
        inner.wake.notify_one();
        Ok(Exposed { inner: inner.clone(), id, addr, key })
    }

    /// Reads from the peer's memory until `room` is full, and gives it back. Dropping the future leaves the memory to the
    /// transfer.
    ///
    /// # Errors
    /// The transfer failed, or the endpoint was closed.
    pub async fn read(&self, far: Far, room: AlignedBuf) -> Result<AlignedBuf, RmaError> {
        let room = self.0.start(far, Memory::Room(room))?.await.map_err(|_| RmaError::Closed)??;
        room.ok_or(RmaError::Closed)
    }

    /// Writes `data` to the peer's memory; when it returns, it is there.
    ///
    /// # Errors
    /// As [`Endpoint::read`].
    pub async fn write(&self, far: Far, data: Bytes) -> Result<(), RmaError> {
        self.0.start(far, Memory::Data(data))?.await.map_err(|_| RmaError::Closed)?.map(|_| ())
    }

    /// Ends all access, soon; transfers under way end with an error then, and all memory is given back.
    pub fn close(&self) {
        self.0.closing.store(true, Ordering::Release);
        self.0.wake.notify_one();
        if self.0.waitable {
            // SAFETY: the queue is open as long as `Inner` lives.
            let _ = unsafe { ((*(*self.0.queue.as_ptr()).ops).signal)(self.0.queue.as_ptr()) };
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.close();
    }
}

impl Exposed {
    /// Ends the exposure, as the peer has said that it is done with the memory; gives the room back, if it was room and
    /// the endpoint has not been closed.
    pub fn take_back(self) -> Option<AlignedBuf> {
        let region = self.inner.lock().regions.remove(&self.id)?;
        let Region { _mr, memory } = region;
        drop(_mr);
        memory.room()
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn is_idle(&self) -> bool {
        self.regions.is_empty() && self.transfers.is_empty()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; what it guards is whole at any moment.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn start(&self, far: Far, mut memory: Memory) -> Result<oneshot::Receiver<Result<Option<AlignedBuf>, RmaError>>, RmaError> {
        let (start, len, most) = (memory.start(), memory.len(), self.fabric.max_transfer());
        if len == 0 || len > most {
            return Err(RmaError::Length { len, room: most });
        }
        let access = if matches!(memory, Memory::Room(_)) { abi::READ } else { abi::WRITE };
        let local = match self.fabric.wants_local() {
            // SAFETY: the transfer keeps the memory until it has ended or the endpoint is closed.
            true => Some(unsafe { self.fabric.register(start, len, access)? }.0),
            false => None,
        };
        let (done, outcome) = oneshot::channel();
        let mut state = self.lock();
        let id = state.number();
        state.transfers.insert(id, Transfer { local, memory, far, done });
        if state.unposted.is_empty() {
            self.post(&mut state, id)?;
        } else {
            state.unposted.push_back(id);
        }
        drop(state);
        self.wake.notify_one();
        Ok(outcome)
    }

    /// Gives a transfer to the provider, or keeps it for later if there is no room.
    fn post(&self, state: &mut State, id: u64) -> Result<(), RmaError> {
        let Some(&peer) = self.peer.get() else {
            state.transfers.remove(&id);
            return Err(RmaError::NoPeer);
        };
        let (Some(ep), Some(transfer)) = (&state.ep, state.transfers.get_mut(&id)) else {
            state.transfers.remove(&id);
            return Err(RmaError::Closed);
        };
        let (start, len) = (transfer.memory.start().cast::<c_void>(), transfer.memory.len());
        // SAFETY: an open registration.
        let desc = transfer.local.as_ref().map_or(ptr::null_mut(), |mr| unsafe { (*mr.as_ptr()).desc });
        let (Far { addr, key }, context) = (transfer.far, ptr::without_provenance_mut(id as usize));
        // SAFETY: an open endpoint with this peer; the memory stays in `transfers`, untouched, until the transfer has ended
        // or the endpoint is closed. The context is not looked into, as no provider that does was asked for.
        let code = unsafe {
            let ops = &*(*ep.as_ptr()).rma;
            match &transfer.memory {
                Memory::Room(_) => (ops.read)(ep.as_ptr(), start, len, desc, peer, addr, key, context),
                Memory::Data(_) => (ops.write)(ep.as_ptr(), start, len, desc, peer, addr, key, context),
            }
        };
        if code == -abi::EAGAIN {
            state.unposted.push_back(id);
        } else if code != 0 {
            state.transfers.remove(&id);
            return Err(self.fabric.error("start a transfer", code));
        }
        Ok(())
    }

    /// The thread: moves bytes and reaps completions until the endpoint is closed.
    fn run(self: Arc<Inner>) {
        let mut entries = [CqEntry { context: ptr::null_mut() }; BATCH];
        let mut quiet = 0;
        while !self.closing.load(Ordering::Acquire) {
            let count = self.reap(&mut entries);
            match count {
                Ok(0) => quiet += 1,
                Ok(count) => {
                    quiet = 0;
                    let mut state = self.lock();
                    for entry in &entries[..count] {
                        state.ended(entry.context.addr() as u64, Ok(()));
                    }
                }
                Err(e) => {
                    tracing::warn!("the one-sided transport fails on a connection, which goes on without it: {e}");
                    break;
                }
            }
            self.post_again();
            if !self.waitable {
                self.rest(quiet);
            }
        }
        self.end();
    }

    /// Completions, waiting for them where the queue can be waited on.
    fn reap(&self, entries: &mut [CqEntry; BATCH]) -> Result<usize, RmaError> {
        let queue = self.queue.as_ptr();
        let code = if self.waitable {
            let state = self.lock();
            let wait = match () {
                () if !state.unposted.is_empty() => FULL,
                () if state.is_idle() => IDLE,
                () => ACTIVE,
            };
            drop(state);
            let wait = wait.as_millis() as i32;
            // SAFETY: an open queue, and room for `BATCH` entries of its format.
            unsafe { ((*(*queue).ops).sread)(queue, entries.as_mut_ptr(), BATCH, ptr::null(), wait) }
        } else {
            // SAFETY: as above.
            unsafe { ((*(*queue).ops).read)(queue, entries.as_mut_ptr(), BATCH) }
        };
        match code {
            count if count >= 0 => Ok(count.unsigned_abs()),
            code if code == -abi::EAGAIN || code == -(libc::EINTR as isize) || code == -(libc::ECANCELED as isize) => Ok(0),
            code if code == -abi::EAVAIL => {
                let mut error = CqError::empty();
                // SAFETY: an open queue, and room for one error.
                let read = unsafe { ((*(*queue).ops).readerr)(queue, &raw mut error, 0) };
                if read == 1 {
                    let why = self.fabric.error("transfer", error.err as isize);
                    self.lock().ended(error.context.addr() as u64, Err(why));
                }
                Ok(0)
            }
            code => Err(self.fabric.error("read a completion queue", code)),
        }
    }

    fn post_again(&self) {
        let mut state = self.lock();
        for _ in 0..state.unposted.len() {
            let Some(id) = state.unposted.pop_front() else { return };
            let before = state.unposted.len();
            if let Err(e) = self.post(&mut state, id) {
                tracing::debug!("a transfer could not be started: {e}");
            }
            if state.unposted.len() > before {
                // Still no room: it goes first the next time.
                state.unposted.rotate_right(1);
                return;
            }
        }
    }

    /// For queues that cannot be waited on: looks often while something is under way, seldom otherwise.
    fn rest(&self, quiet: u32) {
        if quiet < SPINS {
            return std::thread::yield_now();
        }
        let state = self.lock();
        if state.is_idle() {
            // It is looked at again anyhow.
            drop(self.wake.wait_timeout(state, IDLE / 5));
        } else {
            drop(state);
            std::thread::sleep(NAP);
        }
    }

    /// Closes the endpoint; only then is the memory anybody's again.
    fn end(&self) {
        let mut state = self.lock();
        drop(state.ep.take());
        state.unposted.clear();
        let (regions, transfers) = (std::mem::take(&mut state.regions), std::mem::take(&mut state.transfers));
        drop(state);
        drop((regions, transfers));
    }
}

impl State {
    fn ended(&mut self, id: u64, how: Result<(), RmaError>) {
        let Some(Transfer { local, memory, done, .. }) = self.transfers.remove(&id) else { return };
        drop(local);
        // Whoever started it may have gone: then the memory is free here.
        let _ = done.send(how.map(|()| memory.room()));
    }
}
