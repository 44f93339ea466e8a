//! Deterministic world and checkers: whole clusters in one thread from one seed, and the judge of what clients saw.
//!
//! [`linear`] decides whether a history of client operations is linearizable; tests with real processes use it too.
//! [`world`] runs the state machines that ship (chain, cluster, client, engine) against a network, disks and processes
//! that fail in every way the protocol claims to survive. [`store`] is the model of a chunk store. [`scale`] thinks about
//! clusters that are larger than any test.

#[cfg(feature = "mutations")]
pub mod canary;
pub mod explore;
pub mod linear;
mod messages;
pub mod mutation;
pub mod rng;
pub mod scale;
pub mod store;
pub mod world;
