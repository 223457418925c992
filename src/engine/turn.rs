//! What the inputs of one turn share: how much is handed out in it, and the credit that comes back.
//!
//! A turn is what lies between two [`Input::TurnEnd`](super::Input::TurnEnd)s. One group with a
//! million due events, or a thousand members, asks for as much as all others together: what it may
//! be handed out is bounded by turn, so that between two bites others are heard, writes go out and
//! sockets are read. Small grants, as those for events that come one by one, never wait.
//!
//! Must hold: a grant waits behind those that wait already; each turn serves some of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::delivery::MemberKey;
use crate::base::ids::{GroupNo, PartitionId};
use crate::base::limits;

/// A member's open grant that waits for a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaitingGrant {
    /// Of this partition.
    pub partition: PartitionId,
    /// To this group.
    pub group: GroupNo,
    /// To this member.
    pub member: MemberKey,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Turn {
    /// Deliveries handed out in this turn.
    handed: usize,
    /// In the order they came, each once: a member has one grant.
    waiting: VecDeque<WaitingGrant>,
    queued: BTreeSet<WaitingGrant>,
    /// Credit on its way back to members.
    credits: BTreeMap<MemberKey, u32>,
}

impl Turn {
    /// Whether a grant of so many events may be served at once.
    pub fn takes(&self, events: u32) -> bool {
        let room = self.waiting.is_empty() && self.handed < limits::TURN_DELIVERIES;
        events <= limits::GRANT_SMALL || room
    }

    /// Whether a grant that was there before its event may be served: half of a turn is for those
    /// that wait.
    pub fn takes_staying(&self) -> bool {
        self.handed < limits::TURN_DELIVERIES / 2
    }

    /// A grant that was not [taken](Self::takes) waits.
    /// One that waits already keeps its place.
    pub fn wait(&mut self, grant: WaitingGrant) {
        if self.queued.insert(grant) {
            self.waiting.push_back(grant);
        }
    }

    /// The next grant to serve, if this turn has room for it.
    pub fn next_grant(&mut self) -> Option<WaitingGrant> {
        if self.handed >= limits::TURN_DELIVERIES {
            return None;
        }
        let grant = self.waiting.pop_front()?;
        let was = self.queued.remove(&grant);
        assert!(was, "what waits is known to wait");
        Some(grant)
    }

    /// Whether grants wait for the next turn.
    pub fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Deliveries have been handed out.
    pub fn handed(&mut self, deliveries: usize) {
        self.handed += deliveries;
    }

    /// The turn is over.
    pub fn end(&mut self) {
        self.handed = 0;
    }

    /// Deliveries of a member are done with. It is told at the end of the step, once for all of
    /// them: a word for each would be answered by a grant for each.
    pub fn return_credit(&mut self, member: MemberKey, events: u32) {
        *self.credits.entry(member).or_default() += events;
    }

    /// Credit to be told to a member.
    pub fn next_credit(&mut self) -> Option<(MemberKey, u32)> {
        self.credits.pop_first()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{ShardId, SubscriptionId};

    fn member(number: u64) -> MemberKey {
        MemberKey { shard: ShardId(0), subscription: SubscriptionId(number) }
    }

    fn grant(number: u64) -> WaitingGrant {
        WaitingGrant { partition: PartitionId(0), group: GroupNo(0), member: member(number) }
    }

    #[test]
    fn a_turn_is_shared_and_small_grants_never_wait() {
        let mut turn = Turn::default();
        assert!(turn.takes(limits::GRANT_EVENTS) && !turn.is_behind());
        turn.handed(limits::TURN_DELIVERIES);
        assert!(!turn.takes(limits::GRANT_SMALL + 1) && turn.takes(limits::GRANT_SMALL));
        (1..=2).for_each(|number| turn.wait(grant(number)));
        turn.wait(grant(1)); // asked for once more: a read of its group's events is over
        assert_eq!(turn.next_grant(), None, "the turn has handed out its share");
        turn.end();
        assert!(!turn.takes(limits::GRANT_EVENTS), "others wait already");
        assert_eq!(turn.next_grant(), Some(grant(1)));
        turn.handed(limits::TURN_DELIVERIES);
        assert!(turn.is_behind() && turn.next_grant().is_none());
        turn.end();
        assert_eq!((turn.next_grant(), turn.next_grant()), (Some(grant(2)), None));
        assert!(turn.takes(limits::GRANT_EVENTS));
    }

    #[test]
    fn credit_is_told_once_for_each_member() {
        let mut turn = Turn::default();
        for (number, events) in [(2, 1), (1, 1), (2, 3)] {
            turn.return_credit(member(number), events);
        }
        assert_eq!(turn.next_credit(), Some((member(1), 1)));
        assert_eq!(turn.next_credit(), Some((member(2), 4)));
        assert_eq!(turn.next_credit(), None);
    }
}
