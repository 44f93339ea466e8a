//! One request in, one reply out: decoding, the state machine, encoding.

use catena_cluster::{Manager as Core, Outcome};
use catena_net::Frame;
use catena_types::{Code, Failure, Time};
use catena_wire::header::Kind;
use catena_wire::manager::{HeartbeatRequest, InitRequest, RegisterRequest, RoutingReply, RoutingRequest, StatusRequest};

/// What becomes of a request.
pub(crate) enum Answer {
    /// Send this, once the state is stored.
    Reply(Frame),
    /// Nothing newer yet: answer when there is, or after `wait_ms`.
    Later {
        /// Routing version the asker has.
        have: u64,
        /// Longest wait in milliseconds.
        wait_ms: u32,
    },
    /// There is no reply to this kind of frame.
    None,
}

/// Every reply has its failure in the same field.
#[derive(Clone, PartialEq, prost::Message)]
struct Refusal {
    #[prost(message, optional, tag = "1")]
    failure: Option<Failure>,
}

/// Hands a request to the state machine. The flag says whether the state must be stored before the answer is sent.
/// `now` was read after the frame was received.
pub(crate) fn handle(core: &mut Core, now: Time, frame: &Frame) -> (Answer, bool) {
    match frame.kind {
        Kind::Register => with(frame, |r: RegisterRequest| core.register(now, &r)),
        Kind::Heartbeat => with(frame, |r: HeartbeatRequest| core.heartbeat(now, &r)),
        Kind::Init => with(frame, |r: InitRequest| core.init(now, &r)),
        Kind::Status => with(frame, |_: StatusRequest| Outcome { reply: core.status(now), changed: false }),
        Kind::Routing => (routing(core, frame), false),
        kind => {
            let text = format!("a manager does not answer {kind:?} frames: is this the address of a node?");
            (refuse(frame, Failure::new(Code::Malformed, text)), false)
        }
    }
}

fn with<Req, Rep>(frame: &Frame, run: impl FnOnce(Req) -> Outcome<Rep>) -> (Answer, bool)
where
    Req: prost::Message + Default,
    Rep: prost::Message,
{
    match frame.decode::<Req>() {
        Ok(request) => {
            let outcome = run(request);
            (reply(frame, &outcome.reply), outcome.changed)
        }
        Err(e) => (refuse(frame, Failure::new(Code::Malformed, e.to_string())), false),
    }
}

fn routing(core: &Core, frame: &Frame) -> Answer {
    match frame.decode::<RoutingRequest>() {
        Ok(request) => match core.routing_since(request.have) {
            None if request.wait_ms > 0 => Answer::Later { have: request.have, wait_ms: request.wait_ms },
            routing => reply(frame, &RoutingReply { failure: None, routing }),
        },
        Err(e) => refuse(frame, Failure::new(Code::Malformed, e.to_string())),
    }
}

fn reply(frame: &Frame, message: &impl prost::Message) -> Answer {
    match frame.kind.reply() {
        Some(kind) => Answer::Reply(Frame::new(kind, frame.request_id, message).reply()),
        None => Answer::None,
    }
}

fn refuse(frame: &Frame, failure: Failure) -> Answer {
    tracing::debug!(kind = ?frame.kind, "refused: {failure}");
    reply(frame, &Refusal { failure: Some(failure) })
}
