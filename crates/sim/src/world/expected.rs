//! What a long run must have seen at least once: a fault, code or rule that never occurs is not tested by it.
//!
//! Codes, counters, messages and promises are all those there are, but for those that are named here with the reason.

use catena_chain::Counters;
use catena_types::Code;

use super::faults::KINDS;
use super::{Coverage, Rule};
use crate::messages::MESSAGES;

/// Runs of so many seeds and more must have seen everything.
pub const ENOUGH_SEEDS: u64 = 1000;

/// Codes that do not occur here: links and admission are the node's, which is not run; its own tests bring them about.
const CODES_ELSEWHERE: [Code; 9] = [
    Code::Ok,
    Code::PayloadCorrupt,
    Code::UnknownChain,
    Code::Busy,
    Code::WrongCluster,
    Code::WrongProtocol,
    Code::Malformed,
    Code::NotAuthorized,
    Code::Io,
];

/// Counters that are findings here: [`super::Rule::Peers`] is broken by one, and replicas that differ by the other.
const FINDINGS: [&str; 2] = ["protocol_errors", "divergences"];

/// Error codes, as whoever was answered counted them.
fn codes() -> impl Iterator<Item = String> {
    let all = (0..i32::from(u8::MAX)).filter_map(|n| Code::try_from(n).ok());
    all.filter(|code| !CODES_ELSEWHERE.contains(code)).map(|code| format!("code {code:?}"))
}

/// Every counter of a replica.
fn counters() -> impl Iterator<Item = String> {
    let all = Counters::default().named().into_iter().map(|(name, _)| name);
    all.filter(|name| !FINDINGS.contains(name)).map(|name| format!("counter {name}"))
}

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
    "fault at a join",
    "fault at a reopening",
    "fault at a reopening and another manager",
    "fault join slow",
    "fault refusal late",
    "frame fenced",
    "lease granted",
    "lease withheld",
    "lease granted beside the store",
    "lease withheld from a target whose place changes",
    "neighbour reported as unreachable",
    "write of an earlier term refused",
    "routing delta applied",
    "routing delta refused",
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
            codes().collect(),
            counters().collect(),
            named("move ", MOVES),
            named("", OTHERS),
            named("fault ", &KINDS),
            named("message ", &MESSAGES),
            Rule::ALL.iter().map(|rule| format!("checked {rule}")).collect(),
        ];
        all.concat().into_iter().filter(|name| self.get(name) == 0).collect()
    }
}
