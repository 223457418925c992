//! The story of the wheel's edge, owner half: events are in the wheel up to `armed_to`, which moves
//! on before the wall clock comes near.

use super::load::end_of;
use crate::base::ids::TopicNo;
use crate::engine::horizon::Arming;
use crate::engine::partition::Partition;
use crate::engine::runs::DueSource;
use crate::engine::step::Step;

impl Partition {
    /// Moves `armed_to` on, `limit` events at a time. True if there is more to do at once.
    pub(super) fn advance_arming(&mut self, step: &mut Step<'_>, limit: usize) -> bool {
        let ahead = step.config.horizon_ms;
        let wall = step.now.wall_ms();
        if self.horizon.arming.is_none() {
            let due = self.horizon.armed_to.saturating_sub(ahead / 2) <= wall;
            if !due || self.horizon.loads > 0 {
                return false;
            }
            let from = end_of(self.horizon.armed_to);
            self.horizon.armed_to = wall + ahead;
            if self.horizon.unarmed == 0 {
                return false;
            }
            let below = self.applied_end;
            // Where log time runs ahead of the wall an event is due behind its `schedule_ts`.
            let to = self.horizon.armed_to.max(self.clock.last());
            self.horizon.arming = Some(Arming { topic: 0, at: from, from, to, below });
        }
        let Some(mut arming) = self.horizon.arming.take() else { return false };
        let mut found = Vec::new();
        let mut looked = 0;
        while (arming.topic as usize) < self.topics.count() && looked < limit {
            let topic = self.topics.get(TopicNo(arming.topic));
            let mut over = true;
            for event in topic.axis.after(arming.at) {
                if event.position.due > arming.to {
                    break;
                }
                if looked == limit {
                    over = false;
                    break;
                }
                looked += 1;
                arming.at = event.position;
                let near = arming.from.due < event.schedule_ts
                    && event.schedule_ts <= self.horizon.armed_to;
                if near && event.position.offset < arming.below {
                    found.push((TopicNo(arming.topic), event.position, event.schedule_ts));
                }
            }
            if over {
                (arming.topic, arming.at) = (arming.topic + 1, arming.from);
                looked += 1;
            }
        }
        self.horizon.unarmed -= found.len() as u64;
        for (topic, position, schedule_ts) in found {
            self.arm(step, topic, position, schedule_ts);
        }
        if (arming.topic as usize) < self.topics.count() {
            self.horizon.arming = Some(arming);
        }
        true
    }

    /// When `armed_to` should be moved on, Unix ms.
    pub(super) fn next_arming_ms(&self, horizon_ms: u64) -> Option<u64> {
        let waits = self.horizon.unarmed > 0 && self.horizon.loads == 0;
        waits.then(|| self.horizon.armed_to.saturating_sub(horizon_ms / 2))
    }
}
