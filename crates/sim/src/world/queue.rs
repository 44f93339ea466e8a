//! What is to happen, by time: of two events at one time the one scheduled first comes first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use catena_types::Time;

/// Events with their times and numbers.
pub(super) struct Queue<E> {
    /// Time, number, and where the event is kept: small things move about, events stay.
    order: BinaryHeap<Reverse<(Time, u64, usize)>>,
    events: Vec<Option<E>>,
    free: Vec<usize>,
}

impl<E> Queue<E> {
    pub(super) fn new() -> Queue<E> {
        Queue { order: BinaryHeap::new(), events: Vec::new(), free: Vec::new() }
    }

    /// Adds an event; numbers are never used twice.
    pub(super) fn insert(&mut self, at: Time, number: u64, event: E) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.order.push(Reverse((at, number, place)));
    }

    /// The time of the next event.
    pub(super) fn next_at(&self) -> Option<Time> {
        self.order.peek().map(|Reverse((at, ..))| *at)
    }

    /// The next event, with its time and number.
    pub(super) fn pop(&mut self) -> Option<(Time, u64, E)> {
        let Reverse((at, number, place)) = self.order.pop()?;
        self.free.push(place);
        Some((at, number, self.events[place].take()?))
    }
}
