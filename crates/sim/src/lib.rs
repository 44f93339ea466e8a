//! Deterministic world and checkers: whole clusters in one thread from one seed, and the judge of what clients saw.

pub mod linear;
pub mod rng;
