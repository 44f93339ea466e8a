//! The manager's state machine: leases, chain transitions, placement; pure.
