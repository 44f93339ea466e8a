//! One chunk: what is recorded of it, where its blocks lie, and whether they are what their checksums say.

use catena_types::{ChunkKey, Tag};
use serde::Serialize;

use super::super::content::Version;
use super::super::table::Table;
use super::super::{Finding, Medium, Target};
use crate::error::OpenError;

/// A chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChunkView {
    /// Its key.
    pub key: String,
    /// Largest length in bytes.
    pub chunk_size: u32,
    /// What readers see.
    pub committed: Option<VersionView>,
    /// What comes next.
    pub staged: Option<VersionView>,
    /// What was found wrong on the way.
    pub findings: Vec<Finding>,
}

/// A version of a chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VersionView {
    /// Its number.
    pub ver: u64,
    /// Version of the chain's membership.
    pub chain_ver: u64,
    /// Length in bytes.
    pub len: u32,
    /// The checksum recorded, in hexadecimal.
    pub checksum: String,
    /// The checksum of the bytes that are there, in hexadecimal.
    pub found: String,
    /// Whether both agree.
    pub good: bool,
    /// Its commit makes the chunk absent.
    pub remove: bool,
    /// The update that made it: client, channel, number.
    pub tag: String,
    /// First block of its slot (stores in place).
    pub slot: Option<u64>,
    /// Where its blocks lie.
    pub extents: Vec<ExtentView>,
    /// Its blocks, holes left out.
    pub blocks: Vec<BlockView>,
}

/// Blocks that lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ExtentView {
    /// First block, counted from the start of the chunk.
    pub block: u32,
    /// Number of blocks.
    pub blocks: u32,
    /// First data block.
    pub disk: u64,
    /// Where that is, in bytes.
    pub offset: u64,
}

/// One block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockView {
    /// Its number within the chunk.
    pub block: u32,
    /// The data block; `None`: its bytes are in journal or checkpoint.
    pub disk: Option<u64>,
    /// The checksum of the bytes that are there, in hexadecimal.
    pub found: String,
    /// The checksum that is recorded, in hexadecimal.
    pub recorded: Option<String>,
    /// Who says so: `table`, `journal`, or nobody.
    pub source: &'static str,
}

/// Shows a chunk; `None` if there is none of this key.
///
/// # Errors
/// Why there is nothing to show.
pub fn chunk(medium: &dyn Medium, key: &ChunkKey) -> Result<Option<ChunkView>, OpenError> {
    let target = Target::open(medium)?;
    let (model, _) = target.load();
    let (item, side) = (model.chunks.get(key), model.staged.get(key));
    let Some(chunk_size) = item.map(|i| i.chunk_size).or(side.map(|s| s.chunk_size)) else { return Ok(None) };
    let table = Table::new(&target, &model);
    let committed = item.map(|item| {
        let c = &item.committed;
        let version = Version::committed(&model, key, item);
        target.version_view(
            &table,
            &version,
            Known { ver: c.ver, chain_ver: c.chain_ver, tag: c.tag, slot: item.slot, remove: false },
        )
    });
    let staged = side.map(|side| {
        let s = &side.staged;
        let version = Version::staged(&model, key, side);
        let known = Known { ver: s.ver, chain_ver: s.chain_ver, tag: s.tag, slot: side.slot, remove: s.remove };
        target.version_view(&table, &version, known)
    });
    drop(table);
    Ok(Some(ChunkView { key: key.to_string(), chunk_size, committed, staged, findings: target.findings.take().0 }))
}

/// What is recorded beside the bytes.
struct Known {
    ver: u64,
    chain_ver: u64,
    tag: Tag,
    slot: Option<u64>,
    remove: bool,
}

impl Target<'_> {
    fn version_view(&self, table: &Table<'_>, version: &Version<'_>, known: Known) -> VersionView {
        let mut blocks = Vec::new();
        let found = self.scan(version, &mut |block| {
            let recorded = block.disk.and_then(|disk| table.get(disk));
            blocks.push(BlockView {
                block: block.number,
                disk: block.disk,
                found: format!("{:08x}", block.found),
                recorded: recorded.map(|(crc, _)| format!("{crc:08x}")),
                source: match recorded {
                    Some((_, true)) => "journal",
                    Some((_, false)) => "table",
                    None => "nobody",
                },
            });
        });
        let extents = version.extents.iter().map(|e| ExtentView {
            block: e.logical,
            blocks: e.len,
            disk: e.disk,
            offset: self.data_byte(e.disk),
        });
        VersionView {
            ver: known.ver,
            chain_ver: known.chain_ver,
            len: version.len,
            checksum: format!("{:08x}", version.checksum),
            found: format!("{found:08x}"),
            good: found == version.checksum,
            remove: known.remove,
            tag: known.tag.to_string(),
            slot: known.slot,
            extents: extents.collect(),
            blocks,
        }
    }
}
