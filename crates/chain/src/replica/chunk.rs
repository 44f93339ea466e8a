//! What goes on with one chunk: the update or resync step that has the turn, and what waits behind it.

use std::collections::VecDeque;

use catena_types::store::Part;
use catena_types::{ChunkMeta, Code, Committed, Op, Payload, StageInfo, Tag, TargetId, Time, Ver};
use catena_wire::client::Hop;
use catena_wire::peer::{Fetch, Forward, SyncLost, SyncPatch, SyncPut};

use crate::api::{ClientUpdate, RequestId};

/// One chunk with something in flight. Chunks at rest have none: the engine's index is enough for them.
#[derive(Clone, Hash)]
pub(super) struct ChunkState<P> {
    /// Who has the turn.
    pub(super) busy: Option<Busy<P>>,
    /// Who comes next, in order.
    pub(super) queue: VecDeque<Turn<P>>,
    /// Reads that wait until the staged update is durable here.
    pub(super) readers: Vec<u64>,
    /// The committed version is damaged, and whoever has the turn cannot go on before it is repaired.
    pub(super) repair: Option<Repair>,
    /// The predecessor's question that waits for it.
    pub(super) asker: Option<Fetch>,
}

impl<P> Default for ChunkState<P> {
    fn default() -> ChunkState<P> {
        ChunkState { busy: None, queue: VecDeque::new(), readers: Vec::new(), repair: None, asker: None }
    }
}

impl<P> ChunkState<P> {
    /// Whether there is a repair, or an update that is not staged yet: how it ends may change what is held here.
    pub(super) fn unsettled(&self) -> bool {
        let staging = matches!(&self.busy, Some(Busy::Update(update)) if update.stage.is_none());
        staging || self.repair.is_some() || self.queue.iter().any(|turn| matches!(turn, Turn::Forward(..)))
    }

    /// The update that has the turn.
    pub(super) fn update(&mut self) -> Option<&mut InFlight<P>> {
        match &mut self.busy {
            Some(Busy::Update(update)) => Some(update),
            _ => None,
        }
    }
}

/// What can have a chunk's turn.
#[derive(Clone, Hash)]
pub(super) enum Busy<P> {
    /// An update between stage and commit.
    Update(Box<InFlight<P>>),
    /// As source of a resync: the chunk is being sent, and the sink has not answered.
    Settle,
    /// As sink of a resync: the chunk is being replaced or removed.
    Install,
    /// The chunk is being repaired, and nothing else.
    Repair,
}

/// The repair of a chunk's committed version from a neighbour.
#[derive(Clone, Hash)]
pub(super) struct Repair {
    /// What is committed here: its bytes are asked for, and it stays what it is.
    pub(super) wanted: Committed,
    /// Neighbours not asked yet; the last one is next.
    pub(super) rest: Vec<TargetId>,
    pub(super) step: Step,
}

/// What a repair waits for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// The answer of a neighbour to the question of that number.
    Asking { id: u64, from: TargetId },
    /// The engine has the bytes and makes them durable.
    Installing { id: u64 },
    /// No neighbour has it: the next chain version brings others.
    Waiting,
}

/// What can wait for a chunk's turn.
#[derive(Clone, Hash)]
pub(super) enum Turn<P> {
    /// A client's update (head), with the requests that wait for it.
    Client(Box<ClientUpdate<P>>, Vec<RequestId>),
    /// A predecessor's forward, and whether its release has come too.
    Forward(Box<Forward>, Payload<P>, bool),
    /// As source: compare with what the sink said it holds, and send what differs.
    Settle(Option<ChunkMeta>),
    /// As sink: replace the chunk.
    Put(Box<SyncPut>, Payload<P>),
    /// As sink: say what differs, for the question of that number.
    Sums(u64),
    /// As sink: make a version of what is held and these parts.
    Patch(Box<SyncPatch>, Vec<Part<P>>),
    /// As sink: hold a version whose bytes nobody has.
    Lost(Box<SyncLost>),
    /// As sink: remove the chunk.
    Drop,
    /// It was found damaged.
    Repair,
}

/// An update between stage and commit at this target.
#[derive(Clone, Hash)]
pub(super) struct InFlight<P> {
    pub(super) ver: Ver,
    pub(super) tag: Tag,
    /// `None` for an update found staged by a revived member: it is never forwarded.
    pub(super) op: Option<Op>,
    pub(super) chunk_size: u32,
    /// Committed version it builds on, and its checksum; 0 if the chunk is absent.
    pub(super) base: (Ver, u32),
    /// Dropped once staged and sent on; read back from the staged chunk if it must be sent again.
    pub(super) payload: Option<Payload<P>>,
    /// Client requests to answer (head).
    pub(super) waiters: Vec<RequestId>,
    /// The newest attempt of the predecessor that was looked at.
    pub(super) pred_attempt: u64,
    /// Set once the local stage is durable.
    pub(super) stage: Option<StageInfo>,
    /// Every target upstream holds it durably.
    pub(super) released: bool,
    /// Who gets it next.
    pub(super) next: Next,
    /// Set when it is being undone: why, and which target refused it.
    pub(super) undoing: Option<(Code, TargetId)>,
    pub(super) explain: bool,
    pub(super) times: Times,
}

/// Clock readings for [`Hop`], in nanoseconds.
#[derive(Clone, Copy, Default, Hash)]
pub(super) struct Times {
    pub(super) received: Time,
    pub(super) staged: Time,
    pub(super) released: Time,
}

/// Who gets an update next; decided when its turn comes and again with every chain version.
#[derive(Clone, Hash)]
pub(super) enum Next {
    /// Nobody: this target commits first.
    Nobody,
    /// The successor, or the sink of a resync for which the chunk is settled.
    To(Hand),
}

impl Next {
    /// Whom it is handed to.
    pub(super) fn target(&self) -> Option<TargetId> {
        match self {
            Next::To(hand) => Some(hand.target),
            Next::Nobody => None,
        }
    }
}

/// The state of handing an update on.
#[derive(Clone, Hash)]
pub(super) struct Hand {
    pub(super) target: TargetId,
    /// Number of the newest forward.
    pub(super) attempt: u64,
    /// It waits for room in the window.
    pub(super) held: bool,
    /// The payload is being read back for the newest forward.
    pub(super) loading: bool,
    pub(super) release_sent: bool,
    pub(super) reply: Option<Decided>,
}

/// What a successor said when it had committed.
#[derive(Clone, Hash)]
pub(super) struct Decided {
    pub(super) checksum: u32,
    pub(super) chain_ver: u64,
    pub(super) hops: Vec<Hop>,
}
