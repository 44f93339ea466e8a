//! Rules of the protocol that can be switched off one at a time: the simulator must notice each.
#![cfg_attr(not(feature = "mutations"), allow(dead_code, unreachable_pub))]

catena_types::mutations! {
    /// `mod`: requests of another chain version are served.
    AnyVersion,
    /// `mod`: messages of an older chain version are acted on.
    OlderMessages,
    /// `mod`: messages of a newer chain version are acted on before it is adopted.
    NewerMessages,
    /// `mod`: a message of another chain is taken for one of the chain this target is in.
    OtherChains,
    /// `mod`: a lease that has ended is good.
    IgnoreLease,
    /// `mod`: a lease is good with routing older than the one it was granted at.
    LeaseAnyRouting,
    /// `mod`: a target that has joined serves before it is confirmed.
    ServeUnconfirmed,
    /// `mod`: nothing is sent again on a new link.
    NotAgainOnLink,
    /// `adopt`: an older chain version is adopted.
    AdoptOlder,
    /// `adopt`: reads are served under a new chain version before the tail rule has been applied.
    ReadsBeforeTailRule,
    /// `adopt`: updates in flight are not forwarded again to a successor that stays the same.
    NotAgainToSame,
    /// `adopt`: releases are dropped with the chain version under which they came.
    DropReleases,
    /// `adopt`: a target that leaves the serving members keeps its updates in flight and their releases.
    KeepInFlight,
    /// `adopt`: releases got as a sink are good after joining.
    KeepSinkReleases,
    /// `adopt`: a target that joins drives on what it finds staged, as if it were revived.
    RollLeftovers,
    /// `adopt`: a revived member rolls staged updates back.
    RollBack,
    /// `adopt`: a target that stands down answers updates in flight with a redirect.
    RedirectInFlight,
    /// `adopt`: a sink stays up to date under the next chain version.
    StayUpToDate,
    /// `update`: preconditions are judged on receipt.
    JudgeOnReceipt,
    /// `update`: a chunk made anew starts at version 1.
    VersionsRepeat,
    /// `sessions`: a committed update is not recognized.
    ForgetCommits,
    /// `sessions`: a rejected update is not recognized.
    ForgetRejects,
    /// `sessions`: an update is taken although its session has moved on.
    TakeStale,
    /// `forward`: nothing waits for a release.
    NoReleaseWait,
    /// `forward`: the release goes out with the forward.
    ReleaseEarly,
    /// `forward`: an update that is sent again is not released again.
    ReleaseOnce,
    /// `forward`: an update sent again keeps the number of its first attempt.
    EchoFirstAttempt,
    /// `forward`: a release that comes before the turn of its update is forgotten.
    ForgetEarlyRelease,
    /// `forward`: payload that was staged or answered still fills the window.
    KeepRoom,
    /// `forward`: what a successor says it has staged is not heard.
    IgnoreCredit,
    /// `forward`: what an update builds on is not compared.
    AnyBase,
    /// `forward`: a target that had committed answers with its present chain version.
    PresentChainVer,
    /// `forward`: a Remove that was committed here is not recognized.
    ForgetRemoves,
    /// `forward`: the sink of a resync gets no updates.
    SkipSink,
    /// `commit`: the tail commits what was not released.
    TailUnreleased,
    /// `commit`: a target commits without the reply of its successor.
    CommitAlone,
    /// `commit`: a target records its own chain version.
    OwnChainVer,
    /// `commit`: a reply counts for an update that was not released to the one who sends it.
    ReplyUnreleased,
    /// `reject`: a reject of an older attempt counts.
    AnyAttempt,
    /// `reject`: a reject moves up before the update is undone durably.
    UnstageNotDurable,
    /// `read`: a chunk with an update in flight is served as committed here.
    ReadPendingOld,
    /// `read`: a chunk with an update in flight is served as staged here.
    ReadPendingNew,
    /// `mod`: the tail answers queries without a lease.
    AnswerUnleased,
    /// `read`: whoever is asked for a version answers.
    AnswerAnyone,
    /// `read`: questions asked under an older chain version stay open.
    KeepQuestions,
    /// `read`: an answer that fits nothing here is taken for the committed version.
    AnyAnswer,
    /// `read`: a target that is not confirmed confirms its successor.
    ConfirmUnconfirmed,
    /// `read`: every SERVING target gives listings.
    ListAnywhere,
    /// `sink`: the first page is answered while IO of the time before is in flight.
    NotQuiet,
    /// `sink`: a chunk is reported as taken before it is durable.
    SyncedEarly,
    /// `sink`: up to date before everything is durable.
    DoneEarly,
    /// `sink`: session rows of the time before are kept.
    KeepOldRows,
    /// `sink`: the highest version removed is not taken over.
    ForgetFloor,
    /// `difference`: the last part that differs is not sent.
    SkipPart,
    /// `expiry`: sessions that are in use expire, too.
    ExpireUsed,
    /// `source`: session rows are not sent.
    LoseRows,
    /// `source`: chunks are compared when the page comes, not in their turn.
    CompareOutsideTurn,
    /// `source`: chunks of equal version are taken for equal.
    CompareVersions,
    /// `source`: a staged update at the sink is not looked at.
    IgnoreSinkStaged,
    /// `source`: the key at the end of a page is passed over.
    CursorOff,
    /// `source`: what only the sink has stays there.
    KeepExtra,
    /// `source`: settled keys of the page at the cursor are not forwarded.
    SettledNotForwarded,
    /// `source`: acts as tail again after SyncDone.
    DoneNotForwarded,
    /// `source`: gives up after SyncDone when the sink rejects.
    GiveUpAfterDone,
    /// `source`: starts again after SyncDone when the link is new.
    RestartAfterDone,
    /// `source`: a chunk that cannot be read is passed over.
    SkipUnreadable,
    /// `repair`: a neighbour gives whatever version it has.
    FetchAny,
    /// `repair`: whatever a neighbour gives is taken.
    TakeAny,
}
