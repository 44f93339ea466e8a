//! Rules of a node's driver, which the simulator follows itself, that can be switched off one at a time.
#![cfg_attr(not(feature = "mutations"), allow(dead_code, unreachable_pub))]

catena_types::mutations! {
    /// `node`: a lease is counted from when its grant came, not from when the heartbeat was sent.
    LeaseFromReceipt,
    /// `node`: frames of a connection count although there is a newer one.
    OldConnections,
    /// `node`: a target acts on routing older than its first grant.
    OldRouting,
    /// `manager`: the store takes the writes of a manager that another one has followed.
    DeposedWrites,
    /// `node`: the clock is read before the event is, so that a pause lies between them.
    OldClock,
}
