//! The driving of the node: turns, steps, effects, and the ways it starts and dies.

use chronosdb::base::api::Delivery;
use chronosdb::base::config::EngineConfig;
use chronosdb::base::ids::{Caller, PartitionId, ShardId, SubscriptionId};
use chronosdb::engine::log::Ids;
use chronosdb::engine::{Effect, Input};

use super::disk::{Crash, Op, Write};
use super::heal::Stage;
use super::node::Node;
use super::oracle::Oracle;
use super::trace::{ShownEffect, ShownInput};
use super::world::{Client, Event, Parcel, World};
use crate::hold;

/// Turns between two audits of a shard's partitions.
const AUDIT_TURNS: u64 = 40;
/// An orderly end takes no longer than this.
const DRAIN_MAX_US: u64 = 60_000_000;

impl World {
    /// A shard works on what is in its inbox soon.
    pub fn plan_turn(&mut self, shard: ShardId) {
        let turning = &mut self.node.as_mut().expect("a living node").shard(shard).turning;
        if !std::mem::replace(turning, true) {
            let delay_us = self.turn_rng.below(self.profile.turn_max_us);
            self.after(delay_us, Event::Turn(shard));
        }
    }

    pub fn tick(&mut self, shard: ShardId) {
        let now_us = self.clock.time_us();
        let shard_of_it = self.node.as_mut().expect("its event").shard(shard);
        shard_of_it.tick_us = shard_of_it.tick_us.filter(|at_us| *at_us > now_us);
        shard_of_it.inbox.push_back(Input::Tick);
        self.plan_turn(shard);
    }

    pub fn turn(&mut self, shard: ShardId) {
        let s = self.node.as_mut().expect("its event").shard(shard);
        s.turning = false;
        let there = s.inbox.len() as u64;
        let all = there == 0 || self.turn_rng.percent(70);
        let count = if all { there } else { self.turn_rng.between(1, there) };
        while let Some(input) = self.node.as_mut().expect("alive").shard(shard).unpark() {
            if !self.step(shard, input) {
                return;
            }
        }
        for _ in 0..count {
            let Some(input) = self.node.as_mut().expect("alive").shard(shard).next() else { break };
            if !self.step(shard, input) {
                return;
            }
        }
        if !self.step(shard, Input::TurnEnd) {
            return;
        }
        self.after_turn(shard);
    }

    /// Gives one input and runs what comes of it; false if the process died of it.
    fn step(&mut self, shard: ShardId, input: Input) -> bool {
        let pause_us = self.turn_rng.below(8);
        self.clock.advance(self.clock.time_us() + pause_us);
        let moment = self.moment();
        if !matches!(input, Input::TurnEnd) {
            self.note(format_args!("s{shard} < {}", ShownInput(&input)));
        }
        self.oracle.given(shard, &input, moment);
        if let Input::Replica { partition, event } = &input {
            self.replicas[partition.0 as usize].heard();
            if let chronosdb::engine::ReplicaEvent::Deposed { .. } = event {
                self.disk.unlock_for_cut(*partition);
            }
        }
        self.coverage.steps += 1;
        self.coverage.input(&input);
        let mut effects = Vec::new();
        let engine = &mut self.node.as_mut().expect("alive").shard(shard).engine;
        let was_low = engine.is_space_low();
        engine.step(self.clock.now(), input, &mut effects);
        let low = engine.is_space_low();
        self.coverage.low_spaces += u64::from(low && !was_low);
        for effect in effects {
            if let Some(left) = &mut self.effects_left {
                if *left == 0 {
                    // What a process left unsynced is lost by a power loss soon after its restart.
                    let percent = self.profile.power_percent;
                    let again = if self.dies_again && percent > 0 { 90 } else { percent };
                    let power = self.crash_rng.percent(again);
                    self.crash(if power { Crash::Power } else { Crash::Process });
                    return false;
                }
                *left -= 1;
            }
            self.note(format_args!("s{shard} > {}", ShownEffect(&effect)));
            self.coverage.effect(&effect);
            if low {
                self.count_low(&effect);
            }
            self.oracle.wanted(shard, &effect, moment);
            let condemned = matches!(effect, Effect::Condemn { .. });
            self.carry_out(shard, effect);
            if condemned {
                // At once: a process that has nothing to do would not come to its next effect.
                self.crash(Crash::Process);
                return false;
            }
        }
        true
    }

    fn carry_out(&mut self, shard: ShardId, effect: Effect) {
        match effect {
            Effect::Reply { to, reply } => {
                if let Some(client) = self.owners.get(&to.session).copied() {
                    self.act(client, |client, cx| match client {
                        Client::Producer(producer) => producer.reply(to.correlation, &reply, cx),
                        Client::Member(member, _) => member.reply(to.correlation, &reply, cx),
                        Client::Reader(reader) => reader.reply(to.correlation, &reply, cx),
                        Client::Admin(admin) => admin.reply(to.correlation, &reply, cx),
                    });
                }
            }
            Effect::Deliver { to, subscription, deliveries, bytes, not_before, .. } => {
                self.post_parcel(shard, to, subscription, bytes, not_before, deliveries);
            }
            Effect::Replay { to, subscription, bytes, not_before, .. } => {
                self.post_parcel(shard, to, subscription, bytes, not_before, Vec::new());
            }
            Effect::Mesh { to, message } => {
                let at_us = self.clock.time_us() + self.net_rng.below(self.profile.net_max_us);
                let node = self.node.as_mut().expect("alive");
                let at_us = node.post(shard, to, message, at_us);
                self.at(at_us, Event::Mesh { from: shard, to });
            }
            Effect::Write { partition, write, segment, position, len, sync } => {
                let mut data = vec![0xee; len as usize];
                let engine = &mut self.node.as_mut().expect("alive").shard(shard).engine;
                engine.fill_write(partition, write, &mut data);
                let number = write;
                let write = Write { partition, number, segment, position, data, sync };
                self.write(shard, write);
            }
            Effect::CreateSegment { partition, segment } => {
                self.ask_disk(Op::Create { partition, segment });
            }
            Effect::Fill { partition, segment, from, to } => {
                self.ask_disk(Op::Fill { partition, segment, from, to });
            }
            Effect::Read { partition, read, segment, position, len } => {
                self.ask_disk(Op::Read { partition, read, segment, position, len });
            }
            Effect::Sync { partition, segment } => self.ask_disk(Op::Sync { partition, segment }),
            Effect::RemoveSegment { partition, segment } => {
                self.ask_disk(Op::Remove { partition, segment });
            }
            Effect::SaveHardState { partition, state } => {
                self.ask_disk(Op::Save { partition, state });
            }
            Effect::Recovered { report } => self.recovered(report.partition),
            derived => self.carry_out_derived(derived),
        }
    }

    fn write(&mut self, shard: ShardId, write: Write) {
        if std::mem::take(&mut self.die_writing) {
            self.effects_left = Some(self.crash_rng.below(4));
        }
        let crc = crc32fast::hash(&write.data);
        self.note(format_args!("s{shard} > bytes {crc:x}"));
        self.ask_disk(Op::Write(write));
    }

    fn ask_disk(&mut self, op: Op) {
        // Reads mostly come from the cache of the device; writes take their time.
        let most = if op.is_write() { self.profile.disk_max_us } else { 200 };
        let delay_us = 1 + self.disk_rng.below(most);
        let id = self.disk.submit(op);
        self.after(delay_us, Event::Disk(id));
    }

    pub fn disk_done(&mut self, op: u64) {
        if self.fail_write && self.disk.is_log_write(op) {
            self.note(format_args!("a write fails"));
            return self.crash(Crash::Process);
        }
        if !self.has_space(op) {
            return;
        }
        if let Some((partition, input)) = self.disk.complete(op) {
            self.tell(partition, input);
        }
    }

    /// A job goes on, at the disk's pace.
    pub fn job(&mut self, partition: PartitionId) {
        let free = self.free();
        if let Some(input) = self.jobs.advance(partition, &self.disk, free) {
            if let Input::JobGivenUp { .. } = &input {
                self.ran_full(partition);
            }
            return self.tell(partition, input);
        }
        let delay_us = 1 + self.disk_rng.below(self.profile.disk_max_us / 4);
        self.after(delay_us, Event::Job(partition));
    }

    /// The owner of a partition hears something.
    pub fn tell(&mut self, partition: PartitionId, input: Input) {
        let node = self.node.as_mut().expect("its event");
        let owner = node.owner(partition);
        node.shard(owner).inbox.push_back(input);
        self.plan_turn(owner);
    }

    fn post_parcel(
        &mut self,
        shard: ShardId,
        to: Caller,
        subscription: SubscriptionId,
        bytes: u64,
        not_before: u64,
        deliveries: Vec<Delivery>,
    ) {
        let Some(client) = self.owners.get(&to.session) else { return };
        let most = match &self.clients[*client] {
            Client::Member(_, socket_max_us) => *socket_max_us,
            _ => 1_000,
        };
        let delay_us = self.net_rng.below(most);
        let session = to.session;
        let parcel = Parcel { session, subscription, bytes, not_before, deliveries };
        self.after(delay_us, Event::Socket(shard, Box::new(parcel)));
    }

    /// Bytes leave a socket's buffer, unless the wall has been set back behind them.
    pub fn socket(&mut self, shard: ShardId, parcel: Box<Parcel>) {
        let Some(client) = self.owners.get(&parcel.session).copied() else { return };
        let wall_ms = self.clock.wall_ms();
        if wall_ms < parcel.not_before {
            self.coverage.socket_waits += 1;
            let wait_us = ((parcel.not_before - wall_ms) * 1_000).min(1_000_000);
            return self.after(wait_us, Event::Socket(shard, parcel));
        }
        let Parcel { subscription, bytes, deliveries, .. } = *parcel;
        for delivery in &deliveries {
            hold!(NeverEarly, delivery.event.schedule_ts <= wall_ms, "on the socket at {wall_ms}");
            self.act(client, |client, cx| {
                if let Client::Member(member, _) = client {
                    member.delivered(delivery, cx);
                }
            });
        }
        if let Some(node) = &mut self.node {
            node.shard(shard).inbox.push_back(Input::Sent { subscription, bytes, batches: 1 });
            self.plan_turn(shard);
        }
    }

    fn after_turn(&mut self, shard: ShardId) {
        let now = self.clock.now();
        let s = self.node.as_mut().expect("alive").shard(shard);
        s.turns += 1;
        let audit = s.turns.is_multiple_of(AUDIT_TURNS);
        let more = !s.inbox.is_empty() || s.next_parked().is_some();
        let deadline_us = s.engine.next_deadline(now);
        let planned_us = s.tick_us;
        if more {
            self.plan_turn(shard);
        }
        if let Some(boot_us) = deadline_us {
            let at_us = self.clock.time_of_boot(boot_us);
            if planned_us.is_none_or(|planned| at_us < planned) {
                self.plan_tick(shard, at_us);
            }
        }
        for partition in self.partitions_of(shard) {
            self.look_at(shard, partition, audit);
            if audit {
                self.look_at_cut(shard, partition);
            }
        }
    }

    fn plan_tick(&mut self, shard: ShardId, at_us: u64) {
        let late_us = if self.turn_rng.percent(70) { 0 } else { self.turn_rng.below(3_000) };
        let now_us = self.clock.time_us();
        if at_us > now_us + 1 && self.turn_rng.percent(5) {
            // Woken for nothing.
            let early_us = now_us + self.turn_rng.below((at_us - now_us).min(1_000_000));
            self.at(early_us, Event::Tick(shard));
        }
        let at_us = at_us.max(now_us).saturating_add(late_us);
        self.node.as_mut().expect("alive").shard(shard).tick_us = Some(at_us);
        self.at(at_us, Event::Tick(shard));
    }

    fn look_at(&mut self, shard: ShardId, partition: PartitionId, audit: bool) {
        let external = self.profile.engine.external_commit;
        if !external && !audit {
            return;
        }
        let engine = &mut self.node.as_mut().expect("alive").shard(shard).engine;
        if audit {
            let audits = engine.audit(partition);
            Oracle::audited(partition, &audits);
        }
        if !external {
            return;
        }
        let Some(status) = engine.replica_status(partition) else { return };
        if status.leader {
            self.disk.lock(partition);
        }
        if self.replicas[partition.0 as usize].has_business(&status) {
            self.plan_replica(partition);
        }
    }

    fn plan_replica(&mut self, partition: PartitionId) {
        let replica = &mut self.replicas[partition.0 as usize];
        if !std::mem::replace(&mut replica.planned, true) {
            let delay_us = self.replica_rng.scale(50, 20_000);
            self.after(delay_us, Event::Replica(partition));
        }
    }

    pub fn replica(&mut self, partition: PartitionId) {
        let calm = self.stage != Stage::Chaos || self.draining;
        let node = self.node.as_mut().expect("its event");
        let owner = node.owner(partition);
        let status = node.shard(owner).engine.replica_status(partition);
        let replica = &mut self.replicas[partition.0 as usize];
        replica.planned = false;
        let Some(status) = status else { return };
        if let Some(event) = replica.speak(&status, calm, &mut self.replica_rng) {
            node.shard(owner).inbox.push_back(Input::Replica { partition, event });
            self.plan_turn(owner);
        } else if replica.has_business(&status)
            && (calm || status.persisted > status.committed || !status.leader)
        {
            self.plan_replica(partition);
        }
    }

    pub fn restart(&mut self) {
        if self.node.is_some() {
            return;
        }
        let shards = self.profile.shards[self.epoch as usize % self.profile.shards.len()];
        let config = EngineConfig { shards, ..self.profile.engine.clone() };
        self.note(format_args!("start with {shards} shards"));
        let calm = self.stage != Stage::Chaos || self.crashes_left == 0;
        if self.profile.rot && calm && self.epoch > 0 {
            self.rot();
        }
        self.node = Some(Node::new(&config));
        self.begin_space();
        for partition in (0..config.partitions).map(PartitionId) {
            let (segments, hard_state) = self.disk.mount(partition);
            let log_start = hard_state.unwrap_or_default().log_start;
            let is_derived = self.profile.retention_ms().is_none();
            if self.crash_rng.percent(self.profile.run_damage)
                && self.jobs.damage(partition, is_derived, &mut self.crash_rng)
            {
                self.note(format_args!("a file of partition {partition} is damaged"));
            }
            let checkpoints =
                self.jobs.mount(Ids { cluster: config.cluster, partition }, &segments, log_start);
            self.coverage.restores += u64::from(checkpoints.restored.is_some());
            self.coverage.short_logs += u64::from(log_start.0 > 1);
            let mount = Input::Mount { partition, segments, hard_state, checkpoints };
            let node = self.node.as_mut().expect("just made");
            let owner = node.owner(partition);
            node.shard(owner).inbox.push_back(mount);
        }
        (0..shards).for_each(|shard| self.plan_turn(ShardId(shard)));
        // A driver may take connections before every partition is there.
        if self.crash_rng.percent(30) {
            self.up = true;
            self.wake_all();
        }
        if !calm && self.crash_rng.percent(self.profile.again_percent) {
            self.crashes_left -= 1;
            self.effects_left = Some(self.crash_rng.scale(1, 300));
            self.dies_again = true;
        }
    }

    fn rot(&mut self) {
        let all = 0..self.profile.engine.partitions;
        let damaged = all.map(PartitionId).find(|partition| self.disk.rot(*partition));
        if let Some(partition) = damaged {
            self.profile.rot = false;
            // What a checkpoint covers is not read at a start: damage to it is found when read.
            self.jobs.remove_checkpoints(partition);
            self.note(format_args!("a bit of partition {partition} flips"));
            self.oracle.rotted(partition);
        }
    }

    fn recovered(&mut self, partition: PartitionId) {
        self.disk.lock(partition);
        let node = self.node.as_mut().expect("alive");
        let owner = node.owner(partition);
        if self.profile.engine.external_commit
            && let Some(status) = node.shard(owner).engine.replica_status(partition)
        {
            self.replicas[partition.0 as usize].recovered(&status);
            self.plan_replica(partition);
        }
        let node = self.node.as_mut().expect("alive");
        node.recovering -= 1;
        if node.recovering == 0 {
            self.up = true;
            self.wake_all();
        }
    }

    /// An accident comes: at an effect soon, at a failing write, or an orderly end.
    pub fn plan_crash(&mut self) {
        let ready = self.node.is_some() && self.stage == Stage::Chaos && self.crashes_left > 0;
        if !ready || self.draining || self.effects_left.is_some() {
            return;
        }
        self.crashes_left -= 1;
        self.dies_again = false;
        if self.up && self.crash_rng.percent(self.profile.drain_percent) {
            self.drain();
        } else if self.crash_rng.percent(15) {
            self.fail_write = true;
        } else if self.crash_rng.percent(50) {
            self.die_writing = true;
        } else {
            self.effects_left = Some(self.crash_rng.below(60));
        }
    }

    fn drain(&mut self) {
        self.note(format_args!("drain"));
        self.coverage.drains += 1;
        (self.draining, self.up) = (true, false);
        let node = self.node.as_mut().expect("tested by the caller");
        let shards = node.shards.len() as u16;
        for shard in (0..shards).map(ShardId) {
            node.shard(shard).inbox.push_back(Input::Drain);
        }
        (0..shards).for_each(|shard| self.plan_turn(ShardId(shard)));
        self.drained_by_us = self.clock.time_us() + DRAIN_MAX_US;
        self.after(1_000, Event::Drained);
    }

    pub fn drained(&mut self) {
        if self.node.as_ref().expect("its event").is_drained() {
            let open = self.oracle.unanswered();
            hold!(OneReply, open.is_empty(), "drained, and these have no answer: {open:?}");
            return self.crash(Crash::Process);
        }
        let late = self.clock.time_us() > self.drained_by_us;
        hold!(Liveness, !late, "the node does not drain");
        self.after(2_000, Event::Drained);
    }

    pub fn partitions_of(&self, shard: ShardId) -> impl Iterator<Item = PartitionId> + use<> {
        let shards = self.node.as_ref().map_or(1, |node| node.shards.len() as u16);
        let all = (0..self.profile.engine.partitions).map(PartitionId);
        all.filter(move |p| chronosdb::base::route::shard_of(*p, shards) == shard)
    }
}
