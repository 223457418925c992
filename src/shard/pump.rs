//! The pump of a shard: inbox, step, effects, and again.
//!
//! One turn takes a bounded number of inputs, runs each step's effects right behind it, ends with
//! `TurnEnd` (where the engine submits its group commits) and sends what the turn has for other
//! shards and for sockets, one write per connection. Between turns the other tasks of the executor
//! run. Without work the pump sleeps until something happens or the engine's next deadline.
//!
//! The pump owns the engine; nothing else steps it. It never waits for a send.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::clock::{Alarm, breathe};
use super::disk::{Disk, Extent, FileOp};
use super::gate::Desk;
use super::inbox::Inbox;
use super::mesh::Mesh;
use super::mount::Mounted;
use super::route::Route;
use super::stats::Counters;
use crate::base::ids::ShardId;
use crate::base::time::Now;
use crate::engine::checkpoint::Found;
use crate::engine::{Effect, Engine, Input, RecoveryReport};

/// Inputs of one turn at most.
const TURN_INPUTS: usize = 1_024;
/// Time after which a turn takes no further input, us: the group commit of what is in goes out,
/// and other tasks run.
const TURN_US: u64 = 500;
/// How often a shard that drains looks whether it is done, us.
const DRAIN_LOOK_US: u64 = 10_000;

/// What the boot has ordered so far; the pump looks at it each turn.
#[derive(Default)]
pub(super) struct Orders {
    /// Finish what is open; nothing new comes.
    pub(super) drain: Cell<bool>,
    /// End now.
    pub(super) stop: Cell<bool>,
}

/// What the pump tells the boot, once each.
pub(super) enum Milestone {
    /// All partitions of the shard serve.
    Recovered(Vec<RecoveryReport>),
    /// Nothing is open any more.
    Drained,
}

/// Everything a shard's effects can reach.
pub(super) struct World {
    pub(super) inbox: Rc<Inbox>,
    pub(super) disk: Rc<Disk>,
    pub(super) mesh: Rc<Mesh>,
    pub(super) route: Rc<Route>,
    pub(super) desk: Rc<Desk>,
    pub(super) counters: Rc<Counters>,
    pub(super) orders: Rc<Orders>,
}

/// The pump of one shard.
pub(super) struct Pump<F> {
    shard: ShardId,
    engine: Engine,
    world: World,
    effects: Vec<Effect>,
    alarm: Alarm,
    /// Partitions that do not serve yet, and reports of those that do, until all are told.
    recovering: usize,
    reports: Vec<RecoveryReport>,
    draining: Draining,
    reached: F,
}

/// How far the shard is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Draining {
    No,
    /// No request is taken in; those that wait are worked on.
    Requests,
    /// The engine finishes what is open.
    Engine,
    Done,
}

impl<F: Fn(Milestone)> Pump<F> {
    /// A pump over a new engine. `reached` is called at each milestone.
    pub(super) fn new(shard: ShardId, engine: Engine, world: World, reached: F) -> Self {
        Self {
            shard,
            engine,
            world,
            effects: Vec::new(),
            alarm: Alarm::new(),
            recovering: 0,
            reports: Vec::new(),
            draining: Draining::No,
            reached,
        }
    }

    /// Mounts the shard's partitions and runs until the boot orders the end.
    pub(super) async fn run(mut self, partitions: Vec<(Mounted, Found)>) {
        self.recovering = partitions.len();
        self.world.disk.watch_space();
        for (Mounted { partition, segments, hard_state, slot }, checkpoints) in partitions {
            self.world.disk.mount(partition, slot);
            let mount = Input::Mount { partition, segments, hard_state, checkpoints };
            self.world.inbox.push(mount);
        }
        if self.recovering == 0 {
            (self.reached)(Milestone::Recovered(Vec::new()));
        }
        while !self.world.orders.stop.get() {
            self.turn();
            self.drain();
            // While it has more to do the shard is not alone in the world: sockets, disks and other
            // shards are looked at.
            if self.has_work() || self.is_due() {
                breathe().await;
            }
            self.wait().await;
        }
    }

    /// Whether the engine wants a tick at once.
    fn is_due(&self) -> bool {
        let now = Now::read();
        self.engine.next_deadline(now).is_some_and(|at| at <= now.boot_us)
    }

    /// Whether something has happened, or is asked that the engine takes now.
    fn has_work(&self) -> bool {
        self.world.inbox.has_work(self.engine.has_room(), self.engine.takes_publishes())
    }

    /// One turn.
    fn turn(&mut self) {
        let begun = Now::read();
        let mut inputs = 0;
        if self.engine.next_deadline(begun).is_some_and(|at| at <= begun.boot_us) {
            self.step(begun, Input::Tick);
            inputs += 1;
        }
        while inputs < TURN_INPUTS {
            let now = Now::read();
            if now.boot_us.saturating_sub(begun.boot_us) > TURN_US && inputs > 0 {
                break;
            }
            let Some(input) = self.world.inbox.take().or_else(|| self.next_request()) else {
                break;
            };
            self.step(now, input);
            inputs += 1;
        }
        self.step(Now::read(), Input::TurnEnd);
        self.world.disk.hurry_jobs(self.engine.jobs_behind());
        self.world.mesh.flush();
        self.world.route.flush();
        self.world.counters.count(|c| {
            c.turns += 1;
            c.inputs += inputs as u64;
            c.requests_waiting = self.world.inbox.waiting_requests() as u64;
        });
        if self.world.desk.wants_stats() {
            let stats = self.world.counters.snapshot(self.shard, self.engine.stats());
            self.world.desk.give_stats(&stats);
        }
        if self.world.desk.wants_cuts() {
            self.world.desk.give_cuts(&self.engine.cuts());
        }
    }

    /// The next request of a session that is still there, if the engine has room for one.
    fn next_request(&mut self) -> Option<Input> {
        while self.engine.has_room() {
            let publishes = self.engine.takes_publishes();
            let (from, request) = self.world.inbox.take_request(publishes)?;
            if self.world.route.is_open(from.session) {
                return Some(Input::Request { from, request });
            }
        }
        None
    }

    fn step(&mut self, now: Now, input: Input) {
        let mut effects = std::mem::take(&mut self.effects);
        let was_low = self.engine.is_space_low();
        self.engine.step(now, input, &mut effects);
        if self.engine.is_space_low() != was_low {
            self.say_space(was_low);
        }
        for effect in effects.drain(..) {
            self.perform(effect);
        }
        self.effects = effects;
    }

    fn say_space(&self, was_low: bool) {
        let (shard, free_bytes) = (self.shard.0, self.world.counters.disk_free_bytes());
        if was_low {
            tracing::info!(shard, free_bytes, "there is space on the disk again: publishes go on");
        } else {
            tracing::warn!(shard, free_bytes, "little space on the disk: publishes are refused");
        }
    }

    fn perform(&mut self, effect: Effect) {
        let World { disk, mesh, route, .. } = &self.world;
        match effect {
            Effect::Reply { to, reply } => route.reply(to, reply),
            Effect::Deliver { to, subscription, group, deliveries, bytes, not_before } => {
                route.deliver(to, (subscription, bytes), group, deliveries, not_before);
            }
            Effect::Replay { to, subscription, events, bytes, not_before } => {
                route.replay(to, (subscription, bytes), events, not_before);
            }
            Effect::Mesh { to, message } => mesh.send(to, message),
            Effect::Write { partition, write, segment, position, len, sync } => {
                let extent = Extent { partition, segment, position, len };
                let engine = &mut self.engine;
                disk.write(extent, write, sync, |buffer| {
                    engine.fill_write(partition, write, buffer);
                });
            }
            Effect::Read { partition, read, segment, position, len } => {
                disk.read(Extent { partition, segment, position, len }, read);
            }
            Effect::Fill { partition, segment, from, to } => {
                disk.fill(partition, segment, from, to);
            }
            Effect::StartJob { partition, job } => disk.start_job(partition, job),
            Effect::ReadRun { partition, read, run, position, len } => {
                disk.read_run(partition, read, run, (position, len));
            }
            Effect::RemoveRun { partition, run } => disk.remove_run(partition, run),
            Effect::SaveCheckpoint { partition, number, bytes } => {
                disk.save_checkpoint(partition, number, bytes);
            }
            Effect::RemoveCheckpoint { partition, number } => {
                disk.remove_checkpoint(partition, number);
            }
            Effect::Condemn { partition, text } => disk.condemn(partition, &text),
            Effect::Sync { partition, segment } => disk.sync(partition, segment),
            Effect::CreateSegment { partition, segment } => {
                disk.in_order(partition, FileOp::Create(segment));
            }
            Effect::RemoveSegment { partition, segment } => {
                disk.in_order(partition, FileOp::Remove(segment));
            }
            Effect::SaveHardState { partition, state } => {
                disk.in_order(partition, FileOp::Save(state));
            }
            Effect::Recovered { report } => self.recovered(report),
        }
    }

    fn recovered(&mut self, report: RecoveryReport) {
        assert!(self.recovering > 0, "partition {} recovers once", report.partition);
        self.recovering -= 1;
        self.reports.push(report);
        if self.recovering == 0 {
            (self.reached)(Milestone::Recovered(std::mem::take(&mut self.reports)));
        }
    }

    /// Passes the order to drain on, and tells when it is done. The engine hears of it behind the
    /// last request.
    fn drain(&mut self) {
        match self.draining {
            Draining::No if self.world.orders.drain.get() => {
                self.draining = Draining::Requests;
                self.world.route.drain();
                return;
            }
            Draining::Requests if self.world.inbox.waiting_requests() == 0 => {
                self.draining = Draining::Engine;
                self.step(Now::read(), Input::Drain);
                self.world.inbox.push(Input::Tick);
                return;
            }
            Draining::Engine => {}
            Draining::No | Draining::Requests | Draining::Done => return,
        }
        let World { inbox, mesh, route, .. } = &self.world;
        if self.engine.is_drained()
            && !inbox.has_work(true, true)
            && mesh.is_flushed()
            && route.is_flushed()
        {
            self.draining = Draining::Done;
            (self.reached)(Milestone::Drained);
        }
    }

    /// Sleeps until there is something to do.
    async fn wait(&mut self) {
        // What a drain waits for may be a socket, which tells the pump nothing: look now and then.
        let drains = matches!(self.draining, Draining::Requests | Draining::Engine);
        let look = drains.then(|| Now::read().boot_us + DRAIN_LOOK_US);
        poll_fn(|cx| {
            let World { inbox, desk, orders, route, .. } = &self.world;
            let ordered =
                orders.stop.get() || (orders.drain.get() && self.draining == Draining::No);
            let asked = desk.wants_stats() || desk.wants_cuts();
            if ordered || self.has_work() || asked {
                return Poll::Ready(());
            }
            let now = Now::read();
            let deadline = [self.engine.next_deadline(now), route.deadline(now), look];
            let at = Alarm::wake_at(now, deadline.into_iter().flatten().min());
            if at <= now.boot_us {
                return Poll::Ready(());
            }
            inbox.pump_sleeps(cx);
            self.alarm.arm(now, at, cx);
            Poll::Pending
        })
        .await;
    }
}
