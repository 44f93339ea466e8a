//! Questions to the managers: any of them will do, and the one that answered last is asked first.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use catena_types::{Class, Failure, Time};
use catena_wire::client::{InspectReply, ListReply, ReadReply, TargetReply, UpdateReply};
use catena_wire::header::Kind;
use catena_wire::manager::{AdminReply, InitReply, RoutingReply, StatusReply};

use crate::clock::Clock;
use crate::error::{Error, ErrorKind};
use crate::links::{Links, NoAnswer, Payload};

/// Pause before all managers are asked again; doubles up to the second.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MOST: Duration = Duration::from_secs(1);
/// Longest wait for one manager's answer to a question that it does not think about.
pub(crate) const ANSWER: Duration = Duration::from_secs(2);

/// A reply that may be a failure.
pub(crate) trait Reply: prost::Message + Default {
    fn failure(&self) -> Option<&Failure>;
}

macro_rules! replies {
    ($($t:ty),*) => { $(impl Reply for $t { fn failure(&self) -> Option<&Failure> { self.failure.as_ref() } })* };
}
replies!(AdminReply, UpdateReply, ReadReply, ListReply, InspectReply, TargetReply, RoutingReply, InitReply, StatusReply);

/// The managers known, the one that answered last first. Others that these name are learned.
pub(crate) struct Managers(Mutex<Vec<String>>);

/// How one manager took a question.
enum Taken<R> {
    Answered(R),
    /// Ask another one, or the same again later.
    NotNow(Error),
    /// Ask the one at this address.
    Elsewhere(Error, String),
    Refused(Error),
}

impl Managers {
    pub(crate) fn new(addrs: Vec<String>) -> Managers {
        Managers(Mutex::new(addrs))
    }

    fn known(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This one has answered.
    fn prefer(&self, addr: String) {
        let mut known = self.known();
        if known.first() != Some(&addr) {
            known.retain(|a| *a != addr);
            known.insert(0, addr);
        }
    }

    /// Asks until one of them answers or `deadline` has passed. `answer` bounds the wait for one of them.
    pub(crate) async fn ask<Req: prost::Message, Rep: Reply>(
        &self,
        links: &Links,
        clock: Clock,
        kind: Kind,
        request: &Req,
        answer: Duration,
        deadline: Time,
    ) -> Result<Rep, Error> {
        let mut pause = PAUSE_FIRST;
        loop {
            let mut last = None;
            let mut ahead: VecDeque<String> = self.known().iter().cloned().collect();
            let mut asked: Vec<String> = Vec::new();
            while let Some(addr) = ahead.pop_front() {
                let until = deadline.min(clock.after(answer));
                match ask_one(links, &addr, kind, request, until).await {
                    Taken::Answered(reply) => {
                        self.prefer(addr);
                        return Ok(reply);
                    }
                    Taken::Refused(e) => return Err(e),
                    Taken::NotNow(e) => last = Some(e),
                    Taken::Elsewhere(e, other) => {
                        last = Some(e);
                        if other != addr && !asked.contains(&other) {
                            ahead.retain(|a| *a != other);
                            ahead.push_front(other);
                        }
                    }
                }
                asked.push(addr);
            }
            let left = clock.until(deadline);
            if left <= pause {
                return Err(last.unwrap_or_else(|| Error::new(ErrorKind::InvalidArgument, "no manager address was given")));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }
}

async fn ask_one<Req: prost::Message, Rep: Reply>(
    links: &Links,
    addr: &str,
    kind: Kind,
    request: &Req,
    until: Time,
) -> Taken<Rep> {
    let at = |e: Error| e.context(format!("manager {addr}"));
    match links.ask::<Req, Rep>(addr, kind, request, Payload::Wanted(0), until).await {
        Ok((reply, _)) => match reply.failure() {
            None => Taken::Answered(reply),
            Some(f) if !f.elsewhere.is_empty() => Taken::Elsewhere(at(Error::from_failure(f)), f.elsewhere.clone()),
            Some(f) if matches!(f.class(), Class::Redirect | Class::Overload) => Taken::NotNow(at(Error::from_failure(f))),
            Some(f) => Taken::Refused(at(Error::from_failure(f))),
        },
        Err(NoAnswer::Refused(f)) if f.class() == Class::Refused => Taken::Refused(at(Error::from_failure(&f))),
        Err(NoAnswer::Refused(f)) => Taken::NotNow(at(Error::from_failure(&f))),
        Err(NoAnswer::Lost(lost)) => Taken::NotNow(at(Error::new(ErrorKind::NoManager, lost.to_string()))),
    }
}
