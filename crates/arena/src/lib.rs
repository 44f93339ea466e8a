//! Aligned, pooled, reference-counted buffers for network and disk.
//!
//! A payload is received once into its final buffer, written to disk from there and forwarded from there. That needs
//! memory whose start is a multiple of [`ALIGN`] (O_DIRECT), that can be shared without copying (`Bytes`), that is not
//! given back to the system after every request, and whose total is bounded. Large buffers lie in huge pages: a disk takes
//! one of a MiB as one piece, instead of 256 that have to be found, pinned and listed one by one. They are used in turns: a device
//! writes faster into memory whose last contents have left the processor's caches. Small ones are used while they are warm.
//!
//! What must hold: a buffer has one owner until it is frozen; it returns to its pool when the last owner is gone; memory
//! handed out is always initialised (zeroed once when it is fresh, old contents later), so that nothing here can expose
//! uninitialised bytes. Old contents can be another payload's: whoever writes out padding zeroes it first.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Alignment and granularity of every buffer in bytes.
pub const ALIGN: usize = 4096;
/// Largest buffer in bytes: the largest chunk and one page.
pub const MAX_BUF: usize = (64 << 20) + ALIGN;

/// A huge page.
const HUGE: usize = 2 << 20;
/// Buffers from this size on are cut from huge pages.
const SLAB_FROM: usize = 64 << 10;

/// Size classes: 4 KiB doubled, with one step between two doublings, up to 64 MiB, and [`MAX_BUF`].
fn class_of(len: usize) -> Option<(usize, usize)> {
    if len > MAX_BUF {
        return None;
    }
    let mut size = ALIGN;
    let mut class = 0;
    while size <= 64 << 20 {
        if len <= size {
            return Some((class, size));
        }
        let half = size + size / 2;
        if (ALIGN + 1..64 << 20).contains(&size) && len <= half {
            return Some((class + 1, half));
        }
        size *= 2;
        class += 2;
    }
    Some((CLASSES - 1, MAX_BUF))
}

/// 15 doublings, a step after each, and the largest.
const CLASSES: usize = 31;

/// What an arena holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaStats {
    /// Most it may hold before [`Arena::take`] refuses.
    pub budget: usize,
    /// In buffers that are in use.
    pub in_use: usize,
    /// In buffers that wait to be used again.
    pub pooled: usize,
}

/// A pool of aligned buffers with a byte budget. Cloning shares the pool.
#[derive(Clone)]
pub struct Arena(Arc<Shared>);

struct Shared {
    budget: usize,
    pools: Mutex<Pools>,
}

struct Pools {
    in_use: usize,
    pooled: usize,
    free: [VecDeque<Memory>; CLASSES],
}

/// `capacity` bytes, aligned to [`ALIGN`], fully initialised.
struct Memory {
    start: NonNull<u8>,
    capacity: usize,
    /// What it is a part of; without one it is an allocation of its own.
    slab: Option<Arc<Slab>>,
}

// SAFETY: a `Memory` is the only user of its bytes.
unsafe impl Send for Memory {}
// SAFETY: shared access to a `Memory` only reads bytes.
unsafe impl Sync for Memory {}

impl Memory {
    /// Fresh memory: one buffer and, from a slab, others like it.
    fn new(capacity: usize) -> (Memory, Vec<Memory>) {
        if capacity >= SLAB_FROM
            && let Some(mut parts) = Slab::cut(capacity)
            && let Some(first) = parts.pop()
        {
            return (first, parts);
        }
        let layout = Memory::layout(capacity);
        // SAFETY: the layout has a size above zero (`class_of` starts at `ALIGN`).
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start) {
            Some(start) => (Memory { start, capacity, slab: None }, Vec::new()),
            None => handle_alloc_error(layout),
        }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, ALIGN).expect("a class size is far below isize::MAX and ALIGN is a power of two")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.slab.is_none() {
            // SAFETY: allocated in `new` with the same layout, and owned by this value alone.
            unsafe { dealloc(self.start.as_ptr(), Memory::layout(self.capacity)) }
        }
    }
}

/// A mapping that starts at a huge page's boundary, given back when its last part is gone.
struct Slab {
    mapping: NonNull<c_void>,
    len: usize,
}

// SAFETY: the mapping is only used through its parts, each of which has one owner.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

impl Slab {
    /// Parts of `capacity` bytes: as many as fit a huge page, at least one. `None` if the system maps no more: then
    /// ordinary memory is tried.
    fn cut(capacity: usize) -> Option<Vec<Memory>> {
        let used = capacity.max(HUGE);
        let len = used + HUGE;
        let flags = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new anonymous mapping, wherever there is room; nothing else refers to it.
        let mapping = unsafe { mmap_anonymous(std::ptr::null_mut(), len, flags.0, flags.1) }.ok()?;
        let slab = Arc::new(Slab { mapping: NonNull::new(mapping)?, len });
        let skip = mapping.align_offset(HUGE);
        // SAFETY: `skip` is below HUGE, and `len` is HUGE more than what is used.
        let start = unsafe { slab.mapping.cast::<u8>().add(skip) };
        // Advice: without huge pages everything works as well, but slower.
        // SAFETY: the range lies within the mapping, which holds nothing yet.
        let _ = unsafe { madvise(start.as_ptr().cast(), used, Advice::LinuxHugepage) };
        let part = |n: usize| {
            // SAFETY: part `n` ends within `used` bytes from the start.
            let start = unsafe { start.add(n * capacity) };
            Memory { start, capacity, slab: Some(slab.clone()) }
        };
        Some((0..used / capacity).map(part).collect())
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, of which no part is left. It fails only for arguments that are wrong.
        let _ = unsafe { munmap(self.mapping.as_ptr(), self.len) };
    }
}

impl Arena {
    /// An empty pool that may hold `budget` bytes.
    pub fn new(budget: usize) -> Arena {
        let pools = Pools { in_use: 0, pooled: 0, free: std::array::from_fn(|_| VecDeque::new()) };
        Arena(Arc::new(Shared { budget, pools: Mutex::new(pools) }))
    }

    /// A buffer of `len` bytes with any contents; `None` when the budget is used up or `len` is above [`MAX_BUF`].
    pub fn take(&self, len: usize) -> Option<AlignedBuf> {
        self.get(len, false)
    }

    /// A buffer of `len` bytes with any contents, beyond the budget if need be: for IO that must not fail.
    ///
    /// # Panics
    /// If `len` is above [`MAX_BUF`].
    pub fn take_or_alloc(&self, len: usize) -> AlignedBuf {
        self.get(len, true).expect("a buffer beyond the budget is refused only when it is longer than MAX_BUF")
    }

    /// What the arena holds now.
    pub fn stats(&self) -> ArenaStats {
        let pools = self.0.lock();
        ArenaStats { budget: self.0.budget, in_use: pools.in_use, pooled: pools.pooled }
    }

    fn get(&self, len: usize, force: bool) -> Option<AlignedBuf> {
        let (class, capacity) = class_of(len)?;
        let mut pools = self.0.lock();
        let free = &mut pools.free[class];
        let pooled = if capacity < SLAB_FROM { free.pop_back() } else { free.pop_front() };
        if pooled.is_some() {
            pools.pooled -= capacity;
        } else {
            while pools.in_use + pools.pooled + capacity > self.0.budget && pools.drop_one() {}
            if pools.in_use + capacity > self.0.budget && !force {
                return None;
            }
        }
        pools.in_use += capacity;
        drop(pools);
        let memory = pooled.unwrap_or_else(|| {
            let (memory, more) = Memory::new(capacity);
            self.0.lock().keep(more, class, self.0.budget);
            memory
        });
        Some(AlignedBuf { memory: Some(memory), len, class, pool: self.0.clone() })
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pools> {
        // Nothing panics while it is held; a poisoned pool is as good as any.
        self.pools.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Pools {
    /// Pools buffers as far as the budget allows.
    fn keep(&mut self, buffers: impl IntoIterator<Item = Memory>, class: usize, budget: usize) {
        for memory in buffers {
            if self.in_use + self.pooled + memory.capacity <= budget {
                self.pooled += memory.capacity;
                self.free[class].push_back(memory);
            }
        }
    }

    /// Gives one pooled buffer, the largest, back to the system.
    fn drop_one(&mut self) -> bool {
        for free in self.free.iter_mut().rev() {
            if let Some(memory) = free.pop_front() {
                self.pooled -= memory.capacity;
                return true;
            }
        }
        false
    }
}

/// A buffer with one owner. Its start is a multiple of [`ALIGN`]; behind its `len` bytes there is room up to a multiple
/// of [`ALIGN`].
pub struct AlignedBuf {
    memory: Option<Memory>,
    len: usize,
    class: usize,
    pool: Arc<Shared>,
}

impl AlignedBuf {
    fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("taken only by drop")
    }

    /// Bytes that fit.
    pub fn capacity(&self) -> usize {
        self.memory().capacity
    }

    /// Sets the length.
    ///
    /// # Panics
    /// If `len` is above the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "{len} bytes do not fit a buffer of {}", self.capacity());
        self.len = len;
    }

    /// All bytes up to the capacity, those behind `len` too.
    pub fn as_mut_capacity(&mut self) -> &mut [u8] {
        let memory = self.memory();
        // SAFETY: `capacity` initialised bytes, borrowed mutably through the only owner.
        unsafe { std::slice::from_raw_parts_mut(memory.start.as_ptr(), memory.capacity) }
    }

    /// Zeroes what lies behind `len` up to the next multiple of [`ALIGN`], and makes it part of the buffer.
    pub fn pad(&mut self) {
        let len = self.len;
        let padded = len.next_multiple_of(ALIGN);
        self.as_mut_capacity()[len..padded].fill(0);
        self.len = padded;
    }

    /// Shares the buffer. It goes back to the pool when the last clone is gone.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `len <= capacity` initialised bytes, owned by this value.
        unsafe { std::slice::from_raw_parts(self.memory().start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut self.as_mut_capacity()[..len]
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} of {})", self.len, self.capacity())
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else { return };
        let mut pools = self.pool.lock();
        pools.in_use -= memory.capacity;
        pools.keep([memory], self.class, self.pool.budget);
    }
}

/// Whether `bytes` starts where O_DIRECT wants it to.
pub fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_cover_every_length_and_are_whole_pages() {
        for len in [0, 1, 4096, 4097, 8192, 8193, 12288, 12289, 65536, 65537, 1 << 20, (64 << 20) - 1, 64 << 20, MAX_BUF] {
            let (class, size) = class_of(len).expect("within the limit");
            assert!(class < CLASSES && size >= len && size.is_multiple_of(ALIGN), "{len}: {class} {size}");
            assert_eq!(class_of(size), Some((class, size)), "a class size is its own class");
        }
        assert_eq!(class_of(MAX_BUF + 1), None);
    }

    #[test]
    fn buffers_return_to_the_pool_when_the_last_clone_is_gone() {
        let arena = Arena::new(1 << 20);
        let mut buf = arena.take(5000).expect("budget");
        assert!(is_aligned(&buf) && buf.iter().all(|&b| b == 0));
        buf[0] = 7;
        buf.pad();
        assert_eq!(buf.len(), 8192);
        let bytes = buf.freeze();
        let part = bytes.slice(0..10);
        drop(bytes);
        assert_eq!(arena.stats(), ArenaStats { budget: 1 << 20, in_use: 8192, pooled: 0 });
        assert!(is_aligned(&part) && part[0] == 7);
        drop(part);
        assert_eq!(arena.stats(), ArenaStats { budget: 1 << 20, in_use: 0, pooled: 8192 });
        assert_eq!(arena.take(8000).expect("budget")[0], 7, "the same memory again");
    }

    #[test]
    fn the_budget_holds_but_for_what_must_not_fail() {
        let arena = Arena::new(16384);
        let a = arena.take(8192).expect("budget");
        let b = arena.take(8192).expect("budget");
        assert!(arena.take(1).is_none());
        let c = arena.take_or_alloc(4096);
        assert_eq!(arena.stats().in_use, 20480);
        drop((a, b, c));
        assert!(arena.stats().pooled <= 16384);
        assert!(arena.take(16384).is_some(), "pooled buffers of other sizes make room");
        assert!(arena.take(MAX_BUF + 1).is_none());
    }
}
