//! Client library: chunks, batches and objects.
//!
//! ```no_run
//! # async fn example() -> Result<(), catena_client::Error> {
//! use catena_client::{Client, ClientConfig, ReadOptions, UpdateOptions};
//!
//! let client = Client::connect(ClientConfig::new("127.0.0.1:7000")).await?;
//! client.write(b"chunk", 0, "hello", &UpdateOptions::default()).await?;
//! let read = client.read(b"chunk", 0, 5, &ReadOptions::default()).await?;
//! assert_eq!(&read.data[..], b"hello");
//! # Ok(()) }
//! ```
//!
//! A [`Client`] knows the routing, spreads reads over the serving replicas and repeats an update under one name until its
//! fate is known, so that it happens at most once. [`objects`] keeps byte streams of any size in chunks, with nothing but
//! conditional updates of one chunk per object. [`core`] decides what to do after each answer; it is pure, and the
//! simulator runs the same code.

pub mod api;
mod batch;
mod call;
mod channels;
mod client;
mod clock;
pub mod config;
pub mod core;
pub mod error;
#[cfg(test)]
mod fake;
mod links;
mod list;
mod managers;
pub mod mutation;
pub mod objects;
mod routes;
pub mod split;
#[cfg(test)]
mod tests;

pub use api::{
    ChunkStat, DEFAULT_CHUNK_SIZE, ListPage, ListedChunk, ReadItem, ReadOptions, ReadResult, UpdateKind, UpdateOptions, Updated,
    WriteItem,
};
pub use client::Client;
pub use config::ClientConfig;
pub use error::{Error, ErrorKind, Retry};
pub use objects::{Collected, Collector, DEFAULT_GRACE, GetOptions, ObjectInfo, ObjectPage, Objects, PutOptions, run_collector};
pub use split::{Piece, split};
