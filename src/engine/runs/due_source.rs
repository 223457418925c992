//! The one reader of the due-time axis.

use crate::base::ids::Position;

/// An event on the due axis of one topic and partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueEvent {
    /// Its place.
    pub position: Position,
    /// The time it may be delivered from, Unix ms: at most `position.due`, less where the event
    /// was published with a time already passed.
    pub schedule_ts: u64,
    /// It came out of a run, which carries its record.
    pub is_loaded: bool,
}

/// Yields a topic's applied events in (due, offset) order. Due ones and future ones alike: the
/// caller knows the time.
pub trait DueSource {
    /// The events behind `position`, earliest first.
    fn after(&self, position: Position) -> impl Iterator<Item = DueEvent> + '_;

    /// The event at exactly this position.
    fn at(&self, position: Position) -> Option<DueEvent>;

    /// How many events there are.
    fn len(&self) -> u64;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
