//! What a long run must have seen at least once: a fault, code or rule that never occurs is not tested by it.
//!
//! Not in the list, because no correct peer or client brings them about, or because they arise outside of what the
//! simulator runs: `Busy`, `UnknownChain`, `PayloadCorrupt`, `Malformed`, `WrongProtocol` and `Io` (a node's links and
//! admission), `WrongCluster`, `SessionUnknown`, `counter divergences` and `counter protocol_errors` (findings here).

use super::Coverage;
use super::faults::KINDS;

/// Runs of so many seeds and more must have seen everything.
pub const ENOUGH_SEEDS: u64 = 1000;

const CODES: &[&str] = &[
    "InvalidArgument",
    "NotFound",
    "PreconditionFailed",
    "NoSpace",
    "ReadOnly",
    "WrongChainVersion",
    "NotHead",
    "NotServing",
    "LeaseExpired",
    "OutcomeUnknown",
    "StaleRequest",
    "Timeout",
    "Corrupt",
];

const COUNTERS: &[&str] = &[
    "commits",
    "rejects",
    "stale_rejects",
    "forwards",
    "reforwards",
    "clean_reads",
    "asked_reads",
    "answers",
    "dropped_versions",
    "repeats",
    "rolled_forward",
    "sync_puts",
    "sync_drops",
    "sync_equal",
    "damaged",
    "repairs",
    "unrepaired",
    "restaged",
    "fetches_served",
];

const MOVES: &[&str] = &[
    "LastSrv to Offline",
    "LastSrv to Serving",
    "LastSrv to Syncing",
    "LastSrv to Waiting",
    "Offline to Syncing",
    "Offline to Waiting",
    "Serving to LastSrv",
    "Serving to Offline",
    "Serving to Syncing",
    "Serving to Waiting",
    "Syncing to Offline",
    "Syncing to Serving",
    "Syncing to Waiting",
    "Waiting to Offline",
    "Waiting to Syncing",
];

/// What clients did and heard, what the network did, which steps were struck, and what else proves a rule at work.
const OTHERS: &[&str] = &[
    "op updated",
    "op read",
    "op relaxed read",
    "op list",
    "op absent",
    "op precondition failed",
    "op rejected",
    "op unknown",
    "fault request lost",
    "fault request stalled",
    "fault request misdirected",
    "fault answer lost",
    "fault link break at a frame",
    "fault at a SyncDone",
    "fault at a Reject",
    "fault at a Release",
    "fault at a Reply",
    "fault at a Confirm",
    "fault at a Refusal",
    "frame fenced",
    "lease granted",
    "lease withheld",
    "lease granted beside the store",
    "lease withheld from a target whose place changes",
    "neighbour reported as unreachable",
    "write of an earlier term refused",
    "routing delta applied",
    "heartbeat NotPrimary",
    "heartbeat NotFound",
    "register InvalidArgument",
    "command reopen",
    "operator taken",
    "operator refused",
    "disk lost for good",
    "node lost for good",
    "member departed",
    "rot while open",
    "rot while closed",
    "rot found by the scrub",
    "rule all of a last serving set at once",
    "rule a sink that joins is equal",
    "rule copies of disks looked at after a power cut",
    "rule a last serving set ends with its chosen member",
];

impl Coverage {
    /// What of it never happened.
    pub fn missing(&self) -> Vec<String> {
        let named = |prefix: &'static str, names: &[&'static str]| -> Vec<String> {
            names.iter().map(|name| format!("{prefix}{name}")).collect()
        };
        let all = [
            named("code ", CODES),
            named("counter ", COUNTERS),
            named("move ", MOVES),
            named("", OTHERS),
            named("fault ", &KINDS),
        ];
        all.concat().into_iter().filter(|name| self.get(name) == 0).collect()
    }
}
