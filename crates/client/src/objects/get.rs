//! Reading an object: chunks are read ahead, written in order, and verified.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use catena_types::ChunkKey;
use catena_types::crc::{combine, crc32c};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::manifest::*;
use super::store::{self, Held};
use super::{GetOptions, ObjectInfo, Objects, info, no_object};
use crate::api::ReadOptions;
use crate::call::invalid;
use crate::client::Client;
use crate::error::{Error, ErrorKind};
use crate::split::{Piece, split};

/// Times a get starts again because the object was replaced before anything was written.
const RESTARTS: usize = 8;

/// A read on its way; it stops when this is dropped.
struct Ahead(JoinHandle<Result<Bytes, Error>>);

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) async fn get<W: AsyncWrite + Unpin + Send>(
    objects: &Objects,
    name: &str,
    range: Option<Range<u64>>,
    mut sink: W,
    options: GetOptions,
) -> Result<ObjectInfo, Error> {
    let key = manifest_key(name)?;
    if range.as_ref().is_some_and(|r| r.start > r.end) {
        return Err(invalid("the range ends before it starts"));
    }
    let mut restarts = 0;
    loop {
        let Held { manifest, ver } = store::load(&objects.client, &key).await?;
        let generation = manifest.current.ok_or_else(no_object)?;
        let mut copy = Copy { client: &objects.client, key: &key, generation: &generation, written: 0, checksum: 0 };
        match copy.run(&range, &mut sink, &options).await {
            Ok(()) => return Ok(info(name, &generation, ver)),
            Err(e) if e.kind() == ErrorKind::ObjectChanged && copy.written == 0 && restarts < RESTARTS => restarts += 1,
            Err(e) => return Err(e),
        }
    }
}

/// One generation on its way to a sink.
struct Copy<'a> {
    client: &'a Client,
    key: &'a ChunkKey,
    generation: &'a Generation,
    /// Bytes given to the sink, and their checksum.
    written: u64,
    checksum: u32,
}

impl Copy<'_> {
    async fn run<W: AsyncWrite + Unpin>(
        &mut self,
        range: &Option<Range<u64>>,
        sink: &mut W,
        options: &GetOptions,
    ) -> Result<(), Error> {
        let size = self.generation.size;
        let (start, end) = range.as_ref().map_or((0, size), |r| (r.start.min(size), r.end.min(size)));
        let mut pieces = split(start, end - start, self.generation.chunk_size);
        let mut ahead = VecDeque::new();
        loop {
            while ahead.len() < options.parallel.max(1) {
                let Some(piece) = pieces.next() else { break };
                ahead.push_back((piece, self.start(piece)));
            }
            let Some((piece, mut read)) = ahead.pop_front() else { break };
            let stopped = |_| Err(Error::new(ErrorKind::Timeout, "the read was stopped"));
            let data = match (&mut read.0).await.unwrap_or_else(stopped) {
                Ok(data) if data.len() == piece.len as usize => data,
                Ok(data) => return Err(self.damaged(piece, format!("gives {} bytes of {}", data.len(), piece.len)).await),
                Err(e) if e.kind() == ErrorKind::NotFound => return Err(self.damaged(piece, "is gone".into()).await),
                Err(e) => return Err(e),
            };
            self.written += data.len() as u64;
            self.checksum = combine(self.checksum, crc32c(&data), data.len() as u64);
            sink.write_all(&data).await.map_err(sink_error)?;
            options.progress.iter().for_each(|p| p(self.written));
        }
        sink.flush().await.map_err(sink_error)?;
        if self.written == size && self.checksum != self.generation.checksum {
            let cause =
                format!("its bytes have checksum {:#010x}, it was put with {:#010x}", self.checksum, self.generation.checksum);
            return Err(Error::new(ErrorKind::Corrupt, cause));
        }
        Ok(())
    }

    fn start(&self, piece: Piece) -> Ahead {
        let (client, key) = (self.client.clone(), data_key(&self.generation.id, piece.index));
        Ahead(tokio::spawn(async move {
            client.read(key.as_bytes(), piece.offset, piece.len, &ReadOptions::default()).await.map(|r| r.data)
        }))
    }

    /// A chunk is not what it should be: because the object was replaced, or because data was lost.
    async fn damaged(&self, piece: Piece, how: String) -> Error {
        match store::load(self.client, self.key).await {
            Ok(held) if held.manifest.current.as_ref().is_some_and(|g| g.id == self.generation.id) => {
                Error::new(ErrorKind::Corrupt, format!("chunk {} of the object {how}", piece.index))
            }
            Ok(_) => Error::new(ErrorKind::ObjectChanged, "it was replaced or removed while it was being read; read it again"),
            Err(e) => e,
        }
    }
}

fn sink_error(e: std::io::Error) -> Error {
    Error::new(ErrorKind::Stream, format!("the sink cannot be written: {e}"))
}
