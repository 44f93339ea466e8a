//! What versions alone can refute, in O(n log n), with the shortest explanation: two operations.

use std::collections::BTreeMap;

use catena_types::Ver;

use super::OpId;
use super::model::{Effect, Item, Observation};

/// Why a history is refuted, and by which operations.
pub(super) type Refuted = (String, Vec<OpId>);

/// Refutes what needs no search: one version made twice or with two contents, versions that go back in real time,
/// and reads of what was not yet asked for.
pub(super) fn check(items: &[Item]) -> Result<(), Refuted> {
    one_content_per_version(items)?;
    versions_follow_time(items)?;
    no_read_from_the_future(items)
}

fn one_content_per_version(items: &[Item]) -> Result<(), Refuted> {
    let mut makers: BTreeMap<Ver, OpId> = BTreeMap::new();
    let mut sums: BTreeMap<Ver, (u32, OpId)> = BTreeMap::new();
    let mut lens: BTreeMap<Ver, (u32, OpId)> = BTreeMap::new();
    for item in items {
        if let Some(ver) = item.made()
            && let Some(other) = makers.insert(ver, item.id)
        {
            return Err((format!("two updates made version {ver}"), vec![other, item.id]));
        }
        let (Some(ver), seen) = (item.version(), item.seen()) else { continue };
        for (map, value, name) in [(&mut sums, seen.checksum, "checksums"), (&mut lens, seen.len, "lengths")] {
            let Some(value) = value else { continue };
            let (old, other) = *map.entry(ver).or_insert((value, item.id));
            if old != value {
                return Err((format!("version {ver} has two {name}"), vec![other, item.id]));
            }
        }
    }
    Ok(())
}

/// After an operation that saw version v has ended, nothing older may be seen and nothing up to v made.
fn versions_follow_time(items: &[Item]) -> Result<(), Refuted> {
    let mut ended: Vec<(u64, Ver, OpId)> =
        items.iter().filter_map(|i| Some((i.end, i.version()?, i.id))).filter(|&(end, ..)| end != u64::MAX).collect();
    ended.sort_unstable();
    let mut begun: Vec<&Item> = items.iter().filter(|i| i.version().is_some()).collect();
    begun.sort_unstable_by_key(|i| i.begin);
    let mut newest: Option<(Ver, OpId)> = None;
    let mut next = 0;
    for item in begun {
        while next < ended.len() && ended[next].0 < item.begin {
            let (_, ver, id) = ended[next];
            newest = newest.max(Some((ver, id)));
            next += 1;
        }
        let (Some(ver), Some((bound, id))) = (item.version(), newest) else { continue };
        if item.is_update() && ver <= bound {
            return Err((format!("an update made version {ver} after version {bound} had been seen"), vec![id, item.id]));
        }
        if ver < bound {
            return Err((format!("stale read: version {ver} after version {bound} had been seen"), vec![id, item.id]));
        }
    }
    Ok(())
}

fn no_read_from_the_future(items: &[Item]) -> Result<(), Refuted> {
    let makers: BTreeMap<Ver, &Item> = items.iter().filter_map(|i| Some((i.made()?, i))).collect();
    for item in items {
        let Effect::Observe(Observation::Bytes { seen, .. }) = &item.effect else { continue };
        let Some(maker) = seen.ver.and_then(|v| makers.get(&v)) else { continue };
        if item.end < maker.begin {
            let what =
                format!("read from the future: version {} was read before its update was asked for", maker.made().unwrap_or(0));
            return Err((what, vec![item.id, maker.id]));
        }
        if let Effect::Update { op, .. } = &maker.effect
            && op.kind() == catena_types::OpKind::Remove
        {
            return Err(("a version was read that a remove had made".into(), vec![maker.id, item.id]));
        }
    }
    Ok(())
}
