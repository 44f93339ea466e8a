//! `catena get` and `catena cat`: objects into files, or to stdout.
//!
//! A file appears under its name only once it is complete: bytes go to a temporary file beside it first.

use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use catena_client::{GetOptions, ObjectInfo, Objects};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use super::put::{FILE_BUFFER, is_stdio, report, reporter};
use super::{Manager, runtime};
use crate::fault::{Doing, Fault, Result};
use crate::output;
use crate::units::parse_range;

/// Objects asked for in one page of a listing.
pub(crate) const PAGE: usize = 1000;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  catena get models/v1 model.safetensors\n  catena get models/v1 head.bin --range 0-4095\n  catena get -r run7/ checkpoints/\n  catena get src.tar - | tar x"
)]
pub(crate) struct Args {
    /// Name of the object; a prefix with -r
    name: String,
    /// File to write (default: the last part of the name), a directory with -r, or - for stdout
    file: Option<PathBuf>,
    /// Fetch every object whose name starts with NAME
    #[arg(short, long)]
    recursive: bool,
    /// Only these bytes, FIRST-LAST, both included
    #[arg(long, value_parser = parse_range, value_name = "FIRST-LAST", conflicts_with = "recursive")]
    range: Option<Range<u64>>,
    /// Chunks on their way at the same time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    parallel: u16,
    /// Print one line of JSON per object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  catena cat notes.txt --range 0-99")]
pub(crate) struct CatArgs {
    /// Name of the object
    name: String,
    /// Only these bytes, FIRST-LAST, both included
    #[arg(long, value_parser = parse_range, value_name = "FIRST-LAST")]
    range: Option<Range<u64>>,
    #[command(flatten)]
    manager: Manager,
}

pub(crate) fn cat(args: CatArgs) -> Result<()> {
    runtime()?.block_on(async {
        let objects = args.manager.objects().await?;
        to_stdout(&objects, &args.name, args.range, GetOptions::default()).await.map(|_| ())
    })
}

pub(crate) fn run(args: Args) -> Result<()> {
    runtime()?.block_on(get(&args))
}

async fn get(args: &Args) -> Result<()> {
    let objects = args.manager.objects().await?;
    if args.recursive {
        return get_all(args, &objects).await;
    }
    let last = args.name.rsplit('/').next().filter(|last| !last.is_empty()).map(PathBuf::from);
    let file = args.file.clone().or(last).ok_or_else(|| Fault::usage("name the file to write: catena get NAME FILE"))?;
    get_one(args, &objects, &args.name, &file).await
}

async fn get_all(args: &Args, objects: &Objects) -> Result<()> {
    let dir = args.file.as_deref().unwrap_or(Path::new("."));
    let (mut after, mut count) = (None::<String>, 0_u64);
    loop {
        let page = objects.list(&args.name, after.as_deref(), PAGE).await?;
        for object in &page.objects {
            let file = dir.join(below(&args.name, &object.name)?);
            if let Some(parent) = file.parent() {
                std::fs::create_dir_all(parent).doing(format_args!("make the directory {}", parent.display()))?;
            }
            get_one(args, objects, &object.name, &file).await?;
            count += 1;
        }
        match page.next {
            Some(next) => after = Some(next),
            None if count == 0 => return Err(Fault::not_found(format!("no object's name starts with {:?}", args.name))),
            None => return Ok(()),
        }
    }
}

/// Where an object goes below the directory: its name behind the last `/` of the prefix. A name cannot lead outside.
fn below(prefix: &str, name: &str) -> Result<PathBuf> {
    let start = prefix.rfind('/').map_or(0, |slash| slash + 1);
    let path = PathBuf::from(name[start..].trim_start_matches('/'));
    let inside = path.components().all(|c| matches!(c, Component::Normal(_))) && path.components().next().is_some();
    let trouble = || Fault::new(format!("{name:?} is no path below the directory: fetch it by itself with a file name"));
    if inside && !name.ends_with('/') { Ok(path) } else { Err(trouble()) }
}

async fn get_one(args: &Args, objects: &Objects, name: &str, file: &Path) -> Result<()> {
    let start = Instant::now();
    let mut options = GetOptions { parallel: args.parallel.into(), ..GetOptions::default() };
    let info = if is_stdio(file) {
        to_stdout(objects, name, args.range.clone(), options).await?
    } else {
        let size = objects.stat(name).await?.map_or(0, |info| info.size);
        let bar = output::progress(size, name);
        options.progress = Some(reporter(&bar));
        let info = to_file(objects, name, args.range.clone(), file, options).await;
        bar.finish_and_clear();
        info?
    };
    report(args.json && !is_stdio(file), "fetched", &info, start)
}

async fn to_stdout(objects: &Objects, name: &str, range: Option<Range<u64>>, options: GetOptions) -> Result<ObjectInfo> {
    let mut sink = tokio::io::stdout();
    let info = objects.get(name, range, &mut sink, options).await?;
    sink.flush().await.doing("write to stdout")?;
    Ok(info)
}

async fn to_file(
    objects: &Objects,
    name: &str,
    range: Option<Range<u64>>,
    file: &Path,
    options: GetOptions,
) -> Result<ObjectInfo> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".catena-partial");
    let partial = PathBuf::from(partial);
    let fetched = async {
        let mut sink = File::create(&partial).await.doing(format_args!("create {}", partial.display()))?;
        sink.set_max_buf_size(FILE_BUFFER);
        let info = objects.get(name, range, &mut sink, options).await?;
        sink.flush().await.doing(format_args!("write {}", partial.display()))?;
        std::fs::rename(&partial, file).doing(format_args!("rename {} to {}", partial.display(), file.display()))?;
        Ok(info)
    };
    let info = fetched.await;
    if info.is_err() {
        // It may not have been made; what remains would only be in the way.
        let _ = std::fs::remove_file(&partial);
    }
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_directory() {
        assert_eq!(below("run7/", "run7/a/b").ok(), Some(PathBuf::from("a/b")));
        assert_eq!(below("run7/a", "run7/a1").ok(), Some(PathBuf::from("a1")));
        assert_eq!(below("", "/etc/passwd").ok(), Some(PathBuf::from("etc/passwd")));
        for bad in ["../x", "a/../../x", "..", "a/..", "dir/", ""] {
            assert!(below("", bad).is_err(), "{bad}");
        }
    }
}
