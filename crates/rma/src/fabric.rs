//! One provider of libfabric, opened: what every endpoint of the process shares.

use std::ffi::{CStr, CString};
use std::net::IpAddr;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::RmaError;
use crate::abi::{self, AvAttr, CqAttr, Fid, FidAv, FidCq, FidDomain, FidEp, FidFabric, FidMr, FidOps, Info};
use crate::library::Library;

/// Longest address of an endpoint in bytes.
const LONGEST_ADDRESS: usize = 4096;
/// How memory may be registered, in the order of preference: by offset under a key of our own, which software providers
/// can; or by its own address, with a key of the provider, local memory too, as hardware wants it.
const MR_MODES: [i32; 2] = [0, abi::MR_LOCAL | abi::MR_VIRT_ADDR | abi::MR_ALLOCATED | abi::MR_PROV_KEY];

/// The provider through shared memory, and the variable that keeps it out of other processes' private memory.
const SHM: &str = "shm";
const NO_CMA: &str = "FI_SHM_DISABLE_CMA";

/// A provider such as `tcp;ofi_rxm`, `shm` or `verbs;ofi_rxm`, ready for endpoints. Clones share it.
#[derive(Clone)]
pub struct Fabric(Arc<Opened>);

/// Fields are closed in their order: libfabric wants children closed before their parents.
struct Opened {
    domain: Object<FidDomain>,
    _fabric: Object<FidFabric>,
    info: InfoList,
    provider: String,
}

/// An object of libfabric with one owner, closed when that is gone.
pub(crate) struct Object<T: Closed>(NonNull<T>);

/// Objects that begin with a `struct fid`.
///
/// # Safety
/// The type is `repr(C)` and its first field is a [`Fid`].
pub(crate) unsafe trait Closed {}
// SAFETY: each begins with a `Fid` (see `abi`).
unsafe impl Closed for FidFabric {}
// SAFETY: as above.
unsafe impl Closed for FidDomain {}
// SAFETY: as above.
unsafe impl Closed for FidEp {}
// SAFETY: as above.
unsafe impl Closed for FidCq {}
// SAFETY: as above.
unsafe impl Closed for FidAv {}
// SAFETY: as above.
unsafe impl Closed for FidMr {}

// SAFETY: the domain is opened with FI_THREAD_SAFE: every call on its objects may be made from any thread.
unsafe impl<T: Closed> Send for Object<T> {}
// SAFETY: as above.
unsafe impl<T: Closed> Sync for Object<T> {}

impl<T: Closed> Object<T> {
    fn new(library: &Library, what: &'static str, code: i32, made: *mut T) -> Result<Object<T>, RmaError> {
        match NonNull::new(made) {
            Some(made) if code == 0 => Ok(Object(made)),
            _ => Err(library.error(what, code as isize)),
        }
    }

    pub(crate) fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }

    pub(crate) fn fid(&self) -> *mut Fid {
        self.0.as_ptr().cast()
    }

    fn ops(&self) -> &FidOps {
        // SAFETY: an open object begins with a `Fid`, whose table lives as long as the library.
        unsafe { &*(*self.fid()).ops }
    }
}

impl<T: Closed> Drop for Object<T> {
    fn drop(&mut self) {
        // SAFETY: open, and nobody else has it.
        let code = unsafe { (self.ops().close)(self.fid()) };
        if code != 0 {
            tracing::debug!(code, "an object of libfabric did not close");
        }
    }
}

/// A list of `struct fi_info`, freed when dropped.
struct InfoList(NonNull<Info>, &'static Library);

// SAFETY: a list has one owner and is only read once it is made.
unsafe impl Send for InfoList {}
// SAFETY: as above.
unsafe impl Sync for InfoList {}

impl Drop for InfoList {
    fn drop(&mut self) {
        // SAFETY: made by the library, freed once.
        unsafe { (self.1.freeinfo)(self.0.as_ptr()) }
    }
}

impl InfoList {
    /// What is asked of a provider.
    fn hints(library: &'static Library, provider: &CStr, mr_mode: i32) -> Result<InfoList, RmaError> {
        // SAFETY: null asks for an empty structure with all attributes allocated.
        let hints = NonNull::new(unsafe { (library.dupinfo)(ptr::null()) }).ok_or(RmaError::OutOfMemory)?;
        let list = InfoList(hints, library);
        // SAFETY: a fresh structure of our own, whose attributes are allocated. The name is allocated as freeinfo frees it.
        unsafe {
            let info = &mut *hints.as_ptr();
            info.caps = abi::RMA | abi::READ | abi::WRITE | abi::REMOTE_READ | abi::REMOTE_WRITE;
            (*info.ep_attr).kind = abi::EP_RDM;
            (*info.domain_attr).mr_mode = mr_mode;
            (*info.domain_attr).threading = abi::THREAD_SAFE;
            (*info.tx_attr).op_flags = abi::DELIVERY_COMPLETE;
            (*info.fabric_attr).prov_name = libc::strdup(provider.as_ptr());
        }
        Ok(list)
    }

    /// The first offer of the provider of exactly this name, for endpoints at `bind`.
    fn find(library: &'static Library, provider: &str, bind: Option<IpAddr>) -> Result<InfoList, RmaError> {
        let none = || RmaError::NoProvider { provider: provider.to_owned() };
        let name = CString::new(provider).map_err(|_| none())?;
        let node = bind.map(|ip| CString::new(ip.to_string()).expect("an address has no 0 byte"));
        let (node, flags) = node.as_ref().map_or((ptr::null(), 0), |node| (node.as_ptr(), abi::SOURCE));
        let mut refusal = none();
        for mr_mode in MR_MODES {
            let hints = InfoList::hints(library, &name, mr_mode)?;
            let mut found = ptr::null_mut();
            // SAFETY: texts ended by 0 and a structure, all alive during the call; the result is ours.
            let code = unsafe { (library.getinfo)(abi::API, node, ptr::null(), flags, hints.0.as_ptr(), &raw mut found) };
            match NonNull::new(found) {
                Some(found) if code == 0 => return Ok(InfoList(found, library)),
                _ => refusal = library.error("find a provider", code as isize).or_no_provider(provider),
            }
        }
        Err(refusal)
    }

    fn info(&self) -> &Info {
        // SAFETY: valid while the list is.
        unsafe { self.0.as_ref() }
    }
}

impl Fabric {
    /// Opens `provider`. `bind`: the address its endpoints have, for providers over IP.
    ///
    /// # Errors
    /// libfabric or the provider is not there, or refuses.
    pub fn open(provider: &str, bind: Option<IpAddr>) -> Result<Fabric, RmaError> {
        let library = Library::get()?;
        if provider == SHM && std::env::var_os(NO_CMA).is_none_or(|value| value != "1") {
            return Err(RmaError::NotFenced);
        }
        let bind = bind.filter(|_| provider != SHM);
        let info = InfoList::find(library, provider, bind)?;
        let mut fabric = ptr::null_mut();
        // SAFETY: attributes of a live list; the result is ours.
        let code = unsafe { (library.fabric)(info.info().fabric_attr, &raw mut fabric, ptr::null_mut()) };
        let fabric = Object::new(library, "open the fabric", code, fabric)?;
        let mut domain = ptr::null_mut();
        // SAFETY: an open fabric, a live list; the result is ours.
        let code =
            unsafe { ((*(*fabric.as_ptr()).ops).domain)(fabric.as_ptr(), info.0.as_ptr(), &raw mut domain, ptr::null_mut()) };
        let domain = Object::new(library, "open the domain", code, domain)?;
        Ok(Fabric(Arc::new(Opened { domain, _fabric: fabric, info, provider: provider.to_owned() })))
    }

    /// Name of the provider.
    pub fn provider(&self) -> &str {
        &self.0.provider
    }

    pub(crate) fn error(&self, what: &'static str, code: isize) -> RmaError {
        self.0.info.1.error(what, code)
    }

    /// Longest transfer in bytes.
    pub(crate) fn max_transfer(&self) -> usize {
        // SAFETY: attributes of a live list.
        unsafe { (*self.0.info.info().ep_attr).max_msg_size }
    }

    fn mr_mode(&self) -> i32 {
        // SAFETY: attributes of a live list.
        unsafe { (*self.0.info.info().domain_attr).mr_mode }
    }

    /// Whether addresses are those of sockets.
    pub(crate) fn is_ip(&self) -> bool {
        self.0.provider != SHM
    }

    /// Whether memory must be registered to be the near end of a transfer.
    pub(crate) fn wants_local(&self) -> bool {
        self.mr_mode() & abi::MR_LOCAL != 0
    }

    /// Registers `len` bytes at `start`. Gives the address others name it by.
    ///
    /// # Safety
    /// The memory stays allocated while the result lives, and nobody relies on its contents while others may write it.
    pub(crate) unsafe fn register(&self, start: *const u8, len: usize, access: u64) -> Result<(Object<FidMr>, u64), RmaError> {
        let (mut key, mut made) = ([0; 8], ptr::null_mut());
        getrandom::fill(&mut key).map_err(|_| RmaError::NoRandom)?;
        // SAFETY: attributes of a live list.
        let key_size = unsafe { (*self.0.info.info().domain_attr).mr_key_size }.min(8);
        key[key_size..].fill(0);
        let key = if self.mr_mode() & abi::MR_PROV_KEY != 0 { 0 } else { u64::from_le_bytes(key) };
        let domain = &self.0.domain;
        // SAFETY: an open domain; the caller vouches for the memory; the result is ours.
        let code = unsafe {
            let reg = (*(*domain.as_ptr()).mr).reg;
            reg(domain.fid(), start.cast(), len, access, 0, key, 0, &raw mut made, ptr::null_mut())
        };
        let mr = Object::new(self.0.info.1, "register memory", code, made)?;
        let addr = if self.mr_mode() & abi::MR_VIRT_ADDR != 0 { start.addr() as u64 } else { 0 };
        Ok((mr, addr))
    }

    /// A completion queue, and whether it can be waited on.
    pub(crate) fn queue(&self) -> Result<(Object<FidCq>, bool), RmaError> {
        match self.queue_of(abi::WAIT_FD) {
            Ok(queue) => Ok((queue, true)),
            Err(_) => self.queue_of(abi::WAIT_NONE).map(|queue| (queue, false)),
        }
    }

    fn queue_of(&self, wait_obj: i32) -> Result<Object<FidCq>, RmaError> {
        let (size, flags, format, wait_set) = (0, 0, abi::CQ_FORMAT_CONTEXT, ptr::null_mut());
        let mut attr = CqAttr { size, flags, format, wait_obj, signaling_vector: 0, wait_cond: 0, wait_set };
        let mut made = ptr::null_mut();
        let domain = self.0.domain.as_ptr();
        // SAFETY: an open domain and attributes alive during the call; the result is ours.
        let code = unsafe { ((*(*domain).ops).cq_open)(domain, &raw mut attr, &raw mut made, ptr::null_mut()) };
        Object::new(self.0.info.1, "open a completion queue", code, made)
    }

    /// A table of peers' addresses.
    pub(crate) fn peers(&self) -> Result<Object<FidAv>, RmaError> {
        let (null, name) = (ptr::null_mut(), ptr::null());
        let mut attr = AvAttr { kind: 0, rx_ctx_bits: 0, count: 1, ep_per_node: 0, name, map_addr: null, flags: 0 };
        let mut made = ptr::null_mut();
        let domain = self.0.domain.as_ptr();
        // SAFETY: an open domain and attributes alive during the call; the result is ours.
        let code = unsafe { ((*(*domain).ops).av_open)(domain, &raw mut attr, &raw mut made, null) };
        Object::new(self.0.info.1, "open an address table", code, made)
    }

    /// An endpoint that uses `queue` and `peers`, both of which outlive it, and its address.
    pub(crate) fn endpoint_on(&self, queue: &Object<FidCq>, peers: &Object<FidAv>) -> Result<(Object<FidEp>, Vec<u8>), RmaError> {
        let mut made = ptr::null_mut();
        let (domain, info) = (self.0.domain.as_ptr(), self.0.info.0.as_ptr());
        // SAFETY: an open domain, a live list; the result is ours.
        let code = unsafe { ((*(*domain).ops).endpoint)(domain, info, &raw mut made, ptr::null_mut()) };
        let ep = Object::new(self.0.info.1, "open an endpoint", code, made)?;
        let checked = |what, code: i32| if code == 0 { Ok(()) } else { Err(self.error(what, code as isize)) };
        // SAFETY: open objects, bound once, before the endpoint is enabled.
        unsafe {
            checked("bind the queue", (ep.ops().bind)(ep.fid(), queue.fid(), abi::TRANSMIT | abi::RECV))?;
            checked("bind the address table", (ep.ops().bind)(ep.fid(), peers.fid(), 0))?;
            checked("enable an endpoint", (ep.ops().control)(ep.fid(), abi::ENABLE, ptr::null_mut()))?;
        }
        let mut address = vec![0; LONGEST_ADDRESS];
        let mut len = address.len();
        // SAFETY: an enabled endpoint; `len` bytes of room.
        let code = unsafe { ((*(*ep.as_ptr()).cm).getname)(ep.fid(), address.as_mut_ptr().cast(), &raw mut len) };
        checked("name an endpoint", code)?;
        address.truncate(len);
        Ok((ep, address))
    }
}

impl std::fmt::Debug for Fabric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fabric({})", self.0.provider)
    }
}
