//! The second phase of a run: no more accidents, clients behave, the wall goes on past what is to
//! be drained, and within bounded world time everything is acknowledged or dead.

use chronosdb::base::ids::PartitionId;

use super::content::When;
use super::rule::{Rule, broken};
use super::world::{Client, Event, World};

/// Longest heal, world time.
const HEAL_MAX_US: u64 = 3_600_000_000;
const LOOK_EVERY_US: u64 = 50_000;

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Chaos,
    /// Producers find out what became of every event.
    Resolve,
    /// Readers read everything, members consume everything that is due.
    Consume,
    /// Nothing is left: long enough for every lease, backoff and delay to end.
    Quiet {
        until_us: u64,
    },
    /// Readers read everything once more.
    Read,
    Over,
}

impl World {
    /// Looks how far the healing is.
    pub fn heal(&mut self) {
        let now_us = self.clock.time_us();
        let resolved = self.stage == Stage::Resolve && self.resolved();
        self.stage = match self.stage {
            Stage::Chaos => self.end_chaos(),
            stage if !self.whole() => stage,
            Stage::Resolve if resolved => {
                self.jump();
                self.read_all();
                Stage::Consume
            }
            Stage::Consume if self.consumed() => {
                let engine = &self.profile.engine;
                let longest_ms = engine.ack_timeout_ms + engine.retry_backoff_max_ms + 5_000;
                Stage::Quiet { until_us: now_us + longest_ms * 1_000 }
            }
            Stage::Quiet { .. } if !self.consumed() => Stage::Consume,
            Stage::Quiet { until_us } if now_us >= until_us => {
                self.read_all();
                Stage::Read
            }
            Stage::Read if self.readers_done() => self.judge(),
            stage => stage,
        };
        if now_us > self.profile.chaos_us + HEAL_MAX_US {
            self.give_up();
        }
        if self.stage != Stage::Over {
            self.after(LOOK_EVERY_US, Event::Heal);
        }
    }

    fn end_chaos(&mut self) -> Stage {
        self.note(format_args!("heal"));
        self.effects_left = None;
        (self.fail_write, self.die_writing) = (false, false);
        self.set_wall(Some(self.clock.wall_max_ms() * 1_000 + 1_000));
        for client in &mut self.clients {
            match client {
                Client::Member(member, _) => member.heal(),
                Client::Admin(admin) => admin.heal(),
                _ => {}
            }
        }
        self.stage = Stage::Resolve;
        self.end_of_scarcity();
        self.wake_all();
        Stage::Resolve
    }

    /// The node is up and every partition is served.
    fn whole(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.recovering == 0) && !self.draining
    }

    fn resolved(&mut self) -> bool {
        let Self { clients, oracle, .. } = self;
        let records = &oracle.records;
        let hopeless = |n| records.partitions[records.partition_of(n).0 as usize].rotten;
        clients.iter_mut().all(|client| match client {
            Client::Producer(producer) => {
                producer.give_up(hopeless);
                producer.is_done()
            }
            _ => true,
        })
    }

    /// The wall goes on past everything that is to be drained.
    fn jump(&mut self) {
        if !self.profile.drain_all {
            return;
        }
        let partitions = self.oracle.records.partitions.iter();
        let stored = partitions.flat_map(|p| p.records.values().map(|r| r.schedule_ts)).max();
        let sent = self.oracle.records.contents.iter().filter_map(|content| match content.when {
            When::At(ts) => Some(ts),
            When::Delay(_) => None,
        });
        let latest = sent.max().max(stored).unwrap_or(0).max(self.clock.wall_max_ms() + 5_000);
        self.set_wall(Some((latest + 1_000) * 1_000));
    }

    fn read_all(&mut self) {
        let number = self.clients.len() - 1;
        if let Client::Reader(reader) = &mut self.clients[number] {
            reader.read_all();
        }
        self.wake(number, self.clock.time_us());
    }

    fn readers_done(&self) -> bool {
        let last = self.clients.last();
        last.is_none_or(|client| !matches!(client, Client::Reader(reader) if !reader.is_done()))
    }

    fn consumed(&self) -> bool {
        let said = |client: &Client| match client {
            Client::Member(member, _) => member.is_done(),
            Client::Admin(admin) => admin.is_done(),
            _ => true,
        };
        self.readers_done()
            && self.clients.iter().all(said)
            && self.oracle.unanswered().is_empty()
            && self.oracle.groups.unfinished(&self.oracle.records, self.moment()).is_empty()
    }

    /// The end: all parts are judged.
    fn judge(&mut self) -> Stage {
        if !self.consumed() {
            // Something became due in the meantime.
            return Stage::Consume;
        }
        let now = self.moment();
        let node = self.node.as_ref().expect("whole");
        for p in (0..self.profile.engine.partitions).map(PartitionId) {
            if !self.oracle.records.partitions[p.0 as usize].rotten {
                let shard = &node.shards[node.owner(p).0 as usize];
                self.oracle.judge(p, &shard.engine.audit(p), now);
            }
        }
        self.oracle.finish(now);
        Stage::Over
    }

    fn give_up(&self) -> ! {
        let left = self.oracle.groups.unfinished(&self.oracle.records, self.moment());
        let open = self.oracle.unanswered();
        let stage = self.stage;
        let whole = self.whole();
        let rule = if whole && !open.is_empty() { Rule::OneReply } else { Rule::Liveness };
        broken(
            rule,
            format_args!(
                "stuck in {stage:?} (whole: {whole}), unanswered {open:?}, left {left:#?}"
            ),
        )
    }
}
