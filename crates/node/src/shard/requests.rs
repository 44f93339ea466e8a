//! Requests of clients: checked before anything else happens to them, admitted, and made events.

use bytes::Bytes;
use catena_chain::{ClientList, ClientRead, ClientUpdate, Event};
use catena_net::Frame;
use catena_types::limits::{MAX_KEY, MAX_PAGE, valid_chunk_size};
use catena_types::{ChunkKey, Code, Failure, Precondition, TargetId, Time};
use catena_wire::client::{
    InspectReply, InspectRequest, ListReply, ListRequest, ReadReply, ReadRequest, TargetReply, TargetRequest, UpdateReply,
    UpdateRequest,
};
use catena_wire::header::Kind;

use super::admission::Cost;
use super::{ConnId, Shard, Waiting, payload_of};
use crate::clock::now;
use crate::status::Served;

/// How long a read without a deadline may wait, in nanoseconds.
const READ_NS: Time = 30_000_000_000;

impl Shard {
    pub(super) fn on_request(&mut self, conn: ConnId, frame: Frame) {
        let outcome = match frame.kind {
            Kind::Update => self.update(conn, &frame),
            Kind::Read => self.read(conn, &frame),
            Kind::List => self.list(conn, &frame),
            Kind::Target => self.target(conn, &frame),
            _ => self.inspect(conn, &frame),
        };
        if let Err(failure) = outcome {
            self.refuse(conn, &frame, failure);
        }
    }

    fn update(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Failure> {
        let request: UpdateRequest = decode(frame)?;
        let key = check_update(&request, frame)?;
        let target = match &self.routing {
            Some(_) => self.targets.of_chain(request.chain),
            None => return Err(not_serving()),
        };
        let target = target.ok_or_else(|| unknown(format!("no target of chain {} is on this shard", request.chain)))?;
        let cost = Cost::Update(frame.payload.len());
        let number = self.admit(conn, frame, cost, Served::Update)?;
        let update = ClientUpdate {
            request: number,
            chain_ver: request.chain_ver,
            key,
            chunk_size: request.chunk_size,
            op: request.op,
            precondition: Precondition::from_wire(request.precondition),
            tag: request.tag,
            first: request.first,
            explain: request.explain,
            payload: payload_of(frame),
        };
        self.give(target, Event::Update(update));
        Ok(())
    }

    fn read(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Failure> {
        let request: ReadRequest = decode(frame)?;
        let key = check_key(&request.key)?;
        self.check_target(request.target, Some(request.chain))?;
        let number = self.admit(conn, frame, Cost::Read, Served::Read)?;
        let patience = frame.deadline.map_or(READ_NS, |d| Time::try_from(d.as_nanos()).unwrap_or(READ_NS));
        let read = ClientRead {
            request: number,
            chain_ver: request.chain_ver,
            key,
            offset: request.offset,
            len: request.len,
            relaxed: request.relaxed,
            deadline: now().saturating_add(patience),
        };
        self.give(request.target, Event::Read(read));
        Ok(())
    }

    fn list(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Failure> {
        let request: ListRequest = decode(frame)?;
        if request.prefix.len() > MAX_KEY || request.from.len() > MAX_KEY + 1 {
            return Err(invalid(format!("prefix or start is longer than a key can be ({MAX_KEY} bytes)")));
        }
        self.check_target(request.target, Some(request.chain))?;
        let number = self.admit(conn, frame, Cost::Read, Served::List)?;
        let limit = if request.limit == 0 { MAX_PAGE } else { request.limit.min(MAX_PAGE) };
        let list = ClientList {
            request: number,
            chain_ver: request.chain_ver,
            prefix: request.prefix,
            from: request.from,
            limit: limit as usize,
        };
        self.give(request.target, Event::List(list));
        Ok(())
    }

    fn inspect(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Failure> {
        let request: InspectRequest = decode(frame)?;
        let key = check_key(&request.key)?;
        self.check_target(request.target, None)?;
        let (meta, chain_ver) = self.targets.inspect(request.target, &key);
        self.send_reply(conn, frame, Kind::InspectReply, &InspectReply { failure: None, meta, chain_ver });
        Ok(())
    }

    fn target(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Failure> {
        let request: TargetRequest = decode(frame)?;
        self.check_target(request.target, None)?;
        let reply = self.targets.describe(request.target, request.scrub);
        self.send_reply(conn, frame, Kind::TargetReply, &reply);
        Ok(())
    }

    fn check_target(&self, target: TargetId, chain: Option<u32>) -> Result<(), Failure> {
        if self.routing.is_none() && chain.is_some() {
            return Err(not_serving());
        }
        if !self.targets.has(target) {
            return Err(unknown(format!("target {target} is not on this shard")));
        }
        match chain {
            Some(chain) if self.targets.of_chain(chain) != Some(target) => {
                Err(unknown(format!("target {target} is not in chain {chain}")))
            }
            _ => Ok(()),
        }
    }

    fn admit(&mut self, conn: ConnId, frame: &Frame, cost: Cost, served: Served) -> Result<u64, Failure> {
        let queued = self.conns.get(&conn).map_or(0, |c| c.sender.queued_bytes());
        self.admission.begin(&self.limits, conn, cost, queued)?;
        let number = self.next_request;
        self.next_request += 1;
        let (id, trace) = (frame.request_id, frame.trace_id);
        self.waiting.insert(number, Waiting { conn, id, trace, room: frame.remote(), cost, served, since: now() });
        Ok(number)
    }

    fn refuse(&self, conn: ConnId, frame: &Frame, failure: Failure) {
        let failure = Some(failure);
        match frame.kind {
            Kind::Update => {
                self.send_reply(conn, frame, Kind::UpdateReply, &UpdateReply { failure, ..UpdateReply::default() });
            }
            Kind::Read => self.send_reply(conn, frame, Kind::ReadReply, &ReadReply { failure, ..ReadReply::default() }),
            Kind::List => self.send_reply(conn, frame, Kind::ListReply, &ListReply { failure, ..ListReply::default() }),
            Kind::Target => {
                self.send_reply(conn, frame, Kind::TargetReply, &TargetReply { failure, ..TargetReply::default() });
            }
            _ => {
                self.send_reply(conn, frame, Kind::InspectReply, &InspectReply { failure, ..InspectReply::default() });
            }
        }
    }

    fn send_reply(&self, conn: ConnId, request: &Frame, kind: Kind, reply: &impl prost::Message) {
        if let Some(conn) = self.conns.get(&conn) {
            let mut frame = Frame::new(kind, request.request_id, reply).reply();
            frame.trace_id = request.trace_id;
            // A client that is gone needs no answer.
            let _ = conn.sender.send(frame);
        }
    }
}

fn decode<M: prost::Message + Default>(frame: &Frame) -> Result<M, Failure> {
    frame.decode().map_err(|e| Failure::new(Code::Malformed, e.to_string()))
}

/// Everything about an update that can be judged without the chunk.
fn check_update(request: &UpdateRequest, frame: &Frame) -> Result<ChunkKey, Failure> {
    let key = check_key(&request.key)?;
    if !valid_chunk_size(request.chunk_size) {
        let size = request.chunk_size;
        return Err(invalid(format!("chunk size {size}: give a multiple of 4096 bytes, at most 64 MiB")));
    }
    request.op.check(request.chunk_size).map_err(invalid)?;
    if !frame.payload_ok {
        return Err(Failure::new(Code::PayloadCorrupt, "the payload does not match the checksum sent with it; send it again"));
    }
    check_payload(&request.op, &frame.payload)?;
    Ok(key)
}

fn check_payload(op: &catena_types::Op, payload: &Bytes) -> Result<(), Failure> {
    let (came, wanted) = (payload.len(), op.payload_len() as usize);
    if came == wanted {
        return Ok(());
    }
    Err(invalid(format!("{came} bytes of payload came with an update that needs {wanted}")))
}

fn check_key(key: &[u8]) -> Result<ChunkKey, Failure> {
    ChunkKey::new(key).ok_or_else(|| invalid(format!("the key is {} bytes long; give 1 to {MAX_KEY}", key.len())))
}

fn invalid(what: String) -> Failure {
    Failure::new(Code::InvalidArgument, what)
}

fn unknown(what: String) -> Failure {
    Failure::new(Code::UnknownChain, format!("{what}; refresh routing"))
}

fn not_serving() -> Failure {
    Failure::new(Code::NotServing, "this node has just started and has no routing yet; try again")
}
