//! Whole nodes with a real manager, in one process.

mod cluster;
mod links;
mod support;
