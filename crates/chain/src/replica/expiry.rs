//! Sessions that nobody has used for long are forgotten (amendment M5).
//!
//! The head, which sees every request, notes the sessions used since it began to look, or since it looked last. After
//! `session_ttl` it walks all rows, page by page: those of sessions that were not used meanwhile are dropped here and, by
//! [`Expire`], at every member behind. What must hold: a row goes only if it is the one the head looked at, so that an
//! update that comes in the meantime stays recorded; no copy of a request comes later than `session_ttl`. A member that
//! misses it keeps its rows, which does no harm: a later head drops them.

use std::collections::BTreeSet;

use catena_types::{SessionId, Time};
use catena_wire::peer::{Body, Expire, SessionSeq};

use super::{Cx, Replica};
use crate::mutation::{Mutation, is};

/// Pause between two pages, in nanoseconds.
const PAUSE: Time = 10_000_000;

/// What a head knows of the use of sessions.
#[derive(Clone, Default, Hash)]
pub(super) struct Expiry {
    /// Sessions used since it began to look.
    used: BTreeSet<SessionId>,
    /// When to look at the next page of rows.
    due: Time,
    /// The last row looked at.
    cursor: Option<SessionId>,
}

impl Expiry {
    fn new(now: Time, ttl: Time) -> Expiry {
        Expiry { due: now.saturating_add(ttl), ..Expiry::default() }
    }

    /// A request of the session has come.
    pub(super) fn note(&mut self, id: SessionId) {
        self.used.insert(id);
    }

    pub(super) fn wake(&self) -> Time {
        self.due
    }
}

impl<P: Clone> Replica<P> {
    /// Begins to look, if this target has become the head; ends it, if it is no longer.
    pub(super) fn watch_sessions(&mut self, now: Time) {
        let ttl = self.config.session_ttl;
        if !self.is_head() || ttl == 0 {
            self.expiry = None;
        } else if self.expiry.is_none() {
            self.expiry = Some(Expiry::new(now, ttl));
        }
    }

    /// The time may have come to look at a page of rows.
    pub(super) fn expire_sessions(&mut self, cx: &mut Cx<P>) {
        let Some(expiry) = self.expiry.as_mut().filter(|e| e.due <= cx.now) else { return };
        let page = cx.store.sessions(expiry.cursor, self.config.session_batch);
        let Some((last, _)) = page.last() else {
            self.sessions.keep_rejects(&expiry.used);
            *expiry = Expiry::new(cx.now, self.config.session_ttl);
            return;
        };
        (expiry.cursor, expiry.due) = (Some(*last), cx.now + PAUSE);
        let used = |id: &SessionId| (expiry.used.contains(id) || self.sessions.runs(*id)) && !is(Mutation::ExpireUsed);
        let idle = page.into_iter().filter(|(id, _)| !used(id));
        let idle: Vec<SessionSeq> = idle.map(|(id, row)| SessionSeq { id, seq: row.seq }).collect();
        self.drop_sessions(cx, Expire { idle });
    }

    /// The head has found these sessions idle.
    pub(super) fn drop_sessions(&mut self, cx: &mut Cx<P>, expire: Expire) {
        if expire.idle.is_empty() {
            return;
        }
        for SessionSeq { id, seq } in &expire.idle {
            cx.store.drop_session(*id, *seq);
        }
        self.counters.sessions_expired += expire.idle.len() as u64;
        if let Some(succ) = self.role().succ {
            self.send(cx, succ, Body::Expire(expire), None);
        }
    }
}
