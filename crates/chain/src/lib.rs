//! The replica state machine of chain replication with apportioned queries; pure.
