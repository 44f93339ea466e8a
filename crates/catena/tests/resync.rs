//! Resync on real processes: a replica that was away gets what it missed, and hardly more.
//!
//! Short by default; `CATENA_TEST_CHUNKS=200000` is the size that a production target has.

#[allow(dead_code, reason = "each test binary uses its part")]
#[path = "real/cluster.rs"]
mod cluster;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use catena_client::{Client, ClientConfig, ReadOptions, UpdateKind, UpdateOptions, WriteItem};
use catena_types::ChunkKey;
use cluster::Cluster;

const CHUNK: u32 = 16 << 10;
const BLOCK: u32 = 4 << 10;

fn chunks() -> u64 {
    std::env::var("CATENA_TEST_CHUNKS").ok().and_then(|s| s.parse().ok()).unwrap_or(3000)
}

/// Writes one range of each of these chunks, many at a time.
async fn write(client: &Client, numbers: impl Iterator<Item = u64>, offset: u32, len: u32, round: u64) {
    let numbers: Vec<u64> = numbers.collect();
    for some in numbers.chunks(256) {
        let item = |n: &u64| WriteItem {
            key: ChunkKey::new(key(*n).as_bytes()).expect("short"),
            kind: UpdateKind::Write { offset, data: content(*n, len, round) },
            options: UpdateOptions { chunk_size: CHUNK, ..UpdateOptions::default() },
        };
        for written in client.write_batch(some.iter().map(item).collect()).await {
            written.expect("one replica is enough");
        }
    }
}

fn key(n: u64) -> String {
    format!("chunk/{n:08}")
}

fn content(n: u64, len: u32, round: u64) -> Bytes {
    let word = (n * 1_000_003 + round).to_le_bytes();
    word.iter().copied().cycle().take(len as usize).collect::<Vec<u8>>().into()
}

/// Counters of all targets' state machines, summed.
async fn counters(client: &Client) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for target in &client.routing().targets {
        for metric in client.target(target.id, false).await.expect("both nodes live").values {
            *all.entry(metric.name).or_default() += metric.value;
        }
    }
    all
}

#[test]
fn a_replica_that_missed_a_hundredth_of_the_updates_gets_about_that() {
    let options: &[&str] = &["--scrub-rate", "0"];
    let mut cluster = Cluster::with_options(2, 1, 2, "10GiB", options);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let chunks = chunks();
    let changed = || (0..chunks).filter(|n| n % 100 == 7);
    let client = runtime.block_on(async {
        let client = Client::connect(ClientConfig::new(&cluster.manager)).await.expect("the manager answers");
        write(&client, 0..chunks, 0, CHUNK, 0).await;
        client
    });
    // Commits that are recorded with the next append are recorded by then.
    std::thread::sleep(Duration::from_millis(500));
    cluster.kill_node(1);
    runtime.block_on(write(&client, changed(), BLOCK, BLOCK, 1));
    let before = Instant::now();
    cluster.start_node(1);
    cluster.wait_healthy();
    let took = before.elapsed();
    runtime.block_on(async {
        let after = counters(&client).await;
        let of = |name: &str| after.get(&format!("replica_{name}")).copied().unwrap_or_default();
        let (sent, all) = (of("sync_bytes"), chunks * u64::from(CHUNK));
        let missed = changed().count() as u64;
        println!(
            "{chunks} chunks ({all} bytes), {missed} missed an update of {BLOCK} bytes: {} compared by blocks, {} sent whole, \
             {sent} bytes sent ({:.3} % of all), healthy again after {took:.1?}",
            of("sync_patches"),
            of("sync_puts"),
            100.0 * sent as f64 / all as f64
        );
        // What the killed node had staged or not recorded yet comes on top.
        assert!(of("sync_patches") + of("sync_puts") >= missed && of("sync_patches") > 0, "{after:?}");
        assert!(sent >= missed * u64::from(BLOCK) && sent * 20 <= all, "{after:?}");
        for n in [7, 107, 8, chunks - 1] {
            let read = client.read(key(n), 0, CHUNK, &ReadOptions::default()).await.expect("it is there");
            let mut wanted = content(n, CHUNK, 0).to_vec();
            if n % 100 == 7 {
                wanted[BLOCK as usize..2 * BLOCK as usize].copy_from_slice(&content(n, BLOCK, 1));
            }
            assert!(read.data == wanted, "chunk {n}");
        }
    });
    for n in [7, 107, 8] {
        cluster.ok(&["chunk", "stat", &key(n), "--all"]);
    }
}
