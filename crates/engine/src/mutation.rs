//! Rules of the engine that can be switched off one at a time: its tests must notice each, for a test that never failed
//! proves nothing. Each breaks one rule that the module named in its text must keep.

catena_types::mutations! {
    /// `store`: freed blocks are used again before the record that frees them is durable.
    FreeBeforeDurable,
    /// `store`: freed blocks are used again while a reader has them.
    FreeUnderReaders,
    /// `group`: a group is reported without its flush.
    SkipFlush,
    /// `group`: a group does not wait for its data writes.
    FlushBeforeData,
    /// `group`: the flush does not wait for the append.
    FlushBeforeAppend,
    /// `group`: a stage is reported when its record has a number.
    ReportEarly,
    /// `read`: blocks are not compared with their checksums.
    SkipChecksum,
    /// `stage`: blocks that are merged are not compared with their checksums.
    MergeUnverified,
    /// `stage`: the rest of a cut block is not zeroed.
    KeepCutBytes,
    /// `patch`: a version made from parts is taken although its checksum is not the one wanted.
    AnyPatch,
    /// `recover`: the data of records that were not known durable is not looked at.
    TrustTail,
    /// `recover`: what was kept is not flushed before the target is used.
    SkipFlushAtOpen,
    /// `recover`: an append with dropped records is not written again.
    KeepDroppedTail,
    /// `recover`: a commit leaves no session row.
    LoseSession,
    /// `checkpoint`: the superblock is written without a flush behind the slices.
    CheckpointUnflushed,
    /// `checkpoint`: journal space is free before the superblock is durable.
    FreeJournalEarly,
    /// `checkpoint`: leaves only the old checkpoint names are used again before the superblock is durable.
    FreeLeavesEarly,
    /// `checkpoint`: changed pages of the checksum table are not written.
    SkipTablePages,
    /// `format`: a checksum that the table does not know counts as 0.
    UnknownIsZero,
    /// `stage`: the checksums that came with a payload are those of the blocks it is written to, wherever it begins.
    AnySums,
    /// `checkpoint`: both copies of the superblock are written at once.
    BothSuperblocks,
    /// `checkpoint`: staged updates are left out.
    ForgetStaged,
    /// `in_place`: bytes go to their place before the commit is durable.
    ApplyEarly,
    /// `in_place`: bytes go to their place before the medium says that the commit is durable.
    ApplyUnsaid,
    /// `in_place`: bytes go to their place under readers of the old version.
    ApplyUnderReaders,
    /// `in_place`: blocks that are given up are written to at once.
    SkipGuard,
    /// `in_place`: a checkpoint leaves out bytes that are not at their place.
    ForgetRedo,
    /// `in_place`: overwritten blocks are written to their place at once.
    OverwriteInPlace,
    /// `prepare`: blocks that zeroes are on their way to are given out.
    PrepareUnheld,
    /// `format`: parity blocks are left empty.
    SkipParity,
}
