//! What a partition tells its engine about itself: when it wants to be woken, whether it is at
//! rest, and its gauges.

use super::recover::Phase;
use crate::base::ids::{Offset, Position, ShardId, TopicNo};
use crate::base::time::Now;
use crate::engine::log::Tail;
use crate::engine::partition::Partition;
use crate::engine::runs::DueSource;
use crate::engine::stats::{EngineStats, GroupStats};
use crate::engine::step::Step;

/// Due events counted for a group's lag at most.
const LAG_COUNT: usize = 100_000;

impl Partition {
    /// When something is due, boot time in microseconds.
    pub(in crate::engine) fn next_deadline(&self, now: Now, horizon_ms: u64) -> Option<u64> {
        let sync = self.next_sync_ms().map(|ms| ms * 1_000);
        if !self.armed {
            return sync;
        }
        let wall = self
            .wheel
            .next_deadline()
            .map(|due_ms| now.boot_us + due_ms.saturating_mul(1_000).saturating_sub(now.wall_us));
        let timer = self.timers.next_deadline().map(|ms| ms * 1_000);
        let rewound = self.horizon.rewound.first().map(|(due_ms, _)| *due_ms);
        let by_wall = [self.next_arming_ms(horizon_ms), self.next_load_ms(horizon_ms), rewound];
        let far = by_wall.into_iter().flatten().min();
        let far = far.map(|ms| now.boot_us + ms.saturating_mul(1_000).saturating_sub(now.wall_us));
        let serving = self.phase == Phase::Serving;
        let checkpoint = self.checkpoints.next_ms().filter(|_| serving).map(|ms| ms * 1_000);
        let retention = self.next_retention_ms().map(|ms| ms * 1_000);
        [sync, wall, timer, far, checkpoint, retention].into_iter().flatten().min()
    }

    /// Looks at the wall clock before anything depends on it. Where it has gone back, the wheel has
    /// let go of events that wait again now: what is due in spite of it is fired, the rest armed.
    pub(in crate::engine) fn observe_wall(&mut self, step: &mut Step<'_>) {
        let wall = step.now.wall_ms();
        let before = std::mem::replace(&mut self.wall_seen_ms, wall);
        if wall >= before || !self.armed {
            return;
        }
        let last_due = before.max(self.clock.last());
        let behind = Position::new(wall, Offset(u64::MAX));
        let topics: Vec<TopicNo> = self.topics.iter().map(|(no, _)| no).collect();
        for topic in topics {
            let axis = self.topics.get(topic).axis.after(behind);
            let open = axis.take_while(|event| event.position.due <= last_due);
            for event in open.collect::<Vec<_>>() {
                // What is not armed yet will be.
                if event.schedule_ts <= before.min(self.horizon.armed_to) {
                    self.arm(step, topic, event.position, event.schedule_ts);
                }
            }
        }
    }

    /// Whether nothing is to be done as soon as possible.
    pub(in crate::engine) fn is_quiet(&self) -> bool {
        let ids_rest = !self.lookups.is_ready() && !self.dedup.is_leaving();
        self.dirty.is_empty() && !self.horizon.is_busy() && ids_rest
    }

    /// Whether everything proposed is on the disk and answered.
    pub(in crate::engine) fn is_idle(&self) -> bool {
        match self.phase {
            Phase::Serving => {
                let tail_idle = self.tail.as_ref().is_none_or(Tail::is_idle);
                let synced = self.writes.synced >= self.writes.written;
                let nobody_waits = self.proposals.is_empty() && self.lookups.is_empty();
                tail_idle && nobody_waits && self.writes.is_idle() && synced
            }
            Phase::ReadOnly(_) | Phase::Unmounted | Phase::Deposed { .. } => true,
            _ => false,
        }
    }

    /// Makes everything written durable, in periodic mode too: the node is shutting down.
    pub(in crate::engine) fn drain(&mut self, step: &mut Step<'_>) {
        if self.writes.synced < self.writes.written {
            self.sync_now(step);
        }
    }

    /// Fills the buffer lent for a planned write.
    pub(in crate::engine) fn fill_write(&mut self, write: u64, buffer: &mut [u8]) {
        self.tail.as_mut().expect("a write was planned by a tail").fill_write(write, buffer);
    }

    /// Adds this partition's gauges.
    pub(in crate::engine) fn gauge(&self, shard: ShardId, stats: &mut EngineStats) {
        let status = self.status(shard);
        stats.pending += status.pending;
        stats.ready += status.ready;
        stats.in_flight += status.in_flight;
        stats.indexed += self.indexed();
        stats.log_bytes += self.sparse.bytes();
        stats.unflushed_bytes += self.unflushed();
        stats.on_disk += self.horizon.on_disk;
        stats.ids_in_memory += self.dedup.len() as u64;
        stats.ids_in_runs += self.dedup.runs().rows();
        stats.waiting_publishes += self.lookups.len() as u64;
        stats.high_watermarks.push((self.id.0, status.high_watermark.0));
        // The wheel stands still while nothing is due; what was published with its time already
        // past is due by the stamp of its entry.
        let now_ms = self.wheel.now_ms().max(self.clock.last());
        for group in &self.groups {
            let topic = self.topics.get(group.topic);
            let beyond = topic.axis.after(group.cursor.frontier());
            let due = beyond.take_while(|event| event.position.due <= now_ms).take(LAG_COUNT);
            let open = due.filter(|event| group.wants(event.position)).count();
            let from = group.cursor.frontier();
            let past = (from < topic.disk.floor).then(|| {
                let runs = self.horizon.all();
                runs.map(|run| run.records_behind(group.topic, from)).sum::<u64>() as usize
            });
            let open = open.max(past.unwrap_or(0).min(LAG_COUNT));
            let lag = open + group.cursor.unsettled().len();
            stats.groups.push(GroupStats {
                group: group.name.to_string(),
                topic: topic.name.to_string(),
                partition: self.id.0,
                members: group.dispatch.members.len() as u64,
                lag: lag as u64,
            });
        }
    }
}
