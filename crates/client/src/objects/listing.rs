//! Listing objects: the manifest chunks in the order of their names, each read to see whether there is an object.

use catena_types::ChunkKey;

use super::manifest::*;
use super::store;
use super::{ObjectPage, Objects, info};
use crate::error::{Error, ErrorKind};

/// Most manifests in one step.
const PAGE: usize = 1000;

pub(super) async fn list(objects: &Objects, prefix: &str, after: Option<&str>, limit: usize) -> Result<ObjectPage, Error> {
    // The smallest key above that of `after`.
    let mut from = after.map_or_else(Vec::new, |name| [manifest_prefix(name).as_slice(), &[0]].concat());
    let mut page = ObjectPage::default();
    while page.objects.len() < limit {
        let want = (limit - page.objects.len()).min(PAGE);
        let found = objects.client.list(manifest_prefix(prefix), &from, want).await?;
        let keys: Vec<ChunkKey> = found.entries.into_iter().map(|e| e.key).collect();
        add(objects, &keys, &mut page).await;
        match found.next {
            Some(_) if page.objects.len() >= limit => page.next = page.objects.last().map(|o| o.name.clone()),
            Some(next) => from = next,
            None => break,
        }
    }
    Ok(page)
}

/// Adds those of the manifests that are objects.
async fn add(objects: &Objects, keys: &[ChunkKey], page: &mut ObjectPage) {
    for (key, held) in keys.iter().zip(store::load_many(&objects.client, keys).await) {
        match (name_of(key), held) {
            (_, Ok(None)) => {}
            (Some(name), Ok(Some(held))) => page.objects.extend(held.manifest.current.map(|g| info(name, &g, held.ver))),
            (Some(name), Err(e)) => page.unreadable.push((name.to_string(), e)),
            (None, _) => {
                let e = Error::new(ErrorKind::BadManifest, "its name is not UTF-8: it was not put as an object");
                page.unreadable.push((key.to_string(), e));
            }
        }
    }
}
