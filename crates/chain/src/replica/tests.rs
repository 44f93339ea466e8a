//! Stories of the replica state machine.
