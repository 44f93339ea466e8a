//! The tour's end: a large real file of this machine, stored as an object and read back byte for byte.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use catena_client::{GetOptions, PutOptions};
use catena_types::crc;
use tokio::io::AsyncWrite;

use super::Tour;
use crate::fault::{Doing, Result};
use crate::output::say;
use crate::units::{bytes_short, grouped, rate, time_short};

/// Chunk size of the large object in bytes.
const LARGE_CHUNK: u32 = 1 << 20;
/// Sizes looked for, in bytes.
const WANTED: u64 = 100_000_000;
const SMALLEST: u64 = 80_000_000;
const LARGEST: u64 = 300_000_000;
/// Directory entries looked at, at most.
const ENTRIES: usize = 60_000;

impl Tour {
    pub(super) async fn large_file(&mut self) -> Result<()> {
        self.heading("Store a large real file, read it back, compare every byte");
        let path = find_or_make(self.cluster.dir())?;
        let size = std::fs::metadata(&path).doing(format_args!("look at {}", path.display()))?.len();
        say!("  {} ({} bytes)", path.display(), grouped(size));
        let objects = self.objects();
        let mut source = tokio::fs::File::open(&path).await.doing(format_args!("open {}", path.display()))?;
        source.set_max_buf_size(LARGE_CHUNK as usize);
        let options = PutOptions { chunk_size: LARGE_CHUNK, size_hint: Some(size), ..PutOptions::default() };
        let start = Instant::now();
        let put = objects.put("tour/large", source, options).await?;
        let time = start.elapsed();
        let claim = format!(
            "stored as {} chunks of {} on three replicas in {} ({})",
            put.chunks,
            bytes_short(LARGE_CHUNK),
            time_short(time),
            rate(size, time)
        );
        self.check(&claim, put.size == size);

        let mut sink = Compare::with(&path)?;
        let start = Instant::now();
        let got = objects.get("tour/large", None, &mut sink, GetOptions::default()).await?;
        let time = start.elapsed();
        let claim =
            format!("read back in {} ({}): all {} bytes are the file's", time_short(time), rate(size, time), grouped(sink.done));
        self.check(&claim, sink.differs_at.is_none() && sink.done == size);
        let claim = format!("crc32c of the file {:08x}, of the object {:08x}", sink.checksum, got.checksum);
        self.check(&claim, sink.checksum == got.checksum);
        Ok(())
    }
}

/// The file nearest to the wanted size, or one put together from smaller ones below `dir`.
fn find_or_make(dir: &Path) -> Result<PathBuf> {
    let mut found = Vec::new();
    let exe = std::env::current_exe().ok();
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let rust = home.map(|h| h.join(".rustup/toolchains"));
    let beside = exe.as_deref().and_then(Path::parent).map(Path::to_owned);
    let places = ["/usr/lib", "/usr/bin", "/usr/local", "/opt"].map(PathBuf::from);
    let mut left = ENTRIES;
    for place in rust.into_iter().chain(places).chain(beside) {
        walk(&place, &mut left, &mut found);
    }
    let fits = |size: u64| (SMALLEST..=LARGEST).contains(&size);
    let nearest = found.iter().filter(|(size, _)| fits(*size)).min_by_key(|(size, _)| size.abs_diff(WANTED));
    match nearest {
        Some((_, path)) => Ok(path.clone()),
        None => concatenate(found, dir),
    }
}

/// Regular files that can be read, with their sizes; links are not followed, what cannot be read is passed by.
fn walk(dir: &Path, left: &mut usize, found: &mut Vec<(u64, PathBuf)>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let Ok(meta) = entry.metadata() else { continue };
        let path = entry.path();
        if meta.is_dir() {
            walk(&path, left, found);
        } else if meta.is_file() && meta.len() > 100_000 && File::open(&path).is_ok() {
            found.push((meta.len(), path));
        }
    }
}

/// A file of the wanted size from the beginnings of real files, largest first.
fn concatenate(mut found: Vec<(u64, PathBuf)>, dir: &Path) -> Result<PathBuf> {
    found.sort_by(|a, b| b.cmp(a));
    let path = dir.join("large-file");
    let mut out = File::create(&path).doing(format_args!("create {}", path.display()))?;
    let mut written = 0;
    for (_, source) in found {
        if written >= WANTED {
            break;
        }
        let Ok(file) = File::open(&source) else { continue };
        written += std::io::copy(&mut file.take(WANTED - written), &mut out).doing(format_args!("write {}", path.display()))?;
    }
    out.flush().doing(format_args!("write {}", path.display()))?;
    Ok(path)
}

/// Compares what is written to it with a file.
struct Compare {
    file: BufReader<File>,
    buffer: Vec<u8>,
    done: u64,
    checksum: u32,
    differs_at: Option<u64>,
}

impl Compare {
    fn with(path: &Path) -> Result<Compare> {
        let file = File::open(path).doing(format_args!("open {}", path.display()))?;
        Ok(Compare { file: BufReader::new(file), buffer: Vec::new(), done: 0, checksum: 0, differs_at: None })
    }

    fn take(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.buffer.clear();
        Read::by_ref(&mut self.file).take(bytes.len() as u64).read_to_end(&mut self.buffer)?;
        if self.buffer != bytes && self.differs_at.is_none() {
            self.differs_at = Some(self.done);
        }
        self.checksum = crc::combine(self.checksum, crc::crc32c(&self.buffer), self.buffer.len() as u64);
        self.done += bytes.len() as u64;
        Ok(())
    }
}

/// Reads the file within a write: it is in the page cache, and a tour has nothing else to do meanwhile.
impl AsyncWrite for Compare {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(self.take(bytes).map(|()| bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_found_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"0123456789").unwrap();
        let mut same = Compare::with(&path).unwrap();
        same.take(b"01234").unwrap();
        same.take(b"56789").unwrap();
        assert_eq!((same.differs_at, same.done, same.checksum), (None, 10, crc::crc32c(b"0123456789")));
        let mut other = Compare::with(&path).unwrap();
        other.take(b"01234").unwrap();
        other.take(b"5678x").unwrap();
        assert_eq!(other.differs_at, Some(5));
        let mut longer = Compare::with(&path).unwrap();
        longer.take(b"0123456789abc").unwrap();
        assert_eq!(longer.differs_at, Some(0));
    }

    #[test]
    fn a_file_is_put_together_where_none_is_large_enough() {
        let dir = tempfile::tempdir().unwrap();
        let parts: Vec<_> = (0..3)
            .map(|n| {
                let path = dir.path().join(format!("part{n}"));
                std::fs::write(&path, vec![n; 1000]).unwrap();
                (1000, path)
            })
            .collect();
        let made = concatenate(parts, dir.path()).unwrap();
        assert_eq!(std::fs::metadata(made).unwrap().len(), 3000);
    }
}
