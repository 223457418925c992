//! Replays compared with what is known: exactly the committed due events of the range, in order.

use chronosdb::base::api::{PartitionSet, ReplayRange, ReplaySpec, Replayed};

use chronosdb::base::ids::Position;

use super::records::{Moment, Record, Records};
use crate::hold;

/// One replay under way.
pub struct Replay {
    spec: ReplaySpec,
    started: Moment,
    /// Lowest wall since it began: what was due all the time must come.
    lowest_ms: u64,
    /// Partition and offset of what came, in order.
    returned: Vec<(u16, u64)>,
    last_due: Option<Position>,
}

impl Replay {
    pub fn new(spec: ReplaySpec, now: Moment) -> Self {
        let lowest_ms = now.lowest_ms;
        Self { spec, started: now, lowest_ms, returned: Vec::new(), last_due: None }
    }

    pub fn wall_stepped(&mut self, wall_ms: u64) {
        self.lowest_ms = self.lowest_ms.min(wall_ms);
    }

    /// An event comes; `records` has seen it already.
    pub fn came(&mut self, replayed: &Replayed) {
        let event = &replayed.event;
        let place = (event.partition.0, event.offset.0);
        let number = self.returned.len() as u64;
        hold!(
            ReplayExact,
            replayed.index == number,
            "{place:?} is {}, not {number}",
            replayed.index
        );
        hold!(
            ReplayExact,
            event.topic == self.spec.topic && self.reads(place.0),
            "{place:?} of {} is not asked for by {:?}",
            event.topic,
            self.spec
        );
        match self.spec.range {
            ReplayRange::Time { start, end } => {
                let until = end.unwrap_or(u64::MAX);
                let inside = (start..=until).contains(&event.schedule_ts);
                hold!(
                    ReplayExact,
                    inside,
                    "{place:?}: {} is not in {:?}",
                    event.schedule_ts,
                    self.spec
                );
                let position = event.position();
                let grows = self.last_due.is_none_or(|last| last <= position);
                hold!(ReplayExact, grows, "{position:?} comes after {:?}", self.last_due);
                self.last_due = Some(position);
            }
            ReplayRange::Offsets { start, count } => {
                hold!(ReplayExact, place.1 >= start.0, "{place:?} is before {start}");
                hold!(ReplayExact, number < count, "more than {count} came");
                let grows = self.returned.last().is_none_or(|last| *last < place);
                hold!(ReplayExact, grows, "{place:?} comes after {:?}", self.returned.last());
            }
        }
        self.returned.push(place);
    }

    /// The stream has ended well: nothing of the range is missing.
    pub fn finished(mut self, records: &Records) {
        let full = match self.spec.range {
            ReplayRange::Offsets { count, .. } => self.returned.len() as u64 == count,
            ReplayRange::Time { .. } => false,
        };
        let last = if full { self.returned.last().copied() } else { None };
        self.returned.sort_unstable();
        let repeated = self.returned.windows(2).any(|pair| pair[0] == pair[1]);
        hold!(ReplayExact, !repeated, "{:?} came twice in {:?}", self.returned, self.spec);
        for (number, partition) in records.partitions.iter().enumerate() {
            let number = number as u16;
            if partition.rotten || !self.reads(number) {
                continue;
            }
            for (offset, record) in records.of_topic(number, &self.spec.topic) {
                let place = (number, offset);
                let kept = match self.spec.range {
                    ReplayRange::Time { .. } => !records.may_be_gone(record, records.highest_ms),
                    ReplayRange::Offsets { .. } => {
                        !records.may_have_left(record, records.highest_ms)
                    }
                };
                if kept && self.expects(offset, record) && last.is_none_or(|last| place <= last) {
                    let there = self.returned.binary_search(&place).is_ok();
                    hold!(
                        ReplayExact,
                        there,
                        "{place:?} is missing from {:?}: {record:?}",
                        self.spec
                    );
                }
            }
        }
    }

    fn expects(&self, offset: u64, record: &Record) -> bool {
        let committed = record.acked_us.is_some_and(|at| at < self.started.time_us);
        let due = record.schedule_ts <= self.lowest_ms;
        let inside = match self.spec.range {
            ReplayRange::Time { start, end } => {
                (start..=end.unwrap_or(u64::MAX)).contains(&record.schedule_ts)
            }
            ReplayRange::Offsets { start, .. } => offset >= start.0,
        };
        committed && due && inside
    }

    fn reads(&self, partition: u16) -> bool {
        match &self.spec.partitions {
            PartitionSet::All => true,
            PartitionSet::These(these) => these.iter().any(|p| p.0 == partition),
        }
    }
}
