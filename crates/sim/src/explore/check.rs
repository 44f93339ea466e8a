//! What must hold in every state, and in every state in which nothing is left to do.

use catena_types::PublicState;

use super::apply::Ground;
use super::ledger::Outcome;
use super::state::State;

impl Ground<'_> {
    /// Brings the state up to date and judges it. The fingerprint, or what does not hold.
    pub(super) fn judge(&self, state: &mut State) -> Result<u64, String> {
        let mut pool = self.pool.borrow_mut();
        state.seal(&self.keys, &mut pool);
        for chunk in 0..self.plan.chunks {
            self.check_views(state, chunk)?;
            self.check_durable(state, chunk)?;
        }
        Ok(state.fingerprint(&mut pool))
    }

    /// All that could be read now is the same, and nothing older than what could be read before.
    fn check_views(&self, state: &mut State, chunk: u8) -> Result<(), String> {
        let c = usize::from(chunk);
        let mut newest: Option<(u32, u64)> = None;
        let seen = state.ledger().seen[c];
        for t in state.ids() {
            let view = state.view(t);
            for ver in [view.reads[c], view.answers[c]].into_iter().flatten() {
                if ver < seen {
                    return Err(format!("stale read: t{t} would give chunk {chunk} version {ver}, {seen} has been seen"));
                }
                let (other, theirs) = *newest.get_or_insert((t, ver));
                if theirs != ver {
                    return Err(format!("stale read: t{other} would give chunk {chunk} version {theirs}, t{t} version {ver}"));
                }
            }
        }
        if let Some((_, ver)) = newest {
            state.note_seen(chunk, ver);
        }
        Ok(())
    }

    /// What has been seen is durable on every disk that may have to stand in for it.
    fn check_durable(&self, state: &State, chunk: u8) -> Result<(), String> {
        let c = usize::from(chunk);
        let seen = state.ledger().seen[c];
        let made = state.ledger().made(chunk, seen);
        let chain = state.members().chain();
        let holders = chain.members.iter().filter(|m| matches!(m.state(), PublicState::Serving | PublicState::LastSrv));
        for member in holders {
            let (ver, tag) = state.view(member.target).durable[c];
            let other = ver == seen && tag.is_some() && tag != made;
            if ver < seen || other {
                return Err(format!(
                    "lost: chunk {chunk} version {seen} has been acknowledged or could be read, but t{} ({:?}) may be left with version {ver}{}",
                    member.target,
                    member.state(),
                    if other { " of another update" } else { "" }
                ));
            }
        }
        Ok(())
    }

    /// Nothing is left to do: everything is decided, everybody serves, all are equal.
    pub(super) fn judge_rest(&self, state: &State) -> Result<(), String> {
        let open = state.ledger().clients.iter().position(|c| c.outcome == Outcome::Open);
        if let Some(update) = open {
            return Err(format!("stuck: update {update} is not decided"));
        }
        let chain = state.members().chain();
        if chain.serving().count() != usize::from(self.plan.targets) {
            return Err(format!("stuck: not everybody serves: {chain:?}"));
        }
        for key in &self.keys {
            let first = state.target(1).disk.memory.committed(key);
            for t in state.ids() {
                let target = state.target(t);
                if target.disk.memory.committed(key) != first || !target.disk.memory.clean(key) {
                    return Err(format!("unequal at rest: t1 and t{t} in chunk {key}"));
                }
                let busy = target.replica.as_ref().map_or(0, |r| r.load());
                if busy > 0 && state.ledger().reader.is_none() {
                    return Err(format!("stuck: t{t} has {busy} things under way"));
                }
            }
        }
        Ok(())
    }
}
