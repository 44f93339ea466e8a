//! `catena put`: files into objects.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use catena_client::{ObjectInfo, Objects, PutOptions};
use serde_json::json;
use tokio::fs::File;

use super::{Manager, runtime};
use crate::fault::{Doing, Fault, Result};
use crate::output;
use crate::units::{bytes_short, counted, parse_chunk_size, rate, time_short};

/// Size of the pieces in which a file is read, in bytes.
pub(crate) const FILE_BUFFER: usize = 1 << 20;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  catena put model.safetensors\n  catena put model.safetensors models/v1 --chunk-size 4MiB\n  catena put -r checkpoints/ run7/\n  tar c src | catena put - src.tar"
)]
pub(crate) struct Args {
    /// File to store, a directory with -r, or - for stdin
    file: PathBuf,
    /// Name of the object (default: the file's name); a prefix with -r
    name: Option<String>,
    /// Store every file below a directory, named by its path below it
    #[arg(short, long)]
    recursive: bool,
    /// Size of the chunks the object is cut into
    #[arg(long, default_value = "1MiB", value_parser = parse_chunk_size, value_name = "BYTES")]
    chunk_size: u32,
    /// Chunks on their way at the same time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    parallel: u16,
    /// Print one line of JSON per object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

pub(crate) fn run(args: Args) -> Result<()> {
    runtime()?.block_on(put(&args))
}

async fn put(args: &Args) -> Result<()> {
    let work = plan(args)?;
    let objects = args.manager.objects().await?;
    for (file, name) in work {
        put_one(args, &objects, &file, &name).await.map_err(|fault| fault.context(format_args!("put {name:?}")))?;
    }
    Ok(())
}

/// The files to store and the names they get.
fn plan(args: &Args) -> Result<Vec<(PathBuf, String)>> {
    if args.recursive {
        let prefix = args.name.as_deref().unwrap_or("");
        let mut files = Vec::new();
        walk(&args.file, prefix, &mut files)?;
        return Ok(files);
    }
    let of_file = || args.file.file_name().and_then(|n| n.to_str()).filter(|_| !is_stdio(&args.file));
    let name = args.name.as_deref().or_else(of_file);
    let name = name.ok_or_else(|| Fault::usage("name the object: catena put - NAME"))?;
    if args.file.is_dir() {
        return Err(Fault::usage(format!("{} is a directory: add -r to store what is in it", args.file.display())));
    }
    Ok(vec![(args.file.clone(), name.to_owned())])
}

/// Regular files below `dir`, in order; links are not followed.
fn walk(dir: &Path, prefix: &str, found: &mut Vec<(PathBuf, String)>) -> Result<()> {
    let entries = std::fs::read_dir(dir).doing(format_args!("read the directory {}", dir.display()))?;
    let mut entries: Vec<_> =
        entries.collect::<std::io::Result<_>>().doing(format_args!("read the directory {}", dir.display()))?;
    entries.sort_by_key(|e| e.file_name());
    for entry in entries {
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| Fault::new(format!("{} is not UTF-8: names of objects are", path.display())))?;
        let kind = entry.file_type().doing(format_args!("look at {}", path.display()))?;
        if kind.is_dir() {
            walk(&path, &format!("{prefix}{name}/"), found)?;
        } else if kind.is_file() {
            found.push((path, format!("{prefix}{name}")));
        }
    }
    Ok(())
}

/// Whether a path stands for stdin or stdout.
pub(crate) fn is_stdio(path: &Path) -> bool {
    path == Path::new("-")
}

async fn put_one(args: &Args, objects: &Objects, file: &Path, name: &str) -> Result<()> {
    let start = Instant::now();
    let mut options = PutOptions { chunk_size: args.chunk_size, parallel: args.parallel.into(), ..PutOptions::default() };
    let info = if is_stdio(file) {
        let bar = output::progress(0, name);
        options.progress = Some(reporter(&bar));
        let info = objects.put(name, tokio::io::stdin(), options).await;
        bar.finish_and_clear();
        info?
    } else {
        let mut source = File::open(file).await.doing(format_args!("open {}", file.display()))?;
        source.set_max_buf_size(FILE_BUFFER);
        let size = source.metadata().await.doing(format_args!("look at {}", file.display()))?;
        // Other files (pipes, devices) do not know their size.
        options.size_hint = size.is_file().then_some(size.len());
        let bar = output::progress(size.len(), name);
        options.progress = Some(reporter(&bar));
        let info = objects.put(name, source, options).await;
        bar.finish_and_clear();
        info?
    };
    report(args.json, "stored", &info, start)
}

/// Moves a bar as bytes are done.
pub(crate) fn reporter(bar: &indicatif::ProgressBar) -> Arc<dyn Fn(u64) + Send + Sync> {
    let bar = bar.clone();
    Arc::new(move |done| bar.set_position(done))
}

/// The line that ends a transfer: on stderr for people, on stdout as JSON.
pub(crate) fn report(as_json: bool, done: &str, info: &ObjectInfo, start: Instant) -> Result<()> {
    let time = start.elapsed();
    if as_json {
        return output::json(&json!({
            "name": info.name, "size": info.size, "chunks": info.chunks, "chunk_size": info.chunk_size,
            "checksum": format!("{:08x}", info.checksum), "seconds": time.as_secs_f64(),
        }));
    }
    output::note(format_args!(
        "{done} {}: {} in {} of up to {}, crc32c {:08x}, {} ({})",
        info.name,
        bytes_short(info.size),
        counted(info.chunks, "chunk"),
        bytes_short(info.chunk_size),
        info.checksum,
        time_short(time),
        rate(info.size, time)
    ));
    Ok(())
}
