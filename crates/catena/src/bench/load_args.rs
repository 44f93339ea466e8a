//! The options that say what a load does.

use std::time::Duration;

use catena_types::limits::{BLOCK, MAX_CHUNK};

use super::Workload;
use super::load::Load;
use crate::fault::{Fault, Result};
use crate::units::{parse_bytes, parse_chunk_size, parse_duration};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// What is done
    #[arg(value_enum, default_value_t = Workload::Write)]
    workload: Workload,
    /// Bytes per operation; several with commas between
    #[arg(long, value_delimiter = ',', default_value = "4KiB,64KiB,1MiB", value_parser = parse_bytes, value_name = "BYTES")]
    size: Vec<u64>,
    /// Operations in flight per client; several with commas between
    #[arg(long, value_delimiter = ',', default_value = "16", value_parser = clap::value_parser!(u32).range(1..=4096))]
    depth: Vec<u32>,
    /// Clients, each with a thread and connections of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    clients: u32,
    /// Measured time of a round; a fifth of it is run before and not counted
    #[arg(long, default_value = "3s", value_parser = parse_duration, value_name = "DURATION")]
    duration: Duration,
    /// Operations per second to send, over all clients (default: the next one when one ends)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Write and read within larger chunks, at random blocks
    #[arg(long)]
    overwrite: bool,
    /// Chunk size (default: the operation's size, or 1MiB with --overwrite)
    #[arg(long, value_parser = parse_chunk_size, value_name = "BYTES")]
    chunk_size: Option<u32>,
    /// Bytes of chunks the operations are spread over
    #[arg(long, default_value = "512MiB", value_parser = parse_bytes, value_name = "BYTES")]
    working_set: u64,
}

impl LoadArgs {
    /// One load per size and depth, checked.
    pub(super) fn loads(&self) -> Result<Vec<Load>> {
        let each = self.size.iter().flat_map(|&size| self.depth.iter().map(move |&depth| self.load(size, depth)));
        each.collect()
    }

    /// Whether operations are sent on a schedule.
    pub(super) fn has_rate(&self) -> bool {
        self.rate.is_some()
    }

    fn load(&self, size: u64, depth: u32) -> Result<Load> {
        let fits = u32::try_from(size).ok().filter(|&s| s > 0 && s <= MAX_CHUNK);
        let size = fits.ok_or_else(|| Fault::usage(format!("--size {size}: an operation has 1 to {MAX_CHUNK} bytes")))?;
        let least = size.next_multiple_of(BLOCK);
        let default = if self.overwrite { least.max(1 << 20) } else { least };
        let chunk_size = self.chunk_size.unwrap_or(default);
        if chunk_size < size {
            return Err(Fault::usage(format!("--chunk-size {chunk_size} is smaller than --size {size}")));
        }
        let chunks = self.working_set / u64::from(chunk_size);
        Ok(Load {
            workload: self.workload,
            size,
            chunk_size,
            overwrite: self.overwrite,
            chunks: chunks.clamp(1, 1 << 20),
            depth,
            clients: self.clients,
            rate: self.rate,
            duration: self.duration,
        })
    }
}
