//! Whole nodes with a real manager, in one process.

mod cluster;
mod links;
mod overload;
mod support;
