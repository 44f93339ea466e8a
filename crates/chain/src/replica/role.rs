//! What one version of a chain means for one of its members.

use catena_types::{Chain, ChainVer, PublicState, TargetId};

/// The chain as adopted, and this target's place in it.
#[derive(Clone, Hash)]
pub(super) struct Role {
    pub(super) chain: Chain,
    /// `None` if the target is not a member.
    pub(super) state: Option<PublicState>,
    /// Who sends updates and takes replies: the SERVING member before this one, or the source for a SYNCING target.
    pub(super) pred: Option<TargetId>,
    /// The SERVING member behind this one.
    pub(super) succ: Option<TargetId>,
    /// The SYNCING member, if this target is its source.
    pub(super) sink: Option<TargetId>,
    /// The last SERVING member: who answers version queries.
    pub(super) tail: Option<TargetId>,
}

impl Role {
    /// The place of `me` in `chain`.
    pub(super) fn new(me: TargetId, chain: Chain) -> Role {
        let state = chain.state_of(me);
        let serving: Vec<TargetId> = chain.serving().collect();
        let tail = serving.last().copied();
        let mut role = Role { state, pred: None, succ: None, sink: None, tail, chain };
        match state {
            Some(PublicState::Serving) => {
                let at = serving.iter().position(|&t| t == me).expect("a SERVING member is among the SERVING members");
                role.pred = at.checked_sub(1).map(|i| serving[i]);
                role.succ = serving.get(at + 1).copied();
                role.sink = if role.succ.is_none() { role.chain.syncing() } else { None };
            }
            Some(PublicState::Syncing) => role.pred = tail,
            _ => {}
        }
        role
    }

    pub(super) fn chain_ver(&self) -> ChainVer {
        self.chain.chain_ver
    }

    pub(super) fn serving(&self) -> bool {
        self.state == Some(PublicState::Serving)
    }

    pub(super) fn syncing(&self) -> bool {
        self.state == Some(PublicState::Syncing)
    }

    pub(super) fn is_head(&self) -> bool {
        self.serving() && self.pred.is_none()
    }

    pub(super) fn is_tail(&self) -> bool {
        self.serving() && self.succ.is_none()
    }
}
