//! Deadlines of leases. What is handed out together ends together, so that one timer does for up to
//! `LEASES` of them: setting and cancelling one for each event cost as much as the lease itself.
//!
//! Must hold: a lease has one deadline, and lies between the first and the last event of it; a
//! deadline has a lease.

use std::collections::HashMap;
use std::num::NonZeroU64;

use ahash::RandomState;

use super::lease::MemberKey;
use crate::base::ids::Position;
use crate::base::limits;

/// Leases of a deadline at most: one that ends is no longer than a turn of other events.
const LEASES: u32 = limits::TICK_EVENTS as u32;

/// Names a deadline among those of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeadlineNo(NonZeroU64);

/// The deadlines of a group. `H` is the handle of a timer.
#[derive(Debug)]
pub struct Deadlines<H> {
    next: NonZeroU64,
    open: HashMap<DeadlineNo, Deadline<H>, RandomState>,
}

#[derive(Debug)]
struct Deadline<H> {
    timer: H,
    member: Option<MemberKey>,
    first: Position,
    last: Position,
    leases: u32,
}

/// What ends with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left<H> {
    /// Who has held it; `None` if the member was gone.
    pub member: Option<MemberKey>,
    /// The timer, to be cancelled, if it was the deadline's last lease.
    pub timer: Option<H>,
}

impl<H> Default for Deadlines<H> {
    fn default() -> Self {
        let state = RandomState::with_seeds(1, 2, 3, 4);
        Self { next: NonZeroU64::MIN, open: HashMap::with_hasher(state) }
    }
}

impl<H: Copy> Deadlines<H> {
    /// The name of the deadline that [`Self::begin`] begins next.
    pub fn next(&self) -> DeadlineNo {
        DeadlineNo(self.next)
    }

    /// A new deadline, of one lease of this member, which ends when this timer does. `None`: the
    /// member is gone, and late acks are awaited.
    pub fn begin(&mut self, timer: H, member: Option<MemberKey>, position: Position) -> DeadlineNo {
        let number = self.next();
        self.next = self.next.checked_add(1).expect("below 2^64");
        let (first, last) = (position, position);
        self.open.insert(number, Deadline { timer, member, first, last, leases: 1 });
        number
    }

    /// A lease of the same member has this deadline, too, of a later event; false if it has all
    /// that it may have, or is over.
    pub fn join(&mut self, number: DeadlineNo, position: Position) -> bool {
        let Some(deadline) = self.open.get_mut(&number) else { return false };
        if deadline.leases == LEASES {
            return false;
        }
        assert!(position > deadline.last, "leases of a deadline come in order");
        deadline.leases += 1;
        deadline.last = position;
        true
    }

    /// A lease ends.
    pub fn leave(&mut self, number: DeadlineNo) -> Left<H> {
        let deadline = self.open.get_mut(&number).expect("a lease has a deadline");
        deadline.leases -= 1;
        let (member, timer) = (deadline.member, deadline.timer);
        let is_last = deadline.leases == 0;
        if is_last {
            self.open.remove(&number);
        }
        Left { member, timer: is_last.then_some(timer) }
    }

    /// Who holds the leases of this deadline.
    pub fn member(&self, number: DeadlineNo) -> Option<MemberKey> {
        self.open.get(&number).and_then(|deadline| deadline.member)
    }

    /// The first and the last event that have had a lease with this deadline; `None` if it is over.
    pub fn range(&self, number: DeadlineNo) -> Option<(Position, Position)> {
        self.open.get(&number).map(|deadline| (deadline.first, deadline.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Offset, ShardId, SubscriptionId};

    fn at(due: u64) -> Position {
        Position::new(due, Offset(0))
    }

    const MEMBER: Option<MemberKey> =
        Some(MemberKey { shard: ShardId(1), subscription: SubscriptionId(2) });

    #[test]
    fn a_deadline_ends_with_its_last_lease() {
        let mut deadlines = Deadlines::default();
        let number = deadlines.begin("timer", MEMBER, at(1));
        assert!(deadlines.join(number, at(2)));
        assert_eq!(deadlines.leave(number), Left { member: MEMBER, timer: None });
        assert_eq!(deadlines.range(number), Some((at(1), at(2))));
        assert_eq!(deadlines.member(number), MEMBER);
        assert_eq!(deadlines.leave(number), Left { member: MEMBER, timer: Some("timer") });
        assert_eq!((deadlines.range(number), deadlines.member(number)), (None, None));
        assert!(!deadlines.join(number, at(3)), "it is over");
        assert_ne!(deadlines.begin("another", None, at(3)), number);
    }

    #[test]
    fn a_deadline_has_no_more_leases_than_it_may() {
        let mut deadlines = Deadlines::default();
        let number = deadlines.begin((), None, at(1));
        assert!((2..=u64::from(LEASES)).all(|due| deadlines.join(number, at(due))));
        assert!(!deadlines.join(number, at(u64::from(LEASES) + 1)));
        let left = (0..LEASES).filter(|_| deadlines.leave(number).timer.is_some()).count();
        assert_eq!(left, 1, "its timer is given back once");
    }

    #[test]
    #[should_panic(expected = "in order")]
    fn leases_of_a_deadline_come_in_order() {
        let mut deadlines = Deadlines::default();
        let number = deadlines.begin((), None, at(2));
        deadlines.join(number, at(1));
    }
}
