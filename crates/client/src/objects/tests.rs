//! Objects against a cluster in this process.

use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use catena_types::crc::crc32c;
use catena_types::{Code, Failure, OpKind};
use catena_wire::header::Kind;
use tokio::io::ReadBuf;
use tokio::sync::oneshot;

use super::*;
use crate::fake::{Fake, Fault, Seen};
use crate::{Retry, UpdateOptions};

const CHUNK: u32 = 4096;

fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|n| (n / 7) as u8 ^ (n % 251) as u8 ^ seed).collect()
}

fn put_options() -> PutOptions {
    PutOptions { chunk_size: CHUNK, parallel: 4, ..PutOptions::default() }
}

async fn objects(fake: &Fake) -> Objects {
    Objects::new(fake.client().await)
}

/// Objects of a client that gives up soon.
async fn hasty(fake: &Fake) -> Objects {
    Objects::new(fake.client_with(|c| c.deadline = Duration::from_secs(2)).await)
}

impl Objects {
    async fn put_bytes(&self, name: &str, data: &[u8]) -> Result<ObjectInfo, Error> {
        self.put(name, data, put_options()).await
    }
    async fn get_bytes(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, Error> {
        let mut sink = Vec::new();
        self.get(name, range, &mut sink, GetOptions { parallel: 3, progress: None }).await?;
        Ok(sink)
    }
}

fn is_data_write(seen: &Seen) -> bool {
    seen.key.starts_with(b"d/") && seen.op.is_some_and(|op| op.kind() == OpKind::Write)
}

fn is_manifest_write(seen: &Seen) -> bool {
    seen.key.starts_with(b"o/") && seen.op.is_some_and(|op| op.kind() == OpKind::Write)
}

#[tokio::test]
async fn objects_of_any_size_come_back() {
    let fake = Fake::start(3, 2).await;
    let o = objects(&fake).await;
    for len in [0, 1, 4095, 4096, 4097, 100_000] {
        let data = bytes(len, 0);
        let info = o.put_bytes("a", &data).await.unwrap();
        assert_eq!((info.size, info.chunks), (len as u64, (len as u64).div_ceil(4096)));
        assert_eq!(info.checksum, crc32c(&data));
        assert_eq!(o.stat("a").await.unwrap(), Some(info.clone()));
        assert_eq!(o.get_bytes("a", None).await.unwrap(), data);
        assert_eq!(fake.keys(b"d/").len() as u64, info.chunks, "what was replaced is gone");
        let mut keys: Vec<_> = o.chunks("a").await.unwrap().map(|k| k.as_bytes().to_vec()).collect();
        keys.sort();
        assert_eq!(keys, fake.keys(b"d/"));
    }
    assert!(o.remove("a").await.unwrap());
    assert!(fake.keys(b"").is_empty());
    assert!(!o.remove("a").await.unwrap());
    assert_eq!(o.stat("a").await.unwrap(), None);
    assert_eq!(o.get_bytes("a", None).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn ranges_are_clipped() {
    let fake = Fake::start(2, 1).await;
    let o = objects(&fake).await;
    let data = bytes(20_000, 3);
    o.put_bytes("a", &data).await.unwrap();
    for range in [0..1, 4095..4097, 5000..15_000, 19_999..20_000, 0..20_000, 7..7] {
        assert_eq!(o.get_bytes("a", Some(range.clone())).await.unwrap(), data[range.start as usize..range.end as usize]);
    }
    assert_eq!(o.get_bytes("a", Some(19_000..u64::MAX)).await.unwrap(), data[19_000..]);
    assert!(o.get_bytes("a", Some(30_000..40_000)).await.unwrap().is_empty());
    let backwards = Range { start: 2, end: 1 };
    assert_eq!(o.get_bytes("a", Some(backwards)).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn names_and_options_are_checked() {
    let fake = Fake::start(1, 1).await;
    let o = objects(&fake).await;
    assert_eq!(o.put_bytes("", b"x").await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let e = o.put_bytes(&"n".repeat(241), b"x").await.unwrap_err();
    assert!(e.to_string().contains("1 to 240 bytes, not 241"), "{e}");
    o.put_bytes(&"n".repeat(240), b"x").await.unwrap();
    let odd = PutOptions { chunk_size: 1000, ..put_options() };
    assert_eq!(o.put("a", &b"x"[..], odd).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn progress_is_told() {
    let fake = Fake::start(2, 1).await;
    let o = objects(&fake).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let progress = |told: &Arc<Mutex<Vec<u64>>>| -> Option<Progress> {
        let told = told.clone();
        Some(Arc::new(move |n| told.lock().unwrap().push(n)))
    };
    let data = bytes(10_000, 0);
    o.put("a", &data[..], PutOptions { progress: progress(&told), ..put_options() }).await.unwrap();
    assert_eq!(told.lock().unwrap().len(), 3);
    assert_eq!(std::mem::take(&mut *told.lock().unwrap()).last(), Some(&10_000));
    o.get("a", None, &mut Vec::new(), GetOptions { parallel: 2, progress: progress(&told) }).await.unwrap();
    assert_eq!(*told.lock().unwrap(), [4096, 8192, 10_000]);
}

#[tokio::test]
async fn lists_are_paged_and_show_objects_only() {
    let fake = Fake::start(3, 2).await;
    let o = objects(&fake).await;
    let mut names: Vec<String> = (0..25).map(|n| format!("a/{n:02}")).collect();
    for name in &names {
        o.put_bytes(name, name.as_bytes()).await.unwrap();
    }
    o.put_bytes("b", b"").await.unwrap();
    pend(&fake, &o, "a/055").await;
    o.client().write(b"o/a/10x", 0, "junk", &UpdateOptions::default()).await.unwrap();
    for limit in [1, 4, 25, 100] {
        let (mut found, mut bad, mut after) = (Vec::new(), 0, None::<String>);
        loop {
            let page = o.list("a/", after.as_deref(), limit).await.unwrap();
            assert!(page.objects.len() <= limit);
            bad += page.unreadable.len();
            found.extend(page.objects.into_iter().map(|o| o.name));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, names, "limit {limit}");
        assert!(bad >= 1, "limit {limit}");
    }
    names.clear();
    let all = o.list("", None, 100).await.unwrap();
    assert_eq!((all.objects.len(), all.unreadable.len(), all.next), (26, 1, None));
    assert_eq!(all.unreadable[0].1.kind(), ErrorKind::BadManifest);
    assert_eq!(o.stat("a/10x").await.unwrap_err().kind(), ErrorKind::BadManifest);
}

/// Leaves a put behind that died after its first chunk.
async fn pend(fake: &Fake, o: &Objects, name: &str) {
    let before = fake.keys(b"d/").len();
    let (first, source) = Stalling::new(bytes(4096, 1));
    let mut put = Box::pin(o.put(name, source, put_options()));
    let _never = tokio::select! {
        outcome = &mut put => panic!("{outcome:?}"),
        tell = first => tell,
    };
    while fake.keys(b"d/").len() == before {
        let step = tokio::time::timeout(Duration::from_millis(10), &mut put).await;
        assert!(step.is_err());
    }
}

/// A source that gives some bytes, says so, and then nothing until it is told to end.
struct Stalling {
    data: Vec<u8>,
    given: Option<oneshot::Sender<oneshot::Sender<io::Result<()>>>>,
    end: oneshot::Receiver<io::Result<()>>,
    tell: Option<oneshot::Sender<io::Result<()>>>,
}

impl Stalling {
    fn new(data: Vec<u8>) -> (oneshot::Receiver<oneshot::Sender<io::Result<()>>>, Stalling) {
        let (given, first) = oneshot::channel();
        let (tell, end) = oneshot::channel();
        (first, Stalling { data, given: Some(given), end, tell: Some(tell) })
    }
}

impl AsyncRead for Stalling {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let n = self.data.len().min(buf.remaining());
        if n > 0 {
            buf.put_slice(&self.data.drain(..n).collect::<Vec<u8>>());
            return Poll::Ready(Ok(()));
        }
        if let (Some(given), Some(tell)) = (self.given.take(), self.tell.take()) {
            let _ = given.send(tell);
        }
        Pin::new(&mut self.end).poll(cx).map(|told| told.unwrap_or(Ok(())))
    }
}

#[tokio::test]
async fn a_put_whose_source_fails_leaves_nothing() {
    let fake = Fake::start(2, 2).await;
    let o = objects(&fake).await;
    o.put_bytes("a", b"old").await.unwrap();
    let (first, source) = Stalling::new(bytes(9000, 1));
    let put = o.put("a", source, put_options());
    let fail = async { first.await.unwrap().send(Err(io::Error::other("the pipe broke"))).unwrap() };
    let (outcome, ()) = tokio::join!(put, fail);
    let e = outcome.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Stream);
    assert!(e.to_string().contains("put object \"a\": stream failed: the source cannot be read: the pipe broke"), "{e}");
    assert_eq!(o.get_bytes("a", None).await.unwrap(), b"old");
    assert_eq!(fake.keys(b"d/").len(), 1);

    let short = PutOptions { size_hint: Some(10), ..put_options() };
    assert_eq!(o.put("b", &b"123"[..], short).await.unwrap_err().kind(), ErrorKind::Stream);
    assert_eq!(fake.keys(b"").len(), 2, "the manifest and the chunk of the old object");
}

#[tokio::test]
async fn a_put_that_is_refused_space_leaves_nothing() {
    let fake = Fake::start(2, 2).await;
    let o = objects(&fake).await;
    let mut writes = 0;
    fake.hook(move |s| {
        writes += u32::from(is_data_write(s));
        if is_data_write(s) && writes > 3 { Fault::Fail(Failure::new(Code::NoSpace, "full").under(5)) } else { Fault::None }
    });
    let e = o.put_bytes("a", &bytes(50_000, 0)).await.unwrap_err();
    assert_eq!((e.kind(), e.retry()), (ErrorKind::NoSpace, Retry::Later), "{e}");
    assert!(fake.keys(b"").is_empty());
}

#[tokio::test]
async fn a_put_in_doubt_is_left_to_the_collector() {
    let fake = Fake::start(2, 2).await;
    let o = hasty(&fake).await;
    let mut silent = None;
    fake.hook(move |s| {
        let this = is_data_write(s) && (silent.is_none() || silent == s.tag);
        silent = if this { s.tag } else { silent };
        if this { Fault::ServeAndSilence } else { Fault::None }
    });
    let e = o.put_bytes("a", &bytes(10_000, 0)).await.unwrap_err();
    assert_eq!((e.kind(), e.retry()), (ErrorKind::OutcomeUnknown, Retry::AfterReading), "{e}");
    assert_eq!(o.stat("a").await.unwrap(), None);
    assert_eq!(fake.keys(b"d/").len(), 3, "a write in doubt may still come: nothing is removed yet");
    fake.unhook();
    let waiting = Collector::new(o.clone(), Duration::from_secs(3600)).pass().await.unwrap();
    assert_eq!((waiting.manifests, waiting.waiting, waiting.generations), (1, 1, 0));
    let collected = o.collect(Duration::ZERO).await.unwrap();
    assert_eq!((collected.generations, collected.chunks, collected.failed), (1, 3, 0));
    assert!(fake.keys(b"").is_empty());
}

#[tokio::test]
async fn lost_answers_to_manifest_updates_do_no_harm() {
    for skip in 0..3 {
        for fault in [Fault::Break, Fault::ServeAndBreak] {
            let fake = Fake::start(2, 2).await;
            let o = objects(&fake).await;
            o.put_bytes("a", b"old").await.unwrap();
            let mut n = 0;
            let met = fault.clone();
            fake.hook(move |s| {
                n += usize::from(is_manifest_write(s));
                if is_manifest_write(s) && n == skip + 1 { met.clone() } else { Fault::None }
            });
            o.put_bytes("a", b"new").await.unwrap();
            assert_eq!(o.get_bytes("a", None).await.unwrap(), b"new", "{fault:?} at {skip}");
            assert_eq!(fake.keys(b"d/").len(), 1, "{fault:?} at {skip}");
        }
    }
}

/// The very last step is applied, and its outcome never told: the put finds out by reading.
#[tokio::test]
async fn an_unknown_outcome_of_the_last_step_becomes_known() {
    let fake = Fake::start(1, 1).await;
    let o = hasty(&fake).await;
    let mut silent = None;
    let mut n = 0;
    fake.hook(move |s| {
        n += usize::from(is_manifest_write(s) && silent != s.tag);
        let this = is_manifest_write(s) && n == 2;
        silent = if is_manifest_write(s) { s.tag } else { silent };
        if this { Fault::ServeAndSilence } else { Fault::None }
    });
    let info = o.put_bytes("a", b"new").await.unwrap();
    assert_eq!(o.stat("a").await.unwrap(), Some(info));
}

#[tokio::test]
async fn puts_of_one_name_at_once_leave_one_object_and_nothing_else() {
    let fake = Fake::start(3, 2).await;
    let o = objects(&fake).await;
    let tasks: Vec<_> = (0..8u8)
        .map(|n| {
            let o = o.clone();
            tokio::spawn(async move { o.put_bytes("a", &bytes(10_000 + n as usize, n)).await.unwrap() })
        })
        .collect();
    let mut put = Vec::new();
    for task in tasks {
        put.push(task.await.unwrap().generation);
    }
    let info = o.stat("a").await.unwrap().unwrap();
    assert!(put.contains(&info.generation));
    let data = o.get_bytes("a", None).await.unwrap();
    assert_eq!(data, bytes(data.len(), (data.len() - 10_000) as u8));
    assert_eq!(fake.keys(b"d/").len(), 3);
    assert_eq!(o.collect(Duration::ZERO).await.unwrap().generations, 0);
}

#[tokio::test]
async fn a_put_overtaken_by_the_collector_says_so_and_leaves_nothing() {
    let fake = Fake::start(2, 2).await;
    let o = objects(&fake).await;
    o.put_bytes("a", b"old").await.unwrap();
    let (first, source) = Stalling::new(bytes(4096, 1));
    let put = o.put("a", source, put_options());
    let overtake = async {
        let tell = first.await.unwrap();
        let collected = o.collect(Duration::ZERO).await.unwrap();
        assert_eq!(collected.generations, 1);
        tell.send(Ok(())).unwrap();
    };
    let (outcome, ()) = tokio::join!(put, overtake);
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::PutAbandoned);
    assert_eq!(o.get_bytes("a", None).await.unwrap(), b"old");
    assert_eq!(fake.keys(b"d/").len(), 1);
}

#[tokio::test]
async fn a_put_that_lives_is_not_collected() {
    let fake = Fake::start(2, 2).await;
    let o = objects(&fake).await;
    let (first, source) = Stalling::new(bytes(4096, 1));
    let put = o.put("a", source, PutOptions { touch: Duration::from_millis(5), ..put_options() });
    let watch = async {
        let tell = first.await.unwrap();
        // The grace is long; what shows life is the version, which must have changed between two passes.
        let version = async || store::load(o.client(), &manifest_key("a").unwrap()).await.unwrap().ver;
        let before = version().await;
        while version().await == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tell.send(Ok(())).unwrap();
    };
    let (outcome, ()) = tokio::join!(put, watch);
    outcome.unwrap();
    assert_eq!(o.get_bytes("a", None).await.unwrap(), bytes(4096, 1));
}

#[tokio::test]
async fn the_collector_finds_what_dead_puts_left() {
    let fake = Fake::start(3, 2).await;
    let o = objects(&fake).await;
    o.put_bytes("kept", &bytes(9000, 1)).await.unwrap();
    pend(&fake, &o, "dead").await;
    pend(&fake, &o, "kept").await;
    assert_eq!(fake.keys(b"d/").len(), 5);
    let collected = o.collect(Duration::from_millis(20)).await.unwrap();
    assert_eq!((collected.generations, collected.chunks, collected.waiting), (2, 2, 0));
    assert_eq!(fake.keys(b"d/").len(), 3);
    assert_eq!(fake.keys(b"o/").len(), 1);
    assert_eq!(o.get_bytes("kept", None).await.unwrap(), bytes(9000, 1));
}

#[tokio::test]
async fn a_manifest_that_changes_between_two_passes_is_left_alone() {
    let fake = Fake::start(1, 1).await;
    let o = objects(&fake).await;
    pend(&fake, &o, "a").await;
    let mut collector = Collector::new(o.clone(), Duration::from_millis(1));
    assert_eq!(collector.pass().await.unwrap().waiting, 1);
    let key = manifest_key("a").unwrap();
    store::change(o.client(), &key, |_| Ok(Change::Write(()))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let second = collector.pass().await.unwrap();
    assert_eq!((second.waiting, second.generations), (1, 0), "a new version starts a new grace");
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(collector.pass().await.unwrap().generations, 1);
    assert!(fake.keys(b"").is_empty());
}

#[tokio::test]
async fn the_sweep_removes_chunks_that_no_manifest_names() {
    let fake = Fake::start(3, 2).await;
    let o = objects(&fake).await;
    for n in 0..5 {
        o.put_bytes(&format!("a{n}"), &bytes(5000, n)).await.unwrap();
    }
    pend(&fake, &o, "pending").await;
    for n in [0, 1, 7] {
        let options = UpdateOptions { chunk_size: CHUNK, ..UpdateOptions::default() };
        o.client().write(data_key(&[0x55; 16], n).as_bytes(), 0, "late", &options).await.unwrap();
    }
    let swept = Collector::new(o.clone(), Duration::ZERO).sweep().await.unwrap();
    assert_eq!((swept.generations, swept.chunks), (1, 3));
    assert_eq!(fake.keys(b"d/").len(), 11);
}

#[tokio::test]
async fn an_object_replaced_while_it_is_read() {
    let fake = Fake::start(2, 1).await;
    let o = objects(&fake).await;
    o.put_bytes("a", &bytes(20_000, 1)).await.unwrap();
    // Data is not given before the object has been replaced: the get finds nothing then, and starts again.
    let reads = |s: &Seen| s.kind == Kind::Read && s.key.starts_with(b"d/");
    let (asked, first) = oneshot::channel();
    let (mut asked, replaced) = (Some(asked), Arc::new(AtomicBool::new(false)));
    let done = replaced.clone();
    fake.hook(move |s| {
        if !reads(s) || done.load(Ordering::Relaxed) {
            return Fault::None;
        }
        asked.take().map(|asked| asked.send(()));
        Fault::Fail(Failure::new(Code::Busy, "wait").with_version(2000))
    });
    let replace = async {
        first.await.unwrap();
        o.put_bytes("a", &bytes(20_000, 2)).await.unwrap();
        replaced.store(true, Ordering::Relaxed);
    };
    let (got, ()) = tokio::join!(o.get_bytes("a", None), replace);
    assert_eq!(got.unwrap(), bytes(20_000, 2));
}

/// A sink that removes the object when the first bytes arrive.
struct Removing {
    told: Option<oneshot::Sender<()>>,
    go_on: oneshot::Receiver<()>,
}

impl AsyncWrite for Removing {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(told) = self.told.take() {
            let _ = told.send(());
        } else if self.go_on.is_terminated() {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.go_on).poll(cx).map(|_| Ok(buf.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn an_object_removed_after_the_first_bytes_is_an_error() {
    let fake = Fake::start(2, 1).await;
    let o = objects(&fake).await;
    o.put_bytes("a", &bytes(40_000, 1)).await.unwrap();
    let ((told, first), (go_on, going)) = (oneshot::channel(), oneshot::channel());
    let sink = Removing { told: Some(told), go_on: going };
    let get = o.get("a", None, sink, GetOptions { parallel: 1, progress: None });
    let remove = async {
        first.await.unwrap();
        assert!(o.remove("a").await.unwrap());
        go_on.send(()).unwrap();
    };
    let (outcome, ()) = tokio::join!(get, remove);
    let e = outcome.unwrap_err();
    assert_eq!((e.kind(), e.retry()), (ErrorKind::ObjectChanged, Retry::Later), "{e}");
}

#[tokio::test]
async fn damage_is_found() {
    let fake = Fake::start(2, 1).await;
    let o = objects(&fake).await;
    o.put_bytes("a", &bytes(10_000, 1)).await.unwrap();
    let chunks: Vec<_> = o.chunks("a").await.unwrap().collect();
    fake.tamper(chunks[1].as_bytes(), |data| data[7] ^= 1);
    let e = o.get_bytes("a", None).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt);
    assert!(e.to_string().contains("it was put with"), "{e}");
    fake.tamper(chunks[2].as_bytes(), |data| data.truncate(3));
    let e = o.get_bytes("a", None).await.unwrap_err();
    assert!(e.to_string().contains("chunk 2 of the object gives 3 bytes of 1808"), "{e}");
    o.client().remove(chunks[0].as_bytes(), &UpdateOptions { chunk_size: CHUNK, ..UpdateOptions::default() }).await.unwrap();
    let e = o.get_bytes("a", None).await.unwrap_err();
    assert!(e.to_string().contains("chunk 0 of the object is gone"), "{e}");
    fake.tamper(b"o/a", |data| data[20] ^= 1);
    assert_eq!(o.stat("a").await.unwrap_err().kind(), ErrorKind::BadManifest);
}
