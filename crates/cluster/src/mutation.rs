//! Rules of the manager that can be switched off one at a time: the simulator must notice each.
#![cfg_attr(not(feature = "mutations"), allow(dead_code, unreachable_pub))]

catena_types::mutations! {
    /// `chain`: UP_TO_DATE about any chain version promotes.
    UpToDateAnyVersion,
    /// `chain`: a sink is promoted without having said UP_TO_DATE.
    PromoteUnsynced,
    /// `chain`: a chosen member serves before it has opened under the version that chose it.
    ChosenServesAtOnce,
    /// `chain`: any former member may revive a chain.
    ReviveAnyone,
    /// `chain`: members are removed one by one, although the others are silent.
    OneByOne,
    /// `chain`: when no SERVING member remains, one of them becomes the last serving set.
    LastServingOne,
    /// `chain`: a second sync starts beside the first.
    TwoSyncing,
    /// `chain`: what must hold of a chain is not checked after a step.
    UncheckedChain,
    /// `chain`: the chain version does not grow.
    KeepVersion,
    /// `chain`: a target may see versions in a chain that it has seen in the one it was in before.
    SameVersions,
    /// `chain`: a member on its way out goes before the chain is full without it.
    DepartEarly,
    /// `chain`: a member on its way out goes although it still serves.
    DepartServing,
    /// `mod`: a new manager starts with routing of an older version.
    VersionBack,
    /// `mod`: a new manager does not wait until the leases it knows nothing of have ended.
    NoWait,
    /// `state`: clocks do not drift.
    NoMargin,
    /// `hearing`: silent targets are out when half of their lease has passed.
    RemoveEarly,
    /// `hearing`: a target that lost its memory keeps its place.
    KeepMemoryless,
    /// `hearing`: a member that others cannot reach is out at once, although its lease may run.
    CutOffAtOnce,
    /// `hearing`: a report counts for whatever chain the target is in now.
    ReportOfAnyChain,
    /// `heartbeat`: a target that lost its memory gets a lease before its removal.
    GrantBeforeRemoval,
    /// `heartbeat`: a heartbeat counts that is older than the last.
    OldHeartbeats,
    /// `heartbeat`: a heartbeat counts that is about an earlier opening of a target than the one that is stored.
    EarlierOpenings,
    /// `heartbeat`: a member on its way out goes on getting leases.
    GrantToLeaving,
    /// `moves`: a target that is out for too long is not replaced.
    NeverReplace,
    /// `primary`: a lease beside the store rests not on what is on its way there.
    ForgetComing,
    /// `primary`: a target whose place changes gets a lease beside the store.
    LeaseTheChanging,
    /// `primary`: leases are given when the term has ended.
    OutliveTerm,
    /// `register`: an empty disk is taken for the one it replaces.
    AnyDisk,
    /// `register`: a copy of a target is taken for the target itself, and its lock for the lock of that.
    AnyCopy,
}
