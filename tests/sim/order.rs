//! First deliveries of a stream come in (due, offset) order per partition, among events that were
//! due and committed when the later one was handed over.

use std::collections::{BTreeMap, VecDeque};

use chronosdb::base::ids::Position;

use super::groups::Facts;
use super::records::{Moment, Record};
use crate::hold;

/// First deliveries remembered per partition.
const REMEMBERED: usize = 128;

struct First {
    position: Position,
    at_us: u64,
    /// What the wall had surely reached by then.
    noticed_ms: u64,
}

/// The first deliveries of one stream.
pub struct Order {
    firsts: BTreeMap<u16, VecDeque<First>>,
}

impl Order {
    pub fn new() -> Self {
        Self { firsts: BTreeMap::new() }
    }

    /// An event is delivered to the group for the first time. `quiet`: it was surely never granted
    /// to another stream before.
    pub fn first(
        &mut self,
        position: Position,
        partition: u16,
        record: &Record,
        quiet: bool,
        now: Moment,
        facts: &Facts,
    ) {
        let firsts = self.firsts.entry(partition).or_default();
        if let Some(committed_us) = record.acked_us {
            let due_ms = record.schedule_ts + 2 * facts.tick_ms + 1;
            let overtaken = firsts.iter().find(|f| {
                let committed = committed_us + facts.slack_us < f.at_us;
                position < f.position && committed && due_ms < f.noticed_ms
            });
            if let Some(other) = overtaken.filter(|_| quiet) {
                hold!(
                    DueOrder,
                    false,
                    "partition {partition}: {position:?} comes after {:?}, {} us later",
                    other.position,
                    now.time_us - other.at_us
                );
            }
        }
        if firsts.len() == REMEMBERED {
            firsts.pop_front();
        }
        firsts.push_back(First { position, at_us: now.time_us, noticed_ms: now.noticed_ms });
    }
}
