//! `catena chunk`: single chunks, for diagnosis and for scripts.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use catena_client::{ChunkStat, Client, DEFAULT_CHUNK_SIZE, ReadOptions, UpdateKind, UpdateOptions, Updated};
use catena_types::limits::{MAX_CHUNK, MAX_KEY};
use catena_types::{ChunkKey, Precondition};
use clap::Subcommand;
use serde_json::{Value, json};

use super::put::is_stdio;
use super::{Manager, runtime};
use crate::explain;
use crate::fault::{Doing, Fault, Result};
use crate::output::{self, say};
use crate::replicas::{self, Replica};
use crate::units::{parse_bytes, parse_chunk_size, time_short};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write bytes at an offset
    #[command(
        after_help = "Examples:\n  catena chunk write greeting --data hello --explain\n  catena chunk write greeting --offset 5 --data ' world'\n  catena chunk write block7 --file block7.bin --chunk-size 64KiB --if-absent"
    )]
    Write(WriteArgs),
    /// Read bytes to stdout; what is known of them goes to stderr
    #[command(after_help = "Examples:\n  catena chunk read greeting\n  catena chunk read greeting --offset 6 --len 5 --target 3")]
    Read(ReadArgs),
    /// Set the length, cutting or zero-filling
    #[command(after_help = "Example:\n  catena chunk truncate greeting 5 --if-version 2")]
    Truncate(ResizeArgs),
    /// Grow the length with zeroes; never shortens
    #[command(after_help = "Example:\n  catena chunk extend greeting 64KiB")]
    Extend(ResizeArgs),
    /// Make the chunk absent
    #[command(after_help = "Example:\n  catena chunk remove greeting --if-exists")]
    Remove(RemoveArgs),
    /// Version, length and checksum; with --all at every replica, which fails if they differ
    #[command(after_help = "Examples:\n  catena chunk stat greeting\n  catena chunk stat greeting --all")]
    Stat(StatArgs),
}

/// What every update takes.
#[derive(Debug, clap::Args)]
struct Update {
    /// Key of the chunk: text, with \xNN for other bytes
    #[arg(value_parser = parse_key)]
    key: ChunkKey,
    /// Chunk size; fixed when the chunk is made, compared afterwards
    #[arg(long, default_value_t = DEFAULT_CHUNK_SIZE, value_parser = parse_chunk_size, value_name = "BYTES")]
    chunk_size: u32,
    /// Only if the chunk does not exist
    #[arg(long, group = "condition")]
    if_absent: bool,
    /// Only if the chunk exists
    #[arg(long, group = "condition")]
    if_exists: bool,
    /// Only if the chunk has this version
    #[arg(long, group = "condition", value_name = "VERSION")]
    if_version: Option<u64>,
    /// Show what every replica did, and when
    #[arg(long)]
    explain: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

#[derive(Debug, clap::Args)]
struct WriteArgs {
    #[command(flatten)]
    update: Update,
    /// First byte written
    #[arg(long, default_value = "0", value_parser = parse_bytes, value_name = "BYTES")]
    offset: u64,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// The bytes, as text
    #[arg(long)]
    data: Option<String>,
    /// A file with the bytes, or - for stdin
    #[arg(long)]
    file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct ResizeArgs {
    #[command(flatten)]
    update: Update,
    /// New length
    #[arg(value_parser = parse_bytes, value_name = "BYTES")]
    len: u64,
}

#[derive(Debug, clap::Args)]
struct RemoveArgs {
    #[command(flatten)]
    update: Update,
}

#[derive(Debug, clap::Args)]
struct ReadArgs {
    /// Key of the chunk: text, with \xNN for other bytes
    #[arg(value_parser = parse_key)]
    key: ChunkKey,
    /// First byte
    #[arg(long, default_value = "0", value_parser = parse_bytes, value_name = "BYTES")]
    offset: u64,
    /// Bytes wanted (default: to the end)
    #[arg(long, value_parser = parse_bytes, value_name = "BYTES")]
    len: Option<u64>,
    /// Ask this replica, by target id (default: any that serves)
    #[arg(long, value_name = "ID")]
    target: Option<u32>,
    /// The newest version the replica has will do, committed or not
    #[arg(long)]
    relaxed: bool,
    /// Print what is known of the bytes as one line of JSON, and not the bytes
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

#[derive(Debug, clap::Args)]
struct StatArgs {
    /// Key of the chunk: text, with \xNN for other bytes
    #[arg(value_parser = parse_key)]
    key: ChunkKey,
    /// Ask every replica and compare
    #[arg(long)]
    all: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

pub(crate) fn run(args: Args) -> Result<()> {
    runtime()?.block_on(async {
        match args.command {
            Command::Write(args) => write(args).await,
            Command::Read(args) => read(args).await,
            Command::Truncate(args) => {
                let len = small(args.len, "length")?;
                update(args.update, UpdateKind::Truncate { len }).await
            }
            Command::Extend(args) => {
                let len = small(args.len, "length")?;
                update(args.update, UpdateKind::Extend { len }).await
            }
            Command::Remove(args) => update(args.update, UpdateKind::Remove).await,
            Command::Stat(args) if args.all => stat_all(args).await,
            Command::Stat(args) => stat(args).await,
        }
    })
}

/// A key as it is printed: printable ASCII as it is, `\n`, `\r`, `\t`, `\\`, `\'`, `\"`, `\xNN`; other text as UTF-8.
pub(super) fn parse_key(text: &str) -> std::result::Result<ChunkKey, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        bytes.push(match chars.next() {
            Some('n') => b'\n',
            Some('r') => b'\r',
            Some('t') => b'\t',
            Some(c @ ('\\' | '\'' | '"')) => c as u8,
            Some('x') => {
                let digits: String = chars.by_ref().take(2).collect();
                let byte = (digits.len() == 2).then(|| u8::from_str_radix(&digits, 16).ok()).flatten();
                // `from_str_radix` would also take a sign.
                let byte = byte.filter(|_| digits.bytes().all(|b| b.is_ascii_hexdigit()));
                byte.ok_or_else(|| format!("\\x{digits} is not a byte: write \\x00 to \\xff"))?
            }
            _ => return Err("a backslash starts \\xNN, \\n, \\r, \\t or \\\\".to_owned()),
        });
    }
    ChunkKey::new(&bytes).ok_or_else(|| format!("a key has 1 to {MAX_KEY} bytes, this one {}", bytes.len()))
}

/// A position within a chunk.
fn small(n: u64, what: &str) -> Result<u32> {
    let fits = u32::try_from(n).ok().filter(|&n| n <= MAX_CHUNK);
    fits.ok_or_else(|| Fault::usage(format!("{what} {n} is more than the largest chunk has ({MAX_CHUNK} bytes)")))
}

impl Update {
    fn options(&self) -> UpdateOptions {
        let precondition = match (self.if_absent, self.if_exists, self.if_version) {
            (true, _, _) => Precondition::Absent,
            (_, true, _) => Precondition::Exists,
            (_, _, Some(version)) => Precondition::Version(version),
            _ => Precondition::Any,
        };
        UpdateOptions { chunk_size: self.chunk_size, precondition, explain: self.explain, deadline: None }
    }
}

impl Source {
    fn bytes(&self) -> Result<Bytes> {
        let Some(path) = &self.file else { return Ok(self.data.clone().unwrap_or_default().into()) };
        let mut bytes = Vec::new();
        let limit = u64::from(MAX_CHUNK) + 1;
        let read = if is_stdio(path) {
            std::io::stdin().take(limit).read_to_end(&mut bytes)
        } else {
            std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
        };
        read.doing(format_args!("read {}", path.display()))?;
        small(bytes.len() as u64, "length")?;
        Ok(bytes.into())
    }
}

async fn write(args: WriteArgs) -> Result<()> {
    let offset = small(args.offset, "offset")?;
    let data = args.source.bytes()?;
    update(args.update, UpdateKind::Write { offset, data }).await
}

async fn update(args: Update, kind: UpdateKind) -> Result<()> {
    let client = args.manager.client().await?;
    let start = Instant::now();
    let updated = client.update(args.key.as_bytes(), kind, &args.options()).await?;
    let time = start.elapsed();
    if args.json {
        return output::json(&updated_json(&client, &args, &updated, time.as_micros() as u64));
    }
    say!(
        "committed {}: version {}, {} bytes, crc32c {:08x}, chain {} (version {}), {}",
        args.key,
        updated.ver,
        updated.len,
        updated.checksum,
        updated.chain,
        updated.chain_ver,
        time_short(time)
    );
    if args.explain {
        explain::show(&updated, &client.routing(), "  ");
        say!("  in the logs, if they follow updates (--log catena::update=debug): trace {:016x}", updated.trace);
    }
    Ok(())
}

fn updated_json(client: &Client, args: &Update, updated: &Updated, micros: u64) -> Value {
    let mut value = json!({
        "key": args.key.to_string(), "ver": updated.ver, "len": updated.len,
        "checksum": format!("{:08x}", updated.checksum), "chain": updated.chain, "chain_ver": updated.chain_ver,
        "attempts": updated.attempts, "micros": micros, "trace": format!("{:016x}", updated.trace),
    });
    if args.explain {
        value["explain"] = explain::to_json(updated, &client.routing());
    }
    value
}

async fn read(args: ReadArgs) -> Result<()> {
    let offset = small(args.offset, "offset")?;
    let len = small(args.len.unwrap_or(u64::from(MAX_CHUNK - offset)), "length")?;
    let client = args.manager.client().await?;
    let options = ReadOptions { target: args.target, relaxed: args.relaxed, deadline: None };
    let read = client.read(args.key.as_bytes(), offset, len, &options).await?;
    if args.json {
        return output::json(&json!({
            "key": args.key.to_string(), "offset": offset, "bytes": read.data.len(), "ver": read.ver,
            "len": read.chunk_len, "chunk_size": read.chunk_size, "checksum": format!("{:08x}", read.checksum),
            "chain_ver": read.chain_ver, "target": read.target, "staged": read.staged, "asked_tail": read.asked_tail,
        }));
    }
    let mut out = std::io::stdout().lock();
    out.write_all(&read.data).and_then(|()| out.flush()).unwrap_or_else(|e| output::stdout_failed(&e));
    output::note(format_args!(
        "{} of {} bytes, version {}{}, crc32c of the chunk {:08x}, from target {}{}",
        read.data.len(),
        read.chunk_len,
        read.ver,
        if read.staged { " (staged)" } else { "" },
        read.checksum,
        read.target,
        if read.asked_tail { ", which asked the tail" } else { "" }
    ));
    Ok(())
}

async fn stat(args: StatArgs) -> Result<()> {
    let client = args.manager.client().await?;
    let stat = client.stat(args.key.as_bytes()).await?;
    let stat: ChunkStat = stat.ok_or_else(|| Fault::not_found(format!("there is no chunk {}", args.key)))?;
    let chain = client.chain_of(args.key.as_bytes());
    if args.json {
        return output::json(&json!({
            "key": args.key.to_string(), "ver": stat.ver, "len": stat.len, "chunk_size": stat.chunk_size,
            "checksum": format!("{:08x}", stat.checksum), "chain": chain, "chain_ver": stat.chain_ver,
        }));
    }
    say!(
        "{}: version {}, {} of {} bytes, crc32c {:08x}, chain {} (committed under version {})",
        args.key,
        stat.ver,
        stat.len,
        stat.chunk_size,
        stat.checksum,
        chain.map_or("-".to_owned(), |c| c.to_string()),
        stat.chain_ver
    );
    Ok(())
}

async fn stat_all(args: StatArgs) -> Result<()> {
    let client = args.manager.client().await?;
    let replicas = replicas::ask(&client, &args.key).await;
    match args.json {
        true => output::json(&json!({
            "key": args.key.to_string(), "equal": replicas::equal(&replicas),
            "replicas": replicas.iter().map(Replica::to_json).collect::<Vec<_>>(),
        }))?,
        false => replicas::show(&replicas),
    }
    if !replicas::equal(&replicas) {
        return Err(Fault::new("the serving replicas are not equal, or not all of them answered: see `catena status`"));
    }
    if replicas.iter().all(|r| r.committed().is_none()) {
        return Err(Fault::not_found(format!("there is no chunk {}", args.key)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_typed_as_they_are_printed() {
        for bytes in [&b"plain/key"[..], b"\x00\xff\n\t\\'\"", "schl\u{fc}ssel".as_bytes()] {
            let key = ChunkKey::new(bytes).unwrap();
            assert_eq!(parse_key(&key.to_string()), Ok(key));
        }
        for bad in ["", "\\", "\\x1", "\\x+f", "\\xzz", "\\q"] {
            assert!(parse_key(bad).is_err(), "{bad:?}");
        }
        assert!(parse_key(&"k".repeat(256)).is_err());
    }
}
