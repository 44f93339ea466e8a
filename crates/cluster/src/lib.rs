//! The manager's state machine: who serves which chain, who holds a lease, where replicas are placed.
//!
//! Pure: time comes in as an argument, nothing is stored or sent here. The service (or the simulator) hands in one
//! request at a time with the time read *after* it was received, stores [`State`] durably when [`Outcome::changed`]
//! says so, and only then sends the reply and publishes the routing.
//!
//! - [`chain`]: the transitions of one chain, as one function of the chain and what is known of its targets.
//! - [`manager`]: nodes, leases and time around it.
//! - [`primary`]: the term of an elected manager, and answers beside a store that takes its time.
//! - [`changes`]: routing for whoever has most of it already.
//! - [`placement`]: chains out of free targets.
//! - [`balance`]: which replica to move where, so that loads are even.
//!
//! What must hold: a chain always has a SERVING member or a last serving set; a SERVING member leaves only when it
//! surely serves no more; a target whose memory is gone gets no lease before its removal is part of the state.

pub mod balance;
pub mod chain;
pub mod changes;
pub mod manager;
pub mod mutation;
pub mod placement;
pub mod primary;
pub mod state;

pub use chain::{Facts, Life, TargetFacts, check_chain, next_chain, with_member, without_member};
pub use changes::Changes;
pub use manager::{Manager, Outcome};
pub use placement::{PlacementError, make_chains};
pub use primary::{Primary, Verdict};
pub use state::{Move, NodeRow, Opening, Settings, State, TargetRow};
