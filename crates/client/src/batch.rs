//! Many operations on their way at once, each with an outcome of its own.

use std::future::Future;

use tokio::task::JoinSet;

use crate::error::{Error, ErrorKind};

/// Runs `work` on every item, at most `parallel` at a time; outcomes in the order of the items. Dropping the future stops
/// what has not ended.
pub(crate) async fn run<I, T, F, W>(items: Vec<I>, parallel: usize, work: W) -> Vec<Result<T, Error>>
where
    W: Fn(I) -> F,
    F: Future<Output = Result<T, Error>> + Send + 'static,
    T: Send + 'static,
{
    let mut outcomes: Vec<Option<Result<T, Error>>> = items.iter().map(|_| None).collect();
    let mut running = JoinSet::new();
    for (n, item) in items.into_iter().enumerate() {
        if running.len() >= parallel.max(1) {
            take(&mut running, &mut outcomes).await;
        }
        let one = work(item);
        running.spawn(async move { (n, one.await) });
    }
    while !running.is_empty() {
        take(&mut running, &mut outcomes).await;
    }
    // A task without an outcome was stopped by a runtime that is going down.
    outcomes.into_iter().map(|o| o.unwrap_or_else(|| Err(Error::new(ErrorKind::OutcomeUnknown, "it was stopped")))).collect()
}

async fn take<T: 'static>(running: &mut JoinSet<(usize, Result<T, Error>)>, outcomes: &mut [Option<Result<T, Error>>]) {
    if let Some(Ok((n, outcome))) = running.join_next().await {
        outcomes[n] = Some(outcome);
    }
}
