//! The storage service: shards that drive chain, engine and network.
