//! A topic's due axis in memory: an ordered map of positions, about 32 bytes an event.
//!
//! Must hold: one entry per applied event of the topic; a position is never inserted twice.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use super::due_source::{DueEvent, DueSource};
use crate::base::ids::Position;

/// See the module.
#[derive(Debug, Default)]
pub struct MemoryIndex {
    /// Position to `due - schedule_ts`, saturated: a time passed 49 days before the append is as
    /// good as any other that has passed, and a saturated value errs on the late side.
    events: BTreeMap<Position, u32>,
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
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        let before = self.events.insert(position, passed);
        assert!(before.is_none(), "an event is applied once");
    }

    /// The longest time by which an event of this topic was published after its `schedule_ts`, ms:
    /// how far behind a `schedule_ts` its position can lie.
    pub fn max_passed_ms(&self) -> u64 {
        self.max_passed_ms
    }
}

impl DueSource for MemoryIndex {
    fn after(&self, position: Position) -> impl Iterator<Item = DueEvent> + '_ {
        self.events
            .range((Excluded(position), Unbounded))
            .map(|(position, passed)| event(*position, *passed))
    }

    fn at(&self, position: Position) -> Option<DueEvent> {
        self.events.get(&position).map(|passed| event(position, *passed))
    }

    fn len(&self) -> u64 {
        self.events.len() as u64
    }
}

fn event(position: Position, passed: u32) -> DueEvent {
    let is_exact = passed < u32::MAX;
    DueEvent { position, schedule_ts: position.due - u64::from(passed), is_exact }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Offset;

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
    fn a_time_long_passed_is_never_taken_for_a_later_due() {
        let mut index = MemoryIndex::default();
        let due = 1 << 40;
        index.insert(Position::new(due, Offset(0)), 1);
        let event = index.at(Position::new(due, Offset(0))).unwrap();
        assert!(event.schedule_ts >= 1 && event.schedule_ts <= due);
    }
}
