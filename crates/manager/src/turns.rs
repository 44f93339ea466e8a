//! What is asked of the store, each in a task of its own beside the service: to be elected, to stay so, to save.
//!
//! What must hold: whatever comes of it is told to the service, which alone decides.

use std::sync::Arc;

use catena_cluster::State;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::sleep;

use crate::error::StoreError;
use crate::service::Event;
use crate::store::{Standing, Store, Term};

type Events = UnboundedSender<Event>;

/// Tries to become primary until it does. Makes a new cluster where there is none.
pub(crate) async fn campaign<S: Store>(store: Arc<S>, addr: String, events: Events) {
    let mut told = String::new();
    loop {
        let outcome = match store.campaign(&addr).await {
            Ok(Standing::Primary { term, until, state: Some(state) }) => Ok(Event::Elected(term, until, state)),
            Ok(Standing::Primary { term, until, state: None }) => {
                found(&*store, term).await.map(|state| Event::Elected(term, until, state))
            }
            Ok(Standing::Follower { primary }) => Ok(Event::Follows(primary)),
            Err(e) => Err(e),
        };
        let done = match &outcome {
            Ok(Event::Follows(primary)) => {
                once(&mut told, format!("the elected manager is {primary}"), |text| tracing::info!("{text}"));
                false
            }
            Ok(_) => true,
            Err(e) => {
                once(&mut told, format!("cannot be elected yet, trying again: {e}"), |text| tracing::warn!("{text}"));
                !e.is_passing()
            }
        };
        // Nobody listens any more: the service has ended.
        if events.send(outcome.unwrap_or_else(|e| Event::Failed(None, e))).is_err() || done {
            return;
        }
        sleep(store.pace().campaign).await;
    }
}

/// Says it, unless it was said last.
fn once(told: &mut String, text: String, say: impl FnOnce(&str)) {
    if *told != text {
        say(&text);
        *told = text;
    }
}

/// A new cluster.
async fn found<S: Store>(store: &S, term: Term) -> Result<State, StoreError> {
    // 0 means "not known".
    let state = State::new(getrandom::u64().map_err(|e| StoreError::System { reason: e.to_string() })?.max(1));
    store.save(term, &state).await?;
    Ok(state)
}

/// Keeps the term alive until it is over.
pub(crate) async fn renew<S: Store>(store: Arc<S>, term: Term, events: Events) {
    let Some(pause) = store.pace().renew else { return };
    loop {
        sleep(pause).await;
        let event = match store.renew(term).await {
            Ok(until) => Event::Renewed(term, until),
            Err(e @ StoreError::Deposed(_)) => Event::Failed(Some(term), e),
            Err(e) => {
                tracing::warn!("the term could not be renewed, trying again: {e}");
                continue;
            }
        };
        let over = matches!(event, Event::Failed(..));
        if events.send(event).is_err() || over {
            return;
        }
    }
}

/// Saves one state.
pub(crate) async fn save<S: Store>(store: Arc<S>, term: Term, state: Arc<State>, events: Events) {
    let event = match store.save(term, &state).await {
        Ok(()) => Event::Saved(term),
        Err(e) => Event::Failed(Some(term), e),
    };
    // Nobody listens any more: the service has ended.
    let _ = events.send(event);
}
