//! Faults at joins: of a target that becomes SERVING somebody does not hear for as long as a lease may last.
//!
//! Either the member before it hears neither of that nor from it; or the store takes so long over it that the manager gives
//! the target up and takes it back as a sink meanwhile, and the target hears of the join when that is stored, but not of
//! what follows.

use catena_types::{PublicState, Routing, TargetId, Time};

use super::manager::MANAGER;
use super::{Ev, MS, World};

impl World {
    /// The manager has decided on this routing, which is not stored yet.
    pub(super) fn strike_joins(&mut self, present: &Routing, next: &Routing) {
        let plan = &self.plan;
        if self.faults_stopped || !(plan.late_joins || plan.slow_joins) {
            return;
        }
        for (tail, joined) in self.joins(present, next) {
            if self.plan.late_joins && self.rng.chance(1, 2) {
                self.coverage.hit("fault at a join");
                let until = self.now + self.lease();
                self.nodes[tail].process.iter_mut().for_each(|p| p.deaf.fill(until));
                self.cut_off(MANAGER, tail, until);
                self.cut_off(joined, tail, until);
            }
            if self.plan.slow_joins && self.rng.chance(1, 2) {
                self.coverage.hit("fault join slow");
                self.manager.hang_until(self.now + self.lease() * 2);
                let until = self.now + self.lease() * 13 / 10;
                self.cut_off(MANAGER, joined, until);
                self.cut_off(joined, MANAGER, until);
            }
        }
    }

    /// It is stored, and was handed out.
    pub(super) fn strike_stored_joins(&mut self, before: &Routing, stored: &Routing) {
        if self.faults_stopped || !self.plan.slow_joins {
            return;
        }
        for (_, joined) in self.joins(before, stored) {
            self.cut_off(MANAGER, joined, self.now + self.lease());
        }
    }

    /// The nodes of the members that are joined, and of those that join them.
    fn joins(&self, before: &Routing, after: &Routing) -> Vec<(usize, usize)> {
        let join = |chain: &catena_types::Chain| {
            let before = before.chain(chain.id)?;
            let joins = |t: &TargetId| before.state_of(*t) == Some(PublicState::Syncing);
            let (tail, joined) = (before.tail()?, chain.serving().find(joins)?);
            Some((self.slot_of(tail)?.0, self.slot_of(joined)?.0))
        };
        after.chains.iter().filter_map(join).collect()
    }

    fn cut_off(&mut self, from: usize, to: usize, until: Time) {
        self.net.blocked.insert((from, to));
        self.at(until, Ev::Heal { from, to });
    }

    fn lease(&self) -> Time {
        Time::from(self.plan.lease_ms) * MS
    }
}
