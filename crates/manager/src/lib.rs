//! The manager service: cluster state machine over a durable store.
