//! One target's place in its chain.

use catena_types::{ChunkStore, TargetId, Time};

use crate::api::{Command, Config, Counters, Event, Report};

/// One target's place in its chain.
pub struct Replica<P> {
    _p: std::marker::PhantomData<P>,
}

impl<P: Clone> Replica<P> {
    /// A replica that has just been opened: it belongs to no chain version yet and serves nothing.
    pub fn new(me: TargetId, config: Config) -> Replica<P> {
        let _ = (me, config);
        Replica { _p: std::marker::PhantomData }
    }
    /// Takes one event and appends what is to be done.
    pub fn handle<S: ChunkStore<Payload = P>>(&mut self, now: Time, event: Event<P>, store: &mut S, out: &mut Vec<Command<P>>) {
        let _ = (now, event, store, out);
    }
    /// When to send the next [`Event::Tick`]; `None` if nothing waits for time.
    pub fn next_wake(&self) -> Option<Time> {
        None
    }
    /// What to say in the next heartbeat.
    pub fn report(&self) -> Report {
        unimplemented!()
    }
    /// Counters since the replica was made.
    pub fn counters(&self) -> &Counters {
        unimplemented!()
    }
    /// Client requests that wait here.
    pub fn waiting(&self) -> usize {
        0
    }
}
