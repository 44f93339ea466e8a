//! The replica state machine of chain replication with apportioned queries.
//!
//! Pure: events go in, commands come out, time is an argument. The chunk engine is reached through
//! [`catena_types::ChunkStore`], which answers from memory and reports slow things back as events.

mod api;
pub mod mutation;
mod replica;

pub use api::{ClientList, ClientRead, ClientUpdate, Command, Config, Counters, Event, Report, RequestId, answers};
pub use replica::Replica;
