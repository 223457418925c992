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
use crate::base::position_map::PositionMap;

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
    settled: PositionMap<()>,
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
        settled: PositionMap<()>,
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
    pub fn settled(&self) -> &PositionMap<()> {
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
            self.settled.get(position).is_some()
        }
    }

    /// Where it stands, for whoever only wants to know what is settled.
    #[must_use]
    pub fn without_failures(&self) -> Self {
        let (settled, unsettled) = (self.settled.clone(), self.unsettled.clone());
        Self { frontier: self.frontier, settled, unsettled, failures: BTreeMap::new() }
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
    pub fn settle(&mut self, position: Position) -> bool {
        self.failures.remove(&position);
        if position <= self.frontier {
            self.unsettled.remove(&position)
        } else {
            self.settled.insert(position, ())
        }
    }

    /// A failed attempt has been applied.
    pub fn fail(&mut self, position: Position, failures: Failures) {
        if !self.is_settled(position) {
            self.failures.insert(position, failures);
        }
    }

    /// An applied entry passes this unsettled event with the frontier that follows in it:
    /// [`Self::advance`] is due, in the same entry.
    pub fn pass(&mut self, position: Position) {
        assert!(!self.is_settled(position), "only what is not settled has to be remembered");
        self.unsettled.insert(position);
    }

    /// Moves the frontier, which an applied entry names: everything at or behind it is settled, but
    /// for what was [passed](Self::pass) or was in the unsettled set before.
    ///
    /// # Panics
    /// If it moves back, or does not reach what was passed.
    pub fn advance(&mut self, frontier: Position) {
        assert!(frontier > self.frontier, "the frontier moves forward only");
        self.frontier = frontier;
        self.settled.remove_up_to(frontier);
        self.check();
    }

    fn check(&self) {
        assert!(self.settled.iter().next().is_none_or(|(first, ())| first > self.frontier));
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

    #[test]
    fn what_is_settled_behind_the_frontier_leaves_the_sets() {
        let mut cursor = Cursor::default();
        assert!(cursor.settle(at(2)) && cursor.settle(at(4)));
        cursor.pass(at(1));
        cursor.advance(at(3));
        assert_eq!(cursor.frontier(), at(3));
        assert_eq!(cursor.unsettled().iter().copied().collect::<Vec<_>>(), [at(1)]);
        assert_eq!(cursor.settled().iter().collect::<Vec<_>>(), [(at(4), ())]);
        assert!(cursor.is_settled(at(2)) && cursor.is_settled(at(3)) && cursor.is_settled(at(4)));
        assert!(!cursor.is_settled(at(1)) && !cursor.is_settled(at(5)));
        assert!(cursor.settle(at(1)), "a passed one is settled later");
        assert_eq!(cursor.size(), 1);
    }

    #[test]
    fn an_event_applied_behind_the_frontier_is_unsettled() {
        let mut cursor = Cursor::default();
        cursor.settle(at(1));
        cursor.advance(at(2));
        let late = Position::new(1, Offset(9));
        cursor.joined(late);
        assert!(!cursor.is_settled(late));
        assert!(cursor.settle(late));
        assert!(cursor.is_settled(late));
        assert!(!cursor.settle(late), "a second ack changes nothing");
    }

    #[test]
    #[should_panic(expected = "forward only")]
    fn a_frontier_never_moves_back() {
        let mut cursor = Cursor::default();
        cursor.advance(at(2));
        cursor.advance(at(1));
    }

    #[test]
    #[should_panic(expected = "only what is not settled")]
    fn what_is_settled_is_not_passed() {
        let mut cursor = Cursor::default();
        cursor.settle(at(2));
        cursor.pass(at(2));
    }
}
