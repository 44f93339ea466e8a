//! One request in, one reply out: decoding, the state machine, encoding.

use catena_cluster::{Primary, Verdict};
use catena_net::Frame;
use catena_types::{Code, Failure, Time};
use catena_wire::header::Kind;
use catena_wire::manager::{
    AdminRequest, HeartbeatRequest, InitRequest, RegisterRequest, RoutingReply, RoutingRequest, StatusReply, StatusRequest,
};

/// What becomes of a request.
pub(crate) enum Answer {
    /// Send this.
    Now(Frame),
    /// Send this, once the state is stored.
    Stored(Frame),
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

/// Hands a request to the state machine. `now` was read after the frame was received; `addr` and `storing_ms` are for
/// people.
pub(crate) fn handle<W>(primary: &mut Primary<W>, now: Time, frame: &Frame, addr: &str, storing_ms: u64) -> Answer {
    match frame.kind {
        Kind::Register => with(frame, |r: RegisterRequest| primary.register(now, &r)),
        Kind::Heartbeat => with(frame, |r: HeartbeatRequest| primary.heartbeat(now, &r)),
        Kind::Admin => with(frame, |r: AdminRequest| primary.admin(now, &r)),
        Kind::Init => with(frame, |r: InitRequest| primary.init(now, &r)),
        Kind::Status => with(frame, |_: StatusRequest| {
            let status = primary.status(now);
            Verdict::Now(StatusReply { primary: addr.to_owned(), storing_ms, ..status })
        }),
        Kind::Routing => routing(primary, frame),
        kind => {
            let text = format!("a manager does not answer {kind:?} frames: is this the address of a node?");
            refuse(frame, Failure::new(Code::Malformed, text))
        }
    }
}

/// Whether clients may ask this: it changes nothing. Everything else is for members.
pub(crate) fn for_clients(kind: Kind) -> bool {
    matches!(kind, Kind::Routing | Kind::Status)
}

fn with<Req, Rep>(frame: &Frame, run: impl FnOnce(Req) -> Verdict<Rep>) -> Answer
where
    Req: prost::Message + Default,
    Rep: prost::Message,
{
    match frame.decode::<Req>().map(run) {
        Ok(Verdict::Now(message)) => reply(frame, &message),
        Ok(Verdict::Stored(message)) => match reply(frame, &message) {
            Answer::Now(frame) => Answer::Stored(frame),
            other => other,
        },
        Err(e) => refuse(frame, Failure::new(Code::Malformed, e.to_string())),
    }
}

fn routing<W>(primary: &Primary<W>, frame: &Frame) -> Answer {
    match frame.decode::<RoutingRequest>() {
        Ok(request) => match primary.routing_since(request.have) {
            (None, None) if request.wait_ms > 0 => Answer::Later { have: request.have, wait_ms: request.wait_ms },
            (routing, delta) => reply(frame, &RoutingReply { failure: None, routing, delta }),
        },
        Err(e) => refuse(frame, Failure::new(Code::Malformed, e.to_string())),
    }
}

fn reply(frame: &Frame, message: &impl prost::Message) -> Answer {
    match frame.kind.reply() {
        Some(kind) => Answer::Now(Frame::new(kind, frame.request_id, message).reply()),
        None => Answer::None,
    }
}

/// The answer that there is none.
pub(crate) fn refuse(frame: &Frame, failure: Failure) -> Answer {
    tracing::debug!(kind = ?frame.kind, "refused: {failure}");
    reply(frame, &Refusal { failure: Some(failure) })
}
