//! The pool of channels: each carries one update at a time.
//!
//! The channel used last is taken first, so that a client with little to do makes few sessions on the nodes. A channel
//! comes back whatever became of its update, even if the caller stopped waiting: its next update has a higher number.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard};

use catena_types::{ClientId, SessionId};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::core::Channel;

/// All channels of a client.
pub(crate) struct Channels {
    free: Mutex<Vec<Channel>>,
    turns: Semaphore,
    count: usize,
}

/// A channel in use; it goes back when this is dropped.
pub(crate) struct Taken<'a> {
    channel: Option<Channel>,
    pool: &'a Channels,
    _turn: Option<SemaphorePermit<'a>>,
}

impl Channels {
    pub(crate) fn new(client: ClientId, count: usize) -> Channels {
        let count = count.clamp(1, u32::MAX as usize);
        let free = (0..count as u32).rev().map(|channel| Channel::new(SessionId { client, channel })).collect();
        Channels { free: Mutex::new(free), turns: Semaphore::new(count), count }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Waits for a free channel, first come, first served.
    pub(crate) async fn take(&self) -> Taken<'_> {
        let turn = self.turns.acquire().await.ok();
        let channel = self.lock().pop();
        debug_assert!(channel.is_some(), "there are as many turns as channels");
        Taken { channel, pool: self, _turn: turn }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Channel>> {
        // Nothing panics while it is held.
        self.free.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Deref for Taken<'_> {
    type Target = Channel;
    fn deref(&self) -> &Channel {
        self.channel.as_ref().expect("a turn is given only while a channel is free, and the channel is taken by drop alone")
    }
}

impl DerefMut for Taken<'_> {
    fn deref_mut(&mut self) -> &mut Channel {
        self.channel.as_mut().expect("a turn is given only while a channel is free, and the channel is taken by drop alone")
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // Before the turn, which is a field and dropped afterwards.
        self.pool.lock().extend(self.channel.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_channel_comes_back_with_a_higher_number() {
        let pool = Channels::new(7, 1);
        let first = pool.take().await.next_tag();
        let mut taken = pool.take().await;
        let second = taken.next_tag();
        assert_eq!((first.channel, first.seq, second.seq), (0, 1, 2));
        let waits = tokio::time::timeout(std::time::Duration::ZERO, pool.take()).await;
        assert!(waits.is_err(), "one update at a time");
    }
}
