//! How long opening a target takes, and what a chunk costs in memory.
//!
//! A target is filled with chunks of one block under keys of 16 bytes and left as a kill would leave it; a fresh process
//! opens it and tells how long that took and how much its resident memory grew. Then it is closed and opened likewise.
//! With O_DIRECT the page cache has no part in it; elsewhere the file is dropped from it before.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use catena_arena::Arena;
use catena_engine::disk::file::{Backend, Ring};
use catena_engine::target_dir::{DATA_FILE, TargetDir};
use catena_types::ChunkStore;
use catena_types::limits::BLOCK;
use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};

use super::drive::Target;
use super::report::OpenLine;
use super::work::{Kind, Plan, Work};
use super::{Args, BUFFERS, Stop, WORKS};
use crate::fault::{Doing, Fault, Result};
use crate::output::note;
use crate::units::{grouped, median};

/// One block under every key.
const SMALL: Work = Work { name: "open", kind: Kind::New, size: BLOCK, chunk_size: BLOCK, depth: 256, ..WORKS[0] };

/// What a process tells that has opened a target.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Opened {
    pub(super) seconds: f64,
    /// Growth of its resident memory in bytes.
    pub(super) resident: u64,
    pub(super) chunks: u64,
    /// Records replayed from the journal.
    pub(super) replayed: u64,
}

/// Fills a target in `dir` and measures; prints each line at once if JSON is wanted.
pub(super) fn measure(args: &Args, dir: &Path, stop: &Stop) -> Result<Vec<OpenLine>> {
    let arena = Arena::new(BUFFERS);
    let params = args.params(args.chunks * u64::from(BLOCK) / 8 * 9 + (64 << 20));
    let open = || Target::open(dir, &params, &arena, stop);
    note(format_args!("open: making {} chunks ...", grouped(args.chunks)));
    open()?.complete(&mut Plan::new(SMALL, args.chunks, &arena))?;
    let mut lines = Vec::new();
    for after in ["kill", "close"] {
        if after == "close" {
            open()?.close()?;
        }
        let opened = (0..args.rounds).map(|_| stop.check().and_then(|()| in_a_process(dir)));
        let opened = opened.collect::<Result<Vec<_>>>()?;
        if let Some(odd) = opened.iter().find(|o| o.chunks != args.chunks) {
            return Err(Fault::new(format!("{} chunks were found where {} were made", odd.chunks, args.chunks)));
        }
        let seconds = median(opened.iter().map(|o| o.seconds));
        let line = OpenLine::new(after, seconds, median(opened.iter().map(|o| o.resident as f64)), opened[0]);
        if args.json {
            crate::output::json(&line)?;
        }
        lines.push(line);
    }
    Ok(lines)
}

/// Opens the target in a process of its own.
fn in_a_process(dir: &Path) -> Result<Opened> {
    let program = std::env::current_exe().doing("find this program")?;
    let mut command = Command::new(program);
    command.args(["bench", "engine", "--open-and-tell"]).arg(dir).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().doing("start a process that opens the target")?;
    if !output.status.success() {
        return Err(Fault::new(format!("the process that opens the target ended with {}", output.status)));
    }
    serde_json::from_slice(&output.stdout).doing("understand the process that opens the target")
}

/// What that process does.
pub(super) fn tell(dir: &Path) -> Result<()> {
    let file = dir.join(DATA_FILE);
    let dropped = File::open(&file).and_then(|file| Ok(fadvise(&file, 0, None, Advice::DontNeed)?));
    dropped.doing(format_args!("drop {} from the page cache", file.display()))?;
    let arena = Arena::new(BUFFERS);
    let ring = Ring::new(Backend::Auto, &arena).doing("start the disk's ring")?;
    let (before, start) = (resident()?, Instant::now());
    let (_dir, store) = TargetDir::open(dir, &ring, &arena).map_err(|e| Fault::new(e.to_string()))?;
    let seconds = start.elapsed().as_secs_f64();
    let resident = resident()?.saturating_sub(before);
    crate::output::json(&Opened { seconds, resident, chunks: store.space().chunks, replayed: store.recovery().replayed })
}

/// Resident memory of this process in bytes.
fn resident() -> Result<u64> {
    let path = "/proc/self/statm";
    let statm = std::fs::read_to_string(path).doing(format_args!("read {path}"))?;
    let pages: Option<u64> = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok());
    let pages = pages.ok_or_else(|| Fault::new(format!("{path} does not say how much memory is resident")))?;
    Ok(pages * rustix::param::page_size() as u64)
}
