//! A group's durable position in one partition: the frontier and two small sets.
//!
//! Promises: state is O(events in flight), never O(pending): events that are not due lie beyond the
//! frontier and are in no set. Every change comes from an applied entry, so every replica has the
//! same cursor.
//!
//! ```text
//!   due axis ----------------- frontier ------------------------------>
//!     settled, but for `unsettled`   |   unsettled, but for `settled`
//! ```
//!
//! Must hold: `unsettled` lies at or behind the frontier, `settled` beyond it.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::ids::Position;

/// Beyond this many settled events ahead of the frontier, it is worth passing a straggler.
const SETTLED_SOFT: usize = 256;
/// Stragglers passed at once at most: a frontier never drags a crowd of pending events behind it.
const PASS_AT_ONCE: usize = 64;

/// What is recorded about an event that failed and will be tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Attempts that ended in a nack or an expired lease.
    pub attempts: u32,
    /// Log time (Unix ms) before which it is not tried again.
    pub not_before: u64,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    frontier: Position,
    settled: BTreeSet<Position>,
    unsettled: BTreeSet<Position>,
    failures: BTreeMap<Position, Failures>,
}

impl Cursor {
    /// A cursor restored from its parts (a state entry).
    ///
    /// # Panics
    /// If a set lies on the wrong side of the frontier.
    pub fn restore(
        frontier: Position,
        settled: BTreeSet<Position>,
        unsettled: BTreeSet<Position>,
        failures: BTreeMap<Position, Failures>,
    ) -> Self {
        let cursor = Self { frontier, settled, unsettled, failures };
        cursor.check();
        cursor
    }

    /// Everything at or behind it is settled, but for [`Self::unsettled`].
    pub fn frontier(&self) -> Position {
        self.frontier
    }

    /// Settled events beyond the frontier.
    pub fn settled(&self) -> &BTreeSet<Position> {
        &self.settled
    }

    /// Unsettled events at or behind the frontier.
    pub fn unsettled(&self) -> &BTreeSet<Position> {
        &self.unsettled
    }

    /// Failed attempts of events that are not settled.
    pub fn failures(&self) -> &BTreeMap<Position, Failures> {
        &self.failures
    }

    /// Whether the event at this position is done for the group.
    pub fn is_settled(&self, position: Position) -> bool {
        if position <= self.frontier {
            !self.unsettled.contains(&position)
        } else {
            self.settled.contains(&position)
        }
    }

    /// Size of the sets: what the position costs beside the frontier.
    pub fn size(&self) -> usize {
        self.settled.len() + self.unsettled.len()
    }

    /// An event of the group has been applied: one that lands at or behind the frontier (it was
    /// published with a time already passed) must not be taken for settled.
    pub fn joined(&mut self, position: Position) {
        if position <= self.frontier {
            let new = self.unsettled.insert(position);
            assert!(new, "an event is applied once");
        }
    }

    /// An ack or a dead letter has been applied. False if it was settled already.
    /// [`Self::advance`] is due afterwards, once per entry.
    pub fn settle(&mut self, position: Position) -> bool {
        self.failures.remove(&position);
        if position <= self.frontier {
            self.unsettled.remove(&position)
        } else {
            self.settled.insert(position)
        }
    }

    /// A failed attempt has been applied.
    pub fn fail(&mut self, position: Position, failures: Failures) {
        if !self.is_settled(position) {
            self.failures.insert(position, failures);
        }
    }

    /// Moves the frontier over settled events. `beyond` yields the group's applied events behind
    /// the frontier's successor on, in order; only as many as needed are taken from it.
    ///
    /// A single unsettled straggler would hold the frontier, and the settled set would grow with
    /// every ack behind it: once that set is large and the next settled event is near, the
    /// stragglers before it are passed and remembered one by one.
    pub fn advance(&mut self, beyond: impl Iterator<Item = Position>) {
        let mut passed: Vec<Position> = Vec::new();
        for position in beyond {
            if self.settled.is_empty() {
                break;
            }
            assert!(position > self.frontier, "the frontier moves forward only");
            if self.settled.remove(&position) {
                self.unsettled.extend(passed.drain(..));
                self.frontier = position;
            } else if self.settled.len() > SETTLED_SOFT && passed.len() < PASS_AT_ONCE {
                passed.push(position);
            } else {
                break;
            }
        }
        self.check();
    }

    fn check(&self) {
        assert!(self.settled.first().is_none_or(|first| *first > self.frontier));
        assert!(self.unsettled.last().is_none_or(|last| *last <= self.frontier));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Offset;

    fn at(due: u64) -> Position {
        Position::new(due, Offset(due))
    }

    fn beyond(events: &BTreeSet<Position>, cursor: &Cursor) -> Vec<Position> {
        events.iter().copied().filter(|p| *p > cursor.frontier()).collect()
    }

    fn settle(cursor: &mut Cursor, events: &BTreeSet<Position>, due: u64) {
        cursor.settle(at(due));
        let rest = beyond(events, cursor);
        cursor.advance(rest.into_iter());
    }

    #[test]
    fn the_frontier_waits_for_the_first_unsettled_event() {
        let events: BTreeSet<_> = (1..=5).map(at).collect();
        let mut cursor = Cursor::default();
        settle(&mut cursor, &events, 2);
        assert_eq!(cursor.frontier(), Position::START);
        settle(&mut cursor, &events, 1);
        assert_eq!(cursor.frontier(), at(2));
        assert_eq!(cursor.size(), 0);
    }

    #[test]
    fn an_event_applied_behind_the_frontier_is_unsettled() {
        let events: BTreeSet<_> = (1..=2).map(at).collect();
        let mut cursor = Cursor::default();
        settle(&mut cursor, &events, 1);
        settle(&mut cursor, &events, 2);
        let late = Position::new(1, Offset(9));
        cursor.joined(late);
        assert!(!cursor.is_settled(late));
        assert!(cursor.settle(late));
        assert!(cursor.is_settled(late));
        assert!(!cursor.settle(late), "a second ack changes nothing");
    }

    #[test]
    fn a_straggler_does_not_make_the_settled_set_grow() {
        let events: BTreeSet<_> = (1..=5_000).map(at).collect();
        let mut cursor = Cursor::default();
        for due in 2..=5_000 {
            settle(&mut cursor, &events, due);
            assert!(cursor.size() <= SETTLED_SOFT + 2, "{} in the sets", cursor.size());
        }
        assert!(!cursor.is_settled(at(1)));
        settle(&mut cursor, &events, 1);
        assert!((1..=5_000).all(|due| cursor.is_settled(at(due))));
    }

    #[test]
    fn events_settled_far_ahead_leave_the_pending_ones_out_of_the_sets() {
        // A clock that stepped a year ahead and back: some events of that year are settled.
        let near = (1..=1_000).map(at);
        let events: BTreeSet<_> = near.chain((1_000_000..1_000_400).map(at)).collect();
        let mut cursor = Cursor::default();
        for due in 1_000_000..1_000_400 {
            settle(&mut cursor, &events, due);
        }
        assert_eq!(cursor.frontier(), Position::START, "a thousand pending ones are not passed");
        assert!(cursor.unsettled().is_empty());
    }
}
