//! The chunk engine: one store per target, over a batched, completion-based disk.
//!
//! It decides nothing about versions; it guarantees atomicity, durability, integrity and exact space. The contract is
//! [`catena_types::ChunkStore`]; [`CowStore`] keeps it with block-granular copy-on-write, a group-committed journal and
//! checkpoints. `docs/disk-format.md` draws what is on disk. No clock, no randomness, no threads of its own but the
//! fallback disk's: the driver calls [`CowStore::turn`] with the time.

mod alloc;
pub mod disk;
mod error;
mod format;
mod metrics;
#[cfg_attr(not(feature = "mutations"), allow(dead_code, unreachable_pub))]
pub mod mutation;
pub mod offline;
mod store;
pub mod target_dir;
mod version;

pub use disk::Disk;
pub use error::OpenError;
pub use format::{Durability, FORMAT, Identity, Params, StoreKind};
pub use metrics::{Histogram, Metrics};
pub use store::{Background, CowStore, Recovery, ScrubStatus, Stats};
