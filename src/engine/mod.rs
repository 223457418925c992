//! The engine: a pure function of (state, now, input) to effects.
//!
//! ```text
//!    sessions, gate            +--------------------------+   Reply, Deliver, Replay
//!    disk completions  Input   |  Front   (its sessions)  |   Mesh           Effect
//!    other shards    --------> |    | MeshMessage         | ----------------------->
//!    time                      |  Partitions (its own)    |   Write, Read, Fill, ...
//!                              +--------------------------+
//! ```
//!
//! One engine per shard. [`Engine::step`] is the one match; it never awaits, sleeps, opens, spawns,
//! locks or reads a clock. The glommio shard is one driver of it, the simulator in `tests/sim` the
//! other: the same inputs give the same effects, in the same order.
//!
//! Rules (DESIGN section 3): a flow that needs a read parks one named struct in one bounded table
//! ([`reads`]); the driver lends write buffers; one step handles a bounded amount.

pub mod adopt;
pub mod block_load;
pub mod checkpoint;
pub mod damage;
pub mod dedup;
pub mod delivery;
pub mod detach;
pub mod effect;
pub mod flow;
pub mod front;
pub mod horizon;
pub mod input;
pub mod jobs;
pub mod log;
pub mod log_clock;
pub mod lookups;
pub mod mesh;
pub mod partition;
pub mod past;
pub mod proposals;
pub mod reads;
pub mod renew;
pub mod replica;
pub mod retention;
pub mod runs;
pub mod space;
pub mod stats;
pub mod step;
pub mod topics;
pub mod turn;
pub mod wheel;

use std::collections::{BTreeMap, VecDeque};

pub use effect::{Effect, RecoveryReport};
pub use input::{HardState, Input, ReplicaEvent, SegmentFile};
pub use partition::GroupAudit;
pub use stats::{EngineStats, GroupStats};

use crate::base::config::EngineConfig;
use crate::base::ids::{PartitionId, ShardId};
use crate::base::limits;
use crate::base::route;
use crate::base::time::Now;
use delivery::Grant;
pub use flow::cut::{Cut, NoCut};
use flow::fire::{JoinRequest, member_key};
use flow::hold_back;
use flow::publish::Slice;
use flow::replay::Page;
pub use flow::replicate::ReplicaStatus;
use front::Front;
use jobs::places::Places;
use mesh::MeshMessage;
use partition::Partition;
use space::Space;
use step::Step;
use turn::Turn;

/// The state of one shard. See the module.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    shard: ShardId,
    partitions: BTreeMap<PartitionId, Partition>,
    front: Front,
    local: VecDeque<MeshMessage>,
    turn: Turn,
    space: Space,
    stats: EngineStats,
    jobs: Places,
    /// More is due than the last step could handle.
    behind: bool,
    draining: bool,
}

impl Engine {
    /// The engine of one shard, with the partitions that are its own, none of them mounted.
    ///
    /// # Panics
    /// If the configuration has no shards or partitions.
    pub fn new(config: EngineConfig, shard: ShardId) -> Self {
        assert!(shard.0 < config.shards, "shard {shard} of {}", config.shards);
        let own = (0..config.partitions)
            .map(PartitionId)
            .filter(|partition| route::shard_of(*partition, config.shards) == shard);
        let partitions = own.map(|id| (id, Partition::new(id, &config))).collect();
        Self {
            space: Space::new(config.disk_reserve_bytes),
            config,
            shard,
            partitions,
            front: Front::default(),
            local: VecDeque::new(),
            turn: Turn::default(),
            jobs: Places::default(),
            stats: EngineStats::default(),
            behind: false,
            draining: false,
        }
    }

    /// Takes one input; what is to be done is appended to `effects`, in order.
    pub fn step(&mut self, now: Now, input: Input, effects: &mut Vec<Effect>) {
        let Self { config, shard, partitions, front, local, turn, space, jobs, stats, .. } = self;
        let shard = *shard;
        let mut step = Step { now, config, shard, effects, local, turn, space, jobs, stats };
        let step = &mut step;
        match input {
            Input::Mount { partition, segments, hard_state, checkpoints } => {
                own(partitions, partition).mount(step, segments, hard_state, checkpoints);
            }
            Input::Request { from, request } => front.request(step, from, request),
            Input::Sent { subscription, bytes, batches } => {
                front.sent(step, subscription, bytes, batches);
            }
            Input::SessionClosed { session } => front.session_closed(step, session),
            Input::Mesh { from, message } => hear(front, partitions, step, from, message),
            Input::WriteDone { partition, write } => {
                own(partitions, partition).write_done(step, write);
            }
            Input::ReadDone { partition, read, data } => {
                own(partitions, partition).read_done(step, read, &data);
            }
            Input::JobDone { partition, outcome } => {
                own(partitions, partition).job_done(step, outcome);
            }
            Input::CheckpointSaved { partition } => {
                own(partitions, partition).checkpoint_saved(step);
            }
            Input::JobGivenUp { partition } => own(partitions, partition).job_given_up(step),
            Input::DiskSpace { free_bytes } => step.space.observed(free_bytes),
            Input::Filled { partition, segment, end } => {
                own(partitions, partition).filled(step, segment, end);
            }
            Input::SegmentCreated { partition, segment } => {
                own(partitions, partition).segment_created(step, segment);
            }
            Input::Synced { partition, .. } => own(partitions, partition).synced(step),
            Input::HardStateSaved { partition: of } => own(partitions, of).hard_state_saved(step),
            Input::Replica { partition, event } => {
                own(partitions, partition).replica_event(step, event);
            }
            Input::Tick => {
                let mut behind = false;
                let share = limits::STEP_EVENTS / 4 / partitions.len().max(1);
                for partition in partitions.values_mut() {
                    partition.periodic_sync(step);
                    behind |= partition.advance_time(step, share.max(limits::TICK_EVENTS));
                }
                front.pace(step);
                self.behind = behind;
            }
            Input::TurnEnd => turn_end(front, partitions, step),
            Input::Drain => {
                for partition in partitions.values_mut() {
                    partition.drain(step);
                }
                self.draining = true;
            }
        }
        hear_all(front, partitions, step);
    }

    /// When the engine next wants an [`Input::Tick`], boot time in microseconds. `None`: only an
    /// input can bring work.
    pub fn next_deadline(&self, now: Now) -> Option<u64> {
        let dirty = |partition: &Partition| !partition.is_quiet();
        if self.behind || self.turn.is_behind() || self.partitions.values().any(dirty) {
            return Some(now.boot_us);
        }
        let horizon_ms = self.config.horizon_ms;
        let own = self.partitions.values().filter_map(|p| p.next_deadline(now, horizon_ms));
        own.chain(self.front.next_pace_us(now)).min()
    }

    /// Whether one more [`Input::Request`] may be given that is no publish.
    pub fn has_room(&self) -> bool {
        self.front.has_room() && !self.draining
    }

    /// Whether one more publish may be given: not while jobs are far behind (`flow::hold_back`).
    pub fn takes_publishes(&self) -> bool {
        self.has_room() && self.front.takes_publishes()
    }

    /// By how much jobs are behind: bytes of the logs that are not flushed, in percent of those at
    /// which every partition would begin a flush.
    pub fn jobs_behind(&self) -> u64 {
        let bytes: u64 = self.partitions.values().map(Partition::unflushed).sum();
        hold_back::percent_behind(&self.config, self.partitions.len(), bytes)
    }

    /// Fills the buffer lent for a planned write, all of it. Called once, while its effect is run.
    pub fn fill_write(&mut self, partition: PartitionId, write: u64, buffer: &mut [u8]) {
        own(&mut self.partitions, partition).fill_write(write, buffer);
    }

    /// Whether the disk has so little room that publishes are refused.
    pub fn is_space_low(&self) -> bool {
        self.space.is_low()
    }

    /// Whether everything that was asked for is answered and on the disk.
    pub fn is_drained(&self) -> bool {
        let idle = |partition: &Partition| partition.is_idle();
        self.front.open_requests() == 0 && self.partitions.values().all(idle)
    }

    /// Counters, with the gauges of now.
    pub fn stats(&mut self) -> &EngineStats {
        let Self { partitions, front, stats, space, .. } = self;
        stats.space_low = u64::from(space.is_low());
        stats.open_requests = front.open_requests() as u64;
        stats.subscriptions = front.open_streams() as u64;
        (stats.pending, stats.ready, stats.in_flight, stats.indexed) = (0, 0, 0, 0);
        (stats.on_disk, stats.log_bytes, stats.unflushed_bytes) = (0, 0, 0);
        (stats.ids_in_memory, stats.ids_in_runs, stats.waiting_publishes) = (0, 0, 0);
        stats.high_watermarks.clear();
        stats.groups.clear();
        for partition in partitions.values() {
            partition.gauge(self.shard, stats);
        }
        stats
    }

    /// Where copies of this shard's partitions would end now, in order.
    pub fn cuts(&self) -> Vec<Result<Cut, NoCut>> {
        self.partitions.values().map(Partition::cut).collect()
    }

    /// The accounts of every group of a partition, by walking all of its events. For checks.
    ///
    /// # Panics
    /// If the partition is not this shard's.
    pub fn audit(&self, partition: PartitionId) -> Vec<GroupAudit> {
        self.partitions[&partition].audit()
    }

    /// Where a partition's replica stands, for the layer that replicates it; `None` while its log
    /// is opened.
    ///
    /// # Panics
    /// If the partition is not this shard's.
    pub fn replica_status(&self, partition: PartitionId) -> Option<ReplicaStatus> {
        self.partitions[&partition].replica_status()
    }
}

fn own(partitions: &mut BTreeMap<PartitionId, Partition>, id: PartitionId) -> &mut Partition {
    partitions.get_mut(&id).unwrap_or_else(|| panic!("partition {id} is another shard's"))
}

/// What waits for the end of a turn: offers, grants whose turn it is, and the group commit.
fn turn_end(
    front: &mut Front,
    partitions: &mut BTreeMap<PartitionId, Partition>,
    step: &mut Step<'_>,
) {
    let first = step.jobs.first();
    for (_, partition) in partitions.range_mut(first..) {
        partition.horizon_on(step);
    }
    for (_, partition) in partitions.range_mut(..first) {
        partition.horizon_on(step);
    }
    hold_back::tell_behind(partitions, step);
    for partition in partitions.values_mut() {
        partition.offer_dirty(step);
    }
    while let Some(grant) = step.turn.next_grant() {
        own(partitions, grant.partition).serve_waiting(step, grant);
    }
    hear_all(front, partitions, step);
    step.turn.end();
    for partition in partitions.values_mut() {
        partition.flush(step);
    }
}

/// Handles what shards of this engine told themselves, until nothing is left.
fn hear_all(
    front: &mut Front,
    partitions: &mut BTreeMap<PartitionId, Partition>,
    step: &mut Step<'_>,
) {
    loop {
        while let Some(message) = step.local.pop_front() {
            let own_shard = step.shard;
            hear(front, partitions, step, own_shard, message);
        }
        if !step.send_credits() {
            return;
        }
    }
}

fn hear(
    front: &mut Front,
    partitions: &mut BTreeMap<PartitionId, Partition>,
    step: &mut Step<'_>,
    from: ShardId,
    message: MeshMessage,
) {
    use MeshMessage as M;
    match message {
        M::JobsBehind { is_behind } => front.jobs_behind(from, is_behind),
        M::Publish { request, partition, bytes, events, allow_duplicate } => {
            let slice = Slice { shard: from, request, bytes, events, allow_duplicate };
            own(partitions, partition).publish(step, slice);
        }
        M::Ack { request, partition, acks } => {
            own(partitions, partition).ack(step, from, request, acks);
        }
        M::Join { subscription, partition, group, topic, member, filter } => {
            let key = member_key(from, subscription);
            let join = JoinRequest { key, group, topic, member, filter };
            own(partitions, partition).join(step, join);
        }
        M::Leave { subscription, partition } => {
            own(partitions, partition).leave(step, member_key(from, subscription));
        }
        M::Grant { subscription, partition, events, bytes, stays } => {
            let key = member_key(from, subscription);
            own(partitions, partition).grant(step, key, Grant { events, bytes, stays });
        }
        M::CallBack { subscription, partition } => {
            let key = member_key(from, subscription);
            own(partitions, partition).call_back(step, key);
        }
        M::GiveBack { subscription, partition, events } => {
            let key = member_key(from, subscription);
            own(partitions, partition).give_back(step, key, events);
        }
        M::Replay { subscription, partition, topic, range, from: cursor, events } => {
            let (shard, past, load) = (from, None, None);
            let from = cursor;
            let page = Page { shard, subscription, topic, range, from, events, past, load };
            own(partitions, partition).replay_page(step, page);
        }
        M::Status { request, partition } => {
            let wanted = |p: &&Partition| partition.is_none_or(|id| id == p.id());
            let states = partitions.values().filter(wanted).map(|p| p.status(step.shard));
            let partitions = states.collect();
            step.send(from, M::StatusIs { request, partitions });
        }
        M::Topic { request, partition, spec } => {
            own(partitions, partition).topic(step, from, request, &spec);
        }
        answer => front.hear(step, answer),
    }
}
