//! The kinds of messages between replicas, counted wherever a run must have seen all of them.

use catena_wire::peer::Body;

/// What replicas say to each other.
pub(crate) const MESSAGES: [&str; 24] = [
    "Forward",
    "Release",
    "Reply",
    "Reject",
    "Query",
    "Answer",
    "Confirm",
    "SyncPage",
    "Page",
    "SyncPut",
    "SyncDrop",
    "Synced",
    "SyncSessions",
    "SyncDone",
    "SyncDoneReply",
    "Fetch",
    "Fetched",
    "SyncSums",
    "Sums",
    "SyncPart",
    "SyncPatch",
    "SyncLost",
    "Expire",
    "Credit",
];

/// Where a message is in [`MESSAGES`].
pub(crate) fn kind(body: &Body) -> usize {
    match body {
        Body::Forward(_) => 0,
        Body::Release(_) => 1,
        Body::Reply(_) => 2,
        Body::Reject(_) => 3,
        Body::Query(_) => 4,
        Body::Answer(_) => 5,
        Body::Confirm(_) => 6,
        Body::SyncPage(_) => 7,
        Body::Page(_) => 8,
        Body::SyncPut(_) => 9,
        Body::SyncDrop(_) => 10,
        Body::Synced(_) => 11,
        Body::SyncSessions(_) => 12,
        Body::SyncDone(_) => 13,
        Body::SyncDoneReply(_) => 14,
        Body::Fetch(_) => 15,
        Body::Fetched(_) => 16,
        Body::SyncSums(_) => 17,
        Body::Sums(_) => 18,
        Body::SyncPart(_) => 19,
        Body::SyncPatch(_) => 20,
        Body::SyncLost(_) => 21,
        Body::Expire(_) => 22,
        Body::Credit(_) => 23,
    }
}
