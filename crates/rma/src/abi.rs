//! The part of libfabric's binary interface that is used: structures as Debian 12's libfabric 1.17 lays them out on 64-bit
//! Linux, and the numbers in them.
//!
//! Most of libfabric's calls are inline functions of its C headers over tables of function pointers; only a few are
//! symbols. These tables are therefore part of the interface. Later libfabric keeps it under the symbol versions asked for
//! in `library`, and lets structures grow at their ends only. What must hold: the offsets asserted at the end of this file,
//! which were printed by a C program built with the headers of libfabric 1.17.0.

use std::ffi::{c_char, c_int, c_void};

/// A slot that is not used.
type Unused = *const c_void;

/// `struct fid`: what every object begins with.
#[repr(C)]
pub(crate) struct Fid {
    class: usize,
    context: *mut c_void,
    pub(crate) ops: *const FidOps,
}

#[repr(C)]
pub(crate) struct FidOps {
    size: usize,
    pub(crate) close: unsafe extern "C" fn(*mut Fid) -> c_int,
    pub(crate) bind: unsafe extern "C" fn(*mut Fid, *mut Fid, u64) -> c_int,
    pub(crate) control: unsafe extern "C" fn(*mut Fid, c_int, *mut c_void) -> c_int,
}

#[repr(C)]
pub(crate) struct FidFabric {
    pub(crate) fid: Fid,
    pub(crate) ops: *const FabricOps,
}

#[repr(C)]
pub(crate) struct FabricOps {
    size: usize,
    pub(crate) domain: unsafe extern "C" fn(*mut FidFabric, *mut Info, *mut *mut FidDomain, *mut c_void) -> c_int,
}

#[repr(C)]
pub(crate) struct FidDomain {
    pub(crate) fid: Fid,
    pub(crate) ops: *const DomainOps,
    pub(crate) mr: *const MrOps,
}

#[repr(C)]
pub(crate) struct DomainOps {
    size: usize,
    pub(crate) av_open: unsafe extern "C" fn(*mut FidDomain, *mut AvAttr, *mut *mut FidAv, *mut c_void) -> c_int,
    pub(crate) cq_open: unsafe extern "C" fn(*mut FidDomain, *mut CqAttr, *mut *mut FidCq, *mut c_void) -> c_int,
    pub(crate) endpoint: unsafe extern "C" fn(*mut FidDomain, *mut Info, *mut *mut FidEp, *mut c_void) -> c_int,
}

#[repr(C)]
pub(crate) struct MrOps {
    size: usize,
    /// fid, start, length, access, offset, key asked for, flags, result, context
    pub(crate) reg:
        unsafe extern "C" fn(*mut Fid, *const c_void, usize, u64, u64, u64, u64, *mut *mut FidMr, *mut c_void) -> c_int,
}

#[repr(C)]
pub(crate) struct FidMr {
    pub(crate) fid: Fid,
    pub(crate) desc: *mut c_void,
    pub(crate) key: u64,
}

#[repr(C)]
pub(crate) struct FidAv {
    pub(crate) fid: Fid,
    pub(crate) ops: *const AvOps,
}

#[repr(C)]
pub(crate) struct AvOps {
    size: usize,
    pub(crate) insert: unsafe extern "C" fn(*mut FidAv, *const c_void, usize, *mut u64, u64, *mut c_void) -> c_int,
}

#[repr(C)]
pub(crate) struct FidCq {
    pub(crate) fid: Fid,
    pub(crate) ops: *const CqOps,
}

#[repr(C)]
pub(crate) struct CqOps {
    size: usize,
    pub(crate) read: unsafe extern "C" fn(*mut FidCq, *mut CqEntry, usize) -> isize,
    readfrom: Unused,
    pub(crate) readerr: unsafe extern "C" fn(*mut FidCq, *mut CqError, u64) -> isize,
    pub(crate) sread: unsafe extern "C" fn(*mut FidCq, *mut CqEntry, usize, *const c_void, c_int) -> isize,
    sreadfrom: Unused,
    pub(crate) signal: unsafe extern "C" fn(*mut FidCq) -> c_int,
}

#[repr(C)]
pub(crate) struct FidEp {
    pub(crate) fid: Fid,
    ops: Unused,
    pub(crate) cm: *const CmOps,
    msg: Unused,
    pub(crate) rma: *const RmaOps,
}

#[repr(C)]
pub(crate) struct CmOps {
    size: usize,
    setname: Unused,
    pub(crate) getname: unsafe extern "C" fn(*mut Fid, *mut c_void, *mut usize) -> c_int,
}

#[repr(C)]
pub(crate) struct RmaOps {
    size: usize,
    /// endpoint, start, length, descriptor, peer, address there, key there, context
    pub(crate) read: unsafe extern "C" fn(*mut FidEp, *mut c_void, usize, *mut c_void, u64, u64, u64, *mut c_void) -> isize,
    readv: Unused,
    readmsg: Unused,
    /// As `read`.
    pub(crate) write: unsafe extern "C" fn(*mut FidEp, *const c_void, usize, *mut c_void, u64, u64, u64, *mut c_void) -> isize,
}

/// `struct fi_cq_entry`: the context of what has ended.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct CqEntry {
    pub(crate) context: *mut c_void,
}

/// `struct fi_cq_err_entry`.
#[repr(C)]
pub(crate) struct CqError {
    pub(crate) context: *mut c_void,
    flags: u64,
    len: usize,
    buf: *mut c_void,
    data: u64,
    tag: u64,
    olen: usize,
    pub(crate) err: c_int,
    prov_errno: c_int,
    /// Null with a size of 0: nothing more is told.
    err_data: *mut c_void,
    err_data_size: usize,
}

impl CqError {
    pub(crate) fn empty() -> CqError {
        let null = std::ptr::null_mut();
        let (flags, len, data, tag, olen, err, prov_errno, err_data_size) = (0, 0, 0, 0, 0, 0, 0, 0);
        CqError { context: null, flags, len, buf: null, data, tag, olen, err, prov_errno, err_data: null, err_data_size }
    }
}

#[repr(C)]
pub(crate) struct CqAttr {
    pub(crate) size: usize,
    pub(crate) flags: u64,
    pub(crate) format: c_int,
    pub(crate) wait_obj: c_int,
    pub(crate) signaling_vector: c_int,
    pub(crate) wait_cond: c_int,
    pub(crate) wait_set: *mut c_void,
}

#[repr(C)]
pub(crate) struct AvAttr {
    pub(crate) kind: c_int,
    pub(crate) rx_ctx_bits: c_int,
    pub(crate) count: usize,
    pub(crate) ep_per_node: usize,
    pub(crate) name: *const c_char,
    pub(crate) map_addr: *mut c_void,
    pub(crate) flags: u64,
}

/// `struct fi_info`: what is asked for, and what a provider offers.
#[repr(C)]
pub(crate) struct Info {
    pub(crate) next: *mut Info,
    pub(crate) caps: u64,
    pub(crate) mode: u64,
    addr_format: u32,
    src_addrlen: usize,
    dest_addrlen: usize,
    src_addr: *mut c_void,
    dest_addr: *mut c_void,
    handle: *mut Fid,
    pub(crate) tx_attr: *mut TxAttr,
    rx_attr: *mut c_void,
    pub(crate) ep_attr: *mut EpAttr,
    pub(crate) domain_attr: *mut DomainAttr,
    pub(crate) fabric_attr: *mut FabricAttr,
    nic: *mut c_void,
}

#[repr(C)]
pub(crate) struct TxAttr {
    caps: u64,
    mode: u64,
    pub(crate) op_flags: u64,
}

#[repr(C)]
pub(crate) struct EpAttr {
    pub(crate) kind: c_int,
    protocol: u32,
    protocol_version: u32,
    pub(crate) max_msg_size: usize,
}

#[repr(C)]
pub(crate) struct DomainAttr {
    domain: *mut FidDomain,
    name: *mut c_char,
    pub(crate) threading: c_int,
    control_progress: c_int,
    data_progress: c_int,
    resource_mgmt: c_int,
    av_type: c_int,
    pub(crate) mr_mode: c_int,
    pub(crate) mr_key_size: usize,
}

#[repr(C)]
pub(crate) struct FabricAttr {
    fabric: *mut FidFabric,
    name: *mut c_char,
    pub(crate) prov_name: *mut c_char,
}

/// `FI_VERSION(1, 17)`.
pub(crate) const API: u32 = (1 << 16) | 17;
pub(crate) const RMA: u64 = 1 << 2;
pub(crate) const READ: u64 = 1 << 8;
pub(crate) const WRITE: u64 = 1 << 9;
pub(crate) const RECV: u64 = 1 << 10;
pub(crate) const TRANSMIT: u64 = 1 << 11;
pub(crate) const REMOTE_READ: u64 = 1 << 12;
pub(crate) const REMOTE_WRITE: u64 = 1 << 13;
pub(crate) const DELIVERY_COMPLETE: u64 = 1 << 28;
pub(crate) const SOURCE: u64 = 1 << 57;
pub(crate) const EP_RDM: c_int = 3;
pub(crate) const CQ_FORMAT_CONTEXT: c_int = 1;
pub(crate) const WAIT_NONE: c_int = 0;
pub(crate) const WAIT_FD: c_int = 3;
pub(crate) const THREAD_SAFE: c_int = 1;
pub(crate) const MR_LOCAL: c_int = 1 << 2;
pub(crate) const MR_VIRT_ADDR: c_int = 1 << 4;
pub(crate) const MR_ALLOCATED: c_int = 1 << 5;
pub(crate) const MR_PROV_KEY: c_int = 1 << 6;
pub(crate) const ENABLE: c_int = 6;
pub(crate) const EAGAIN: isize = 11;
pub(crate) const EAVAIL: isize = 259;

/// Offsets in bytes, each in the C header as here.
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<usize>() == 8 && size_of::<Info>() == 120 && size_of::<CqAttr>() == 40 && size_of::<AvAttr>() == 48);
    assert!(size_of::<CqError>() == 80 && size_of::<CqEntry>() == 8 && size_of::<FidMr>() == 40);
    assert!(offset_of!(Info, tx_attr) == 72 && offset_of!(Info, ep_attr) == 88);
    assert!(offset_of!(Info, domain_attr) == 96 && offset_of!(Info, fabric_attr) == 104);
    assert!(offset_of!(TxAttr, op_flags) == 16 && offset_of!(EpAttr, max_msg_size) == 16);
    assert!(offset_of!(DomainAttr, threading) == 16 && offset_of!(DomainAttr, mr_mode) == 36);
    assert!(offset_of!(DomainAttr, mr_key_size) == 40 && offset_of!(FabricAttr, prov_name) == 16);
    assert!(offset_of!(CqAttr, format) == 16 && offset_of!(CqAttr, wait_obj) == 20 && offset_of!(CqAttr, wait_set) == 32);
    assert!(offset_of!(CqError, err) == 56 && offset_of!(CqError, err_data_size) == 72 && offset_of!(AvAttr, flags) == 40);
    assert!(offset_of!(FidEp, cm) == 32 && offset_of!(FidEp, rma) == 48 && offset_of!(FidMr, key) == 32);
    assert!(offset_of!(FidOps, close) == 8 && offset_of!(FidOps, bind) == 16 && offset_of!(FidOps, control) == 24);
    assert!(offset_of!(FabricOps, domain) == 8 && offset_of!(DomainOps, endpoint) == 24 && offset_of!(MrOps, reg) == 8);
    assert!(offset_of!(CmOps, getname) == 16 && offset_of!(RmaOps, read) == 8 && offset_of!(RmaOps, write) == 32);
    assert!(offset_of!(CqOps, read) == 8 && offset_of!(CqOps, readerr) == 24 && offset_of!(CqOps, sread) == 32);
    assert!(offset_of!(CqOps, signal) == 48 && offset_of!(AvOps, insert) == 8);
};
