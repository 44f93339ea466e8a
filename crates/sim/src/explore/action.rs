//! What can happen next, and its name for people.

use std::fmt;

use catena_types::TargetId;

/// One event of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A client sends an update to a target.
    Submit(u8, u8),
    /// A frame of an update that was sent before arrives again.
    Copy(u8, u8),
    /// A client stops waiting for an update.
    GiveUp(u8),
    /// A client reads a chunk at a target.
    Read(u8, u8),
    /// The oldest message on a connection arrives: opener, acceptor.
    Down(u8, u8),
    /// The oldest answer on a connection arrives: opener, acceptor.
    Up(u8, u8),
    /// The second message overtakes the first.
    Overtake(u8, u8),
    /// A message of an older connection arrives: opener, acceptor.
    OldDown(u8, u8),
    /// An answer of an older connection arrives: opener, acceptor.
    OldUp(u8, u8),
    /// A connection is there: opener, acceptor.
    Connect(u8, u8),
    /// A connection is cut, and there again.
    Cut(u8, u8),
    /// The next thing becomes durable.
    Flush(u8),
    /// A read of the disk ends.
    EndRead(u8),
    /// A target learns routing.
    Learn(u8, u8),
    /// A heartbeat, and the lease for it.
    Beat(u8),
    /// The manager notices that the leases of these (a bit each) have ended.
    Miss(u8),
    /// A target whose sync failed may be tried again.
    EndBackOff(u8),
    /// A node starts, with so many of the records that were not durable.
    Start(u8, u8),
    /// A node starts with an empty disk.
    Swap(u8),
    /// A node dies.
    Crash(u8),
    /// All nodes die.
    Power,
    /// A node is told to stop.
    Stop(u8),
    /// A node that was told to stop ends.
    End(u8),
    /// A lease runs out.
    LoseLease(u8),
}

impl Action {
    /// Whether it is something that goes wrong, and so is limited by the plan.
    pub(super) fn is_fault(self) -> bool {
        use Action::*;
        matches!(
            self,
            Copy(..) | GiveUp(_) | Read(..) | Overtake(..) | Cut(..) | Swap(_) | Crash(_) | Power | Stop(_) | LoseLease(_)
        )
    }
}

/// An action, and whether the disk it meets is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) action: Action,
    pub(super) full: bool,
    /// A client that need not send now does.
    pub(super) resend: bool,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Action::*;
        match self.action {
            Submit(u, t) => write!(f, "client sends update {u} to t{t}")?,
            Copy(u, n) => write!(f, "copy {n} of update {u} arrives late")?,
            GiveUp(u) => write!(f, "client gives up on update {u}")?,
            Read(c, t) => write!(f, "client reads chunk {c} at t{t}")?,
            Down(a, b) => write!(f, "t{a} → t{b}")?,
            Up(a, b) => write!(f, "t{b} → t{a}")?,
            Overtake(a, b) => write!(f, "t{a} → t{b}, overtaking")?,
            OldDown(a, b) => write!(f, "t{a} → t{b} on an older connection")?,
            OldUp(a, b) => write!(f, "t{b} → t{a} on an older connection")?,
            Connect(a, b) => write!(f, "t{a} is connected to t{b}")?,
            Cut(a, b) => write!(f, "the connection of t{a} to t{b} is cut and there again")?,
            Flush(t) => write!(f, "t{t}: the next operation is durable")?,
            EndRead(t) => write!(f, "t{t}: a read of the disk ends")?,
            Learn(t, v) => write!(f, "t{t} learns routing {v}")?,
            Beat(t) => write!(f, "t{t} is heard by the manager")?,
            Miss(mask) => write!(f, "the manager finds silent: {}", names(mask))?,
            EndBackOff(t) => write!(f, "t{t} may be synced again")?,
            Start(t, kept) => write!(f, "t{t} starts; of its loose records {kept} were kept")?,
            Swap(t) => write!(f, "t{t} starts with an empty disk")?,
            Crash(t) => write!(f, "t{t} dies")?,
            Power => write!(f, "power cut")?,
            End(t) => write!(f, "t{t} ends")?,
            Stop(t) => write!(f, "t{t} is told to stop")?,
            LoseLease(t) => write!(f, "the lease of t{t} ends")?,
        }
        let notes = [(self.full, ", whose disk is full"), (self.resend, ", although an answer may come")];
        notes.iter().filter(|(on, _)| *on).try_for_each(|(_, text)| f.write_str(text))
    }
}

/// Targets of a mask.
pub(super) fn targets(mask: u8) -> impl Iterator<Item = TargetId> {
    (0..8).filter(move |bit| mask & (1 << bit) != 0).map(|bit| bit + 1)
}

fn names(mask: u8) -> String {
    targets(mask).map(|t| format!("t{t}")).collect::<Vec<_>>().join(", ")
}
