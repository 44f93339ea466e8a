//! What a target does for an update, in the log: one line per step, under the number that the update has in every process.
//!
//! `CATENA_LOG=catena::update=debug` turns it on; off, it costs one comparison per event. The number is
//! [`Tag::trace`]: it travels with every message about the update, since these carry the tag.

use catena_chain::{Command, Event};
use catena_types::{ChunkStore, Done, Tag, TargetId};
use catena_wire::peer::{Body, PeerMsg};

/// Whether anybody listens.
pub(super) fn on() -> bool {
    tracing::enabled!(target: "catena::update", tracing::Level::DEBUG)
}

/// Logs the arrival of an event that is about an update; which one.
pub(super) fn event<P>(target: TargetId, event: &Event<P>, store: &impl ChunkStore) -> Option<Tag> {
    let (tag, step, from) = match event {
        Event::Update(update) => (update.tag, "received", 0),
        Event::Peer { msg, .. } => {
            let (tag, step) = about(msg)?;
            (tag, step.received, msg.from)
        }
        Event::Done(Done::Staged { key, ver, .. }) => {
            let staged = store.meta(key).and_then(|m| m.staged).filter(|s| s.ver == *ver)?;
            (staged.tag, "staged", 0)
        }
        _ => return None,
    };
    log(target, tag, step, from);
    Some(tag)
}

/// Logs a commit that followed from an event about `tag`.
pub(super) fn committed(target: TargetId, tag: Option<Tag>) {
    tag.into_iter().for_each(|tag| log(target, tag, "committed", 0));
}

/// Logs what is done about an update; `cause` is the one the event was about.
pub(super) fn command<P>(target: TargetId, cause: Option<Tag>, command: &Command<P>) {
    match command {
        Command::Send { msg, .. } => {
            if let Some((tag, step)) = about(msg) {
                log(target, tag, step.sent, msg.to);
            }
        }
        Command::UpdateReply { reply, .. } => {
            let step = if reply.failure.is_none() { "replied" } else { "refused" };
            cause.into_iter().for_each(|tag| log(target, tag, step, 0));
        }
        _ => {}
    }
}

/// What a message is called on both sides.
struct Step {
    sent: &'static str,
    received: &'static str,
}

fn about(msg: &PeerMsg) -> Option<(Tag, Step)> {
    match msg.body.as_ref()? {
        Body::Forward(m) => Some((m.tag, Step { sent: "forwarded", received: "forward received" })),
        Body::Release(m) => Some((m.tag, Step { sent: "released", received: "release received" })),
        Body::Reply(m) => Some((m.tag, Step { sent: "commit passed up", received: "commit received" })),
        Body::Reject(m) => Some((m.tag, Step { sent: "rejected", received: "reject received" })),
        _ => None,
    }
}

/// `peer` is the other target, 0 if there is none.
fn log(on: TargetId, tag: Tag, step: &'static str, peer: TargetId) {
    let trace = format_args!("{:016x}", tag.trace()).to_string();
    tracing::debug!(target: "catena::update", trace, on, peer, "{step}");
}
