//! Objects against a cluster in this process.
