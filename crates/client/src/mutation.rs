//! Rules of a client that can be switched off one at a time: the simulator must notice each.
#![cfg_attr(not(feature = "mutations"), allow(dead_code, unreachable_pub))]

catena_types::mutations! {
    /// `update`: a reject of an older attempt ends the update.
    AnyReject,
    /// `update`: a reject is final, whatever became of other attempts.
    RejectIsFinal,
    /// `update`: a lost attempt had no effect.
    LostHadNoEffect,
}
