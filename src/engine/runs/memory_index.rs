//! A topic's due axis in memory: an ordered map of positions, 24 bytes an event where they come
//! in order, about 35 where they do not.
//!
//! Must hold: one entry per applied event of the topic; a position is never inserted twice.

use std::collections::BTreeMap;

use super::due_source::{DueEvent, DueSource};
use crate::base::ids::{Offset, Position};
use crate::base::position_map::PositionMap;

/// In the place of a passed time: the event came out of a run, and had none.
const LOADED: u32 = u32::MAX;
/// In the place of a passed time that does not fit (49 days): where log time runs far ahead of the
/// wall. These are few, and kept apart.
const LONG: u32 = u32::MAX - 1;

/// What came of [`MemoryIndex::trim`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Events looked at.
    pub looked: usize,
    /// Events that are gone.
    pub removed: u64,
    /// There is more behind this; `None`: it is over.
    pub more: Option<Position>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct MemoryIndex {
    /// Position to `due - schedule_ts`, ms, or what stands in its place.
    events: PositionMap<u32>,
    /// Due and `schedule_ts` of the events whose passed time is long.
    long: BTreeMap<Offset, (u64, u64)>,
    max_passed_ms: u64,
}

impl MemoryIndex {
    /// Adds an event.
    ///
    /// # Panics
    /// If it is there already, or due before its `schedule_ts`.
    pub fn insert(&mut self, position: Position, schedule_ts: u64) {
        assert!(position.due >= schedule_ts, "an event is never due before its schedule_ts");
        let passed = position.due - schedule_ts;
        self.max_passed_ms = self.max_passed_ms.max(passed);
        if Self::passed(position, schedule_ts) == LONG {
            self.long.insert(position.offset, (position.due, schedule_ts));
        }
        let new = self.events.insert(position, Self::passed(position, schedule_ts));
        assert!(new, "an event is applied once");
    }

    /// `due - schedule_ts` in 4 bytes, for [`Self::position`].
    pub fn passed(position: Position, schedule_ts: u64) -> u32 {
        let passed = u32::try_from(position.due - schedule_ts);
        passed.map_or(LONG, |passed| passed.min(LONG))
    }

    /// As [`Self::passed`], for an event that need not be there.
    pub fn passed_of(&mut self, position: Position, schedule_ts: u64) -> u32 {
        let passed = Self::passed(position, schedule_ts);
        if passed == LONG {
            self.long.insert(position.offset, (position.due, schedule_ts));
        }
        passed
    }

    /// The place of an event that is there, from its `schedule_ts` and its [passed](Self::passed)
    /// time.
    ///
    /// # Panics
    /// If it is neither there nor was told to [`Self::passed_of`].
    pub fn position(&self, offset: Offset, schedule_ts: u64, passed: u32) -> Position {
        let due = match passed {
            LONG => self.long[&offset].0,
            passed => schedule_ts + u64::from(passed),
        };
        Position::new(due, offset)
    }

    /// Adds an event out of a run, which is due at its `schedule_ts`. False if it is there already.
    pub fn insert_loaded(&mut self, position: Position) -> bool {
        self.events.insert(position, LOADED)
    }

    /// A run carries an event that stays, and is due at its `schedule_ts`.
    ///
    /// # Panics
    /// If it is not there, or had passed its time.
    pub fn carried(&mut self, position: Position) {
        let passed = self.events.get_mut(position).expect("it stays");
        assert!(*passed == 0, "only what is due at its schedule_ts is carried");
        *passed = LOADED;
    }

    /// Lets go of an event that a run carries.
    ///
    /// # Panics
    /// If it is not there.
    pub fn remove(&mut self, position: Position) {
        let was = self.events.remove(position);
        self.long.remove(&position.offset);
        assert!(was.is_some(), "only what is there leaves");
    }

    /// Lets go of what lies behind `after` up to `end` and `may_go`, looking at up to `limit`
    /// events. Long passed times are kept: the wheel may still ask for them.
    pub fn trim(
        &mut self,
        after: Position,
        end: Position,
        limit: usize,
        may_go: impl Fn(Offset) -> bool,
    ) -> Trimmed {
        let mut trimmed = Trimmed::default();
        if after >= end {
            return trimmed;
        }
        let mut gone = Vec::new();
        for (position, _) in self.events.after(after).take_while(|(p, _)| *p <= end) {
            if trimmed.looked == limit {
                trimmed.more = Some(position);
                break;
            }
            trimmed.looked += 1;
            if may_go(position.offset) {
                gone.push(position);
            }
        }
        for position in &gone {
            self.events.remove(*position);
        }
        trimmed.removed = gone.len() as u64;
        // The one that was not looked at is the first of the next look.
        trimmed.more = trimmed.more.map(Position::before);
        trimmed
    }

    /// Events that are not here may have been published this long after their `schedule_ts`, ms.
    pub fn passed_up_to(&mut self, ms: u64) {
        self.max_passed_ms = self.max_passed_ms.max(ms);
    }

    /// The longest time by which an event of this topic was published after its `schedule_ts`, ms:
    /// how far behind a `schedule_ts` its position can lie.
    pub fn max_passed_ms(&self) -> u64 {
        self.max_passed_ms
    }
}

impl DueSource for MemoryIndex {
    fn after(&self, position: Position) -> impl Iterator<Item = DueEvent> + '_ {
        self.events.after(position).map(|(position, passed)| self.event(position, passed))
    }

    fn at(&self, position: Position) -> Option<DueEvent> {
        self.events.get(position).map(|passed| self.event(position, passed))
    }

    fn len(&self) -> u64 {
        self.events.len() as u64
    }
}

impl MemoryIndex {
    fn event(&self, position: Position, passed: u32) -> DueEvent {
        let schedule_ts = match passed {
            LOADED => position.due,
            LONG => self.long[&position.offset].1,
            passed => position.due - u64::from(passed),
        };
        DueEvent { position, schedule_ts, is_loaded: passed == LOADED }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_due_order_with_their_schedule() {
        let mut index = MemoryIndex::default();
        index.insert(Position::new(30, Offset(0)), 30);
        index.insert(Position::new(20, Offset(1)), 5);
        index.insert(Position::new(20, Offset(2)), 20);
        let all: Vec<_> = index.after(Position::START).collect();
        assert_eq!(all.iter().map(|e| e.position.offset.0).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(all.iter().map(|e| e.schedule_ts).collect::<Vec<_>>(), [5, 20, 30]);
        assert_eq!(index.after(Position::new(20, Offset(1))).count(), 2);
        assert_eq!(index.max_passed_ms(), 15);
    }

    #[test]
    fn what_is_loaded_is_told_apart_and_never_twice_there() {
        let mut index = MemoryIndex::default();
        index.insert(Position::new(1 << 40, Offset(0)), 1);
        assert!(index.insert_loaded(Position::new(20, Offset(1))));
        assert!(!index.insert_loaded(Position::new(20, Offset(1))));
        let loaded: Vec<_> = index.after(Position::START).map(|e| e.is_loaded).collect();
        assert_eq!(loaded, [true, false]);
        assert_eq!(index.at(Position::new(20, Offset(1))).unwrap().schedule_ts, 20);
        index.remove(Position::new(20, Offset(1)));
        assert_eq!(index.len(), 1);
    }

    #[test]
    fn a_trim_goes_on_where_it_stopped() {
        let at = |n: u64| Position::new(n, Offset(n));
        let mut index = MemoryIndex::default();
        (1..=9).for_each(|n| index.insert(at(n), n));
        let even = |offset: Offset| offset.0.is_multiple_of(2);
        let first = index.trim(Position::START, at(7), 4, even);
        assert_eq!((first.looked, first.removed), (4, 2));
        let rest = index.trim(first.more.expect("more"), at(7), 4, even);
        assert_eq!(rest, Trimmed { looked: 3, removed: 1, more: None });
        let left: Vec<_> = index.after(Position::START).map(|e| e.position.due).collect();
        assert_eq!(left, [1, 3, 5, 7, 8, 9]);
    }

    #[test]
    fn a_time_passed_long_ago_is_kept_exactly() {
        let long = u64::from(LONG);
        for passed in [0, 1, long - 1, long, long + 1, long + 2, 366 * 86_400_000, 1 << 41] {
            let mut index = MemoryIndex::default();
            let position = Position::new(1 << 42, Offset(7));
            let schedule_ts = position.due - passed;
            index.insert(position, schedule_ts);
            let event = index.at(position).unwrap();
            assert_eq!((event.position, event.schedule_ts), (position, schedule_ts));
            let kept = MemoryIndex::passed(position, schedule_ts);
            assert_eq!(index.position(position.offset, schedule_ts, kept), position);
            index.remove(position);
            assert!(index.long.is_empty());
        }
    }
}
