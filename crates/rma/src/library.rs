//! The library itself, loaded when somebody asks for it: nothing is linked, and a machine without it only lacks the
//! transport.
//!
//! What must hold: every symbol has the version whose structures `abi` describes; the library is never unloaded.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::NonNull;
use std::sync::OnceLock;

use crate::RmaError;
use crate::abi::{FabricAttr, FidFabric, Info};

/// The exported calls.
pub(crate) struct Library {
    /// version, node, service, flags, hints, result
    pub(crate) getinfo: unsafe extern "C" fn(u32, *const c_char, *const c_char, u64, *const Info, *mut *mut Info) -> c_int,
    pub(crate) freeinfo: unsafe extern "C" fn(*mut Info),
    pub(crate) dupinfo: unsafe extern "C" fn(*const Info) -> *mut Info,
    pub(crate) fabric: unsafe extern "C" fn(*mut FabricAttr, *mut *mut FidFabric, *mut c_void) -> c_int,
    strerror: unsafe extern "C" fn(c_int) -> *const c_char,
}

impl Library {
    /// The library, loaded by the first call.
    pub(crate) fn get() -> Result<&'static Library, RmaError> {
        static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
        LIBRARY.get_or_init(load).as_ref().map_err(|cause| RmaError::NoLibrary { cause: cause.clone() })
    }

    /// What an error code, as libfabric returns it (negative), means.
    pub(crate) fn error(&self, what: &'static str, code: isize) -> RmaError {
        let code = c_int::try_from(code.unsigned_abs()).unwrap_or(c_int::MAX);
        // SAFETY: takes any number; returns a static string or null.
        let text = NonNull::new(unsafe { (self.strerror)(code) }.cast_mut());
        // SAFETY: not null, ended by 0, never freed.
        let text = text.map(|t| unsafe { CStr::from_ptr(t.as_ptr()) }.to_string_lossy().into_owned());
        RmaError::Call { what, code, text: text.unwrap_or_default() }
    }
}

fn load() -> Result<Library, String> {
    // SAFETY: loading runs the library's initialisers; it is the system's own.
    let handle = unsafe { libc::dlopen(c"libfabric.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    let handle = NonNull::new(handle).ok_or_else(last_error)?;
    let find = |name: &CStr, version: &CStr| {
        // SAFETY: a handle that is never closed, and names ended by 0.
        let symbol = unsafe { libc::dlvsym(handle.as_ptr(), name.as_ptr(), version.as_ptr()) };
        NonNull::new(symbol).map(NonNull::as_ptr).ok_or_else(last_error)
    };
    // SAFETY: each symbol in this version has the type of its field, as in rdma/fabric.h.
    unsafe {
        Ok(Library {
            getinfo: std::mem::transmute::<
                *mut c_void,
                unsafe extern "C" fn(u32, *const c_char, *const c_char, u64, *const Info, *mut *mut Info) -> c_int,
            >(find(c"fi_getinfo", c"FABRIC_1.3")?),
            freeinfo: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut Info)>(find(c"fi_freeinfo", c"FABRIC_1.3")?),
            dupinfo: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const Info) -> *mut Info>(find(
                c"fi_dupinfo",
                c"FABRIC_1.3",
            )?),
            fabric: std::mem::transmute::<
                *mut c_void,
                unsafe extern "C" fn(*mut FabricAttr, *mut *mut FidFabric, *mut c_void) -> c_int,
            >(find(c"fi_fabric", c"FABRIC_1.1")?),
            strerror: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int) -> *const c_char>(find(
                c"fi_strerror",
                c"FABRIC_1.0",
            )?),
        })
    }
}

fn last_error() -> String {
    // SAFETY: returns the text of this thread's last failure, or null.
    let text = NonNull::new(unsafe { libc::dlerror() });
    // SAFETY: not null, ended by 0, valid until the next call of its kind on this thread.
    text.map_or_else(|| "unknown".to_owned(), |t| unsafe { CStr::from_ptr(t.as_ptr()) }.to_string_lossy().into_owned())
}
