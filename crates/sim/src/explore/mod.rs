//! Exhaustive exploration of a small chain: every order of every event, in every state the checks of the protocol.
//!
//! The replicas are `catena_chain`, the transitions of membership are `catena_cluster::next_chain`: the code that ships.
//! Around them stand a disk, connections, a manager's ear and clients of which every choice is explored: what becomes
//! durable when, what a crash keeps, who learns which routing when, which message arrives next. What must hold: a state
//! that is equal in everything that decides its future has the same fingerprint, and no other has (but for the chance of
//! two in 2^64).

mod action;
mod apply;
mod check;
mod disk;
mod enabled;
mod fingerprint;
mod kill;
mod ledger;
mod links;
mod members;
mod plan;
mod rules;
mod search;
mod state;
mod target;

pub use kill::{Kills, Part, kill_at_every_step};
pub use ledger::Update;
pub use plan::{BROKEN, Faults, HUNT, LONG, Plan, SHORT};
pub use rules::{Rule, Rules};
pub use search::{Report, Violation, explore};

/// Messages that nothing here brings about: nothing is damaged, no session expires, no window is full.
pub const NEVER_SENT: &[&str] = &["Fetch", "Fetched", "SyncLost", "Expire", "Credit"];

/// Kinds of messages that some exploration must have seen and none of these has.
pub fn never_sent(reports: &[Report]) -> Vec<&'static str> {
    let unseen = |name: &&&'static str| !reports.iter().any(|r| r.messages.contains(**name));
    crate::messages::MESSAGES.iter().filter(|name| !NEVER_SENT.contains(name)).filter(unseen).copied().collect()
}
