//! The world: virtual time, an event queue in (time, sequence) order, one node, its disk and its
//! clients. It is the second driver of `Engine::step`: effects run in order right after their step,
//! and the node can die between any two of them.
//!
//! A run has two phases. Chaos: crashes, power losses, wall steps, every kind of client. Heal
//! (`heal.rs`): no more accidents, clients behave, time goes on, and everything must settle.

use std::collections::BTreeMap;

use chronosdb::base::api::Delivery;
use chronosdb::base::ids::{PartitionId, RunNo, SessionId, ShardId, SubscriptionId};
use chronosdb::engine::Input;

use super::admin::Admin;
use super::client::{Command, Context, Session};
use super::clock::{Clock, NOTICED_US};
use super::coverage::Coverage;
use super::disk::{Crash, Disk};
use super::heal::Stage;
use super::jobs::Jobs;
use super::member::Member;
use super::node::Node;
use super::oracle::Oracle;
use super::producer::Producer;
use super::profile::Profile;
use super::reader::Reader;
use super::records::Moment;
use super::replica::Replica;
use super::rng::{Rng, Salt};
use super::rule::{Rule, broken};
use super::space::Space;
use super::trace::Trace;

/// Events of one run at most: more is an endless loop.
const EVENTS_MAX: u64 = 3_000_000;

/// Something that happens at a moment.
#[derive(Debug)]
pub enum Event {
    // In the process.
    Turn(ShardId),
    Tick(ShardId),
    Mesh {
        from: ShardId,
        to: ShardId,
    },
    Disk(u64),
    Job(PartitionId),
    Checkpoint(PartitionId),
    RunRead {
        partition: PartitionId,
        read: u64,
        run: RunNo,
        position: u64,
        len: u64,
    },
    /// Bytes leave a socket.
    Socket(ShardId, Box<Parcel>),
    Replica(PartitionId),
    Drained,
    // Around it.
    Client(usize),
    WallStep,
    Crash,
    Restart,
    Heal,
    /// Others take or give back space on the disk.
    Space,
}

/// Deliveries (or replayed events) in a socket's buffer.
#[derive(Debug)]
pub struct Parcel {
    pub session: SessionId,
    pub subscription: SubscriptionId,
    pub bytes: u64,
    pub not_before: u64,
    pub deliveries: Vec<Delivery>,
}

pub enum Client {
    Producer(Producer),
    Member(Member, u64),
    Reader(Reader),
    Admin(Admin),
}

#[allow(clippy::struct_excessive_bools)] // what may be going on at once is independent
pub struct World {
    pub profile: Profile,
    pub clock: Clock,
    pub disk: Disk,
    pub space: Space,
    pub jobs: Jobs,
    pub oracle: Oracle,
    pub trace: Trace,
    pub node: Option<Node>,
    pub replicas: Vec<Replica>,
    pub clients: Vec<Client>,
    pub stage: Stage,
    pub epoch: u64,
    /// The node takes connections.
    pub up: bool,
    pub draining: bool,
    pub drained_by_us: u64,
    /// The process dies after so many effects more.
    pub effects_left: Option<u64>,
    pub fail_write: bool,
    /// It dies soon after its next write is submitted.
    pub die_writing: bool,
    pub crashes_left: u64,
    /// The planned death follows a restart.
    pub dies_again: bool,
    queue: BTreeMap<(u64, u64), (u64, Event)>,
    sequence: u64,
    wakes: Vec<Option<u64>>,
    pub owners: BTreeMap<SessionId, usize>,
    sessions: Vec<Session>,
    serial: u64,
    pub coverage: Coverage,
    pub turn_rng: Rng,
    pub net_rng: Rng,
    pub disk_rng: Rng,
    pub crash_rng: Rng,
    pub replica_rng: Rng,
    clock_rng: Rng,
    work_rng: Rng,
}

impl World {
    pub fn new(seed: u64, trace: Trace) -> Self {
        let profile = Profile::new(seed);
        let facts = profile.facts();
        let mut oracle = Oracle::new(facts, profile.exact_dedup);
        oracle.records.retention_ms = profile.retention_ms();
        oracle.records.plan(&profile.retention);
        for plan in &profile.groups {
            if oracle.groups.find(&plan.name, &plan.topic).is_none() {
                oracle.groups.add(plan.name.clone(), plan.topic.clone(), plan.start);
            }
        }
        let clients = clients(&profile);
        Self {
            clock: Clock::new(),
            disk: Disk::new(Rng::new(seed, Salt::Disk)),
            space: Space::new(seed, profile.bounded_disk),
            jobs: Jobs::default(),
            oracle,
            trace,
            node: None,
            replicas: (0..profile.engine.partitions).map(|_| Replica::default()).collect(),
            wakes: vec![None; clients.len()],
            clients,
            stage: Stage::Chaos,
            epoch: 0,
            up: false,
            draining: false,
            drained_by_us: 0,
            effects_left: None,
            fail_write: false,
            die_writing: false,
            crashes_left: profile.crashes,
            dies_again: false,
            queue: BTreeMap::new(),
            sequence: 0,
            owners: BTreeMap::new(),
            sessions: Vec::new(),
            serial: 0,
            coverage: Coverage::default(),
            turn_rng: Rng::new(seed, Salt::Turn),
            net_rng: Rng::new(seed, Salt::Net),
            disk_rng: Rng::new(seed ^ 1, Salt::Disk),
            crash_rng: Rng::new(seed, Salt::Crash),
            replica_rng: Rng::new(seed, Salt::Replica),
            clock_rng: Rng::new(seed, Salt::Clock),
            work_rng: Rng::new(seed, Salt::Workload),
            profile,
        }
    }

    /// Runs to the end of the heal.
    ///
    /// # Panics
    /// If a rule is broken.
    pub fn run(&mut self) {
        self.plan();
        let mut events = 0;
        while self.stage != Stage::Over {
            let Some(((at_us, _), (epoch, event))) = self.queue.pop_first() else {
                broken(Rule::Liveness, format_args!("nothing happens any more in {:?}", self.stage))
            };
            events += 1;
            if events > EVENTS_MAX {
                broken(Rule::Liveness, format_args!("an endless loop in {:?}", self.stage));
            }
            self.clock.advance(at_us);
            if epoch == self.epoch || event.outlives_process() {
                self.happen(event);
            }
        }
    }

    pub fn at(&mut self, at_us: u64, event: Event) {
        self.sequence += 1;
        let at_us = at_us.max(self.clock.time_us());
        self.queue.insert((at_us, self.sequence), (self.epoch, event));
    }

    pub fn after(&mut self, delay_us: u64, event: Event) {
        self.at(self.clock.time_us() + delay_us, event);
    }

    pub fn moment(&self) -> Moment {
        let slack_us = self.oracle.facts.slack_us;
        Moment {
            time_us: self.clock.time_us(),
            wall_ms: self.clock.wall_ms(),
            lowest_ms: self.clock.lowest_wall_ms(slack_us),
            noticed_ms: self.clock.noticed_wall_ms(slack_us),
            highest_ms: self.clock.highest_wall_ms(slack_us),
            epoch: self.epoch,
            shards: self.node.as_ref().map_or(1, |node| node.shards.len() as u16),
        }
    }

    pub fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.note(self.clock.time_us(), what);
    }

    /// The wall jumps; sooner or later a driver notices (within `NOTICED_US`).
    pub fn set_wall(&mut self, wall_us: Option<u64>) {
        self.coverage.wall_steps += 1;
        let before_ms = self.clock.wall_ms();
        match wall_us {
            Some(wall_us) => self.clock.set_wall(wall_us),
            None => self.clock.step(&mut self.clock_rng),
        }
        let wall_ms = self.clock.wall_ms();
        self.note(format_args!("the wall jumps to {wall_ms} ms"));
        self.oracle.wall_stepped(before_ms, wall_ms);
        let shards = self.node.as_ref().map_or(0, |node| node.shards.len() as u16);
        for shard in 0..shards {
            let delay_us = self.clock_rng.below(NOTICED_US);
            self.after(delay_us, Event::Tick(ShardId(shard)));
        }
    }

    /// Lets a client act.
    pub fn act(&mut self, client: usize, act: impl FnOnce(&mut Client, &mut Context<'_>)) {
        let mut commands = Vec::new();
        let mut cx = Context {
            time_us: self.clock.time_us(),
            wall_ms: self.clock.wall_ms(),
            up: self.up,
            healing: self.stage != Stage::Chaos,
            shards: self.node.as_ref().map_or(1, |node| node.shards.len() as u16),
            rng: &mut self.work_rng,
            oracle: &mut self.oracle,
            serial: &mut self.serial,
            sessions: &mut self.sessions,
            commands: &mut commands,
        };
        act(&mut self.clients[client], &mut cx);
        for command in commands {
            self.obey(client, command);
        }
    }

    pub fn wake(&mut self, client: usize, at_us: u64) {
        if self.wakes[client].is_none_or(|planned| at_us < planned) {
            self.wakes[client] = Some(at_us);
            self.at(at_us, Event::Client(client));
        }
    }

    pub fn wake_all(&mut self) {
        for client in 0..self.clients.len() {
            let at_us = self.clock.time_us() + self.work_rng.below(20_000);
            self.wake(client, at_us);
        }
    }

    /// The process is gone, with every connection.
    pub fn disconnect_all(&mut self) {
        self.sessions.clear();
        self.owners.clear();
        for client in &mut self.clients {
            match client {
                Client::Producer(producer) => producer.disconnected(),
                Client::Member(member, _) => member.disconnected(),
                Client::Reader(reader) => reader.disconnected(),
                Client::Admin(admin) => admin.disconnected(),
            }
        }
    }

    fn plan(&mut self) {
        self.after(0, Event::Restart);
        self.after(0, Event::Space);
        self.after(self.profile.chaos_us, Event::Heal);
        for _ in 0..self.profile.wall_steps {
            let at_us = self.clock_rng.below(self.profile.chaos_us);
            self.at(at_us, Event::WallStep);
        }
        for _ in 0..self.profile.crashes {
            let at_us = self.crash_rng.below(self.profile.chaos_us);
            self.at(at_us, Event::Crash);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn(shard) => self.turn(shard),
            Event::Tick(shard) => self.tick(shard),
            Event::Mesh { from, to } => {
                self.node.as_mut().expect("its event").arrive(from, to);
                self.plan_turn(to);
            }
            Event::Disk(op) => self.disk_done(op),
            Event::Job(partition) => self.job(partition),
            Event::Checkpoint(partition) => {
                let saved = self.jobs.saved(partition);
                self.tell(partition, saved);
            }
            Event::RunRead { partition, read, run, position, len } => {
                let data = self.jobs.read(partition, run, position, len);
                self.coverage.id_reads += u64::from(self.jobs.is_of_ids(partition, run));
                self.tell(partition, Input::ReadDone { partition, read, data });
            }
            Event::Socket(shard, parcel) => self.socket(shard, parcel),
            Event::Replica(partition) => self.replica(partition),
            Event::Drained => self.drained(),
            Event::Client(client) => {
                if self.wakes[client].is_some_and(|at_us| at_us <= self.clock.time_us()) {
                    self.wakes[client] = None;
                    self.act(client, Client::wake);
                }
            }
            Event::WallStep => {
                if self.stage == Stage::Chaos {
                    self.set_wall(None);
                }
            }
            Event::Crash => self.plan_crash(),
            Event::Restart => self.restart(),
            Event::Heal => self.heal(),
            Event::Space => self.space(),
        }
    }

    fn obey(&mut self, client: usize, command: Command) {
        match command {
            Command::Wake { at_us } => self.wake(client, at_us),
            Command::Open { session } => {
                self.owners.insert(session.id, client);
            }
            Command::Ask { session, correlation, request } => {
                let from = session.caller(correlation);
                self.push(session.shard, Input::Request { from, request: *request });
            }
            Command::Close { session } => {
                self.owners.remove(&session.id);
                self.push(session.shard, Input::SessionClosed { session: session.id });
            }
        }
    }

    /// Hands an input to a shard's inbox, while the process takes any.
    fn push(&mut self, shard: ShardId, input: Input) {
        if self.draining && matches!(input, Input::Request { .. }) {
            return;
        }
        if let Some(node) = &mut self.node {
            node.shard(shard).inbox.push_back(input);
            self.plan_turn(shard);
        }
    }

    /// The process or the machine dies, now.
    pub fn crash(&mut self, crash: Crash) {
        self.note(format_args!("{crash:?} crash, {} operations in flight", self.disk.in_flight()));
        self.coverage.crash(crash);
        self.coverage.id_jobs_cut += u64::from(self.jobs.is_on_ids());
        let shards = self.node.iter_mut().flat_map(|node| &mut node.shards);
        let waiting = shards.map(|shard| shard.engine.stats().waiting_publishes);
        self.coverage.waiting_dropped += waiting.sum::<u64>();
        let now = self.moment();
        self.disk.crash(crash);
        self.jobs.crash(crash, &mut self.crash_rng);
        self.oracle.crashed(now);
        self.node = None;
        (self.up, self.draining) = (false, false);
        (self.fail_write, self.die_writing) = (false, false);
        self.effects_left = None;
        self.replicas.iter_mut().for_each(Replica::crashed);
        self.disconnect_all();
        self.epoch += 1;
        if crash == Crash::Power {
            self.clock.reboot();
        }
        let down_us = self.crash_rng.scale(1_000, 2_000_000);
        self.after(down_us, Event::Restart);
    }
}

impl Event {
    /// Whether it happens even if the process that was there has died.
    fn outlives_process(&self) -> bool {
        matches!(
            self,
            Self::Client(_)
                | Self::WallStep
                | Self::Crash
                | Self::Restart
                | Self::Heal
                | Self::Space
        )
    }
}

impl Client {
    fn wake(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Producer(producer) => producer.wake(cx),
            Self::Member(member, _) => member.wake(cx),
            Self::Reader(reader) => reader.wake(cx),
            Self::Admin(admin) => admin.wake(cx),
        }
    }
}

fn clients(profile: &Profile) -> Vec<Client> {
    let producers = (0..profile.producers).map(|n| Client::Producer(Producer::new(n, profile)));
    let members = profile.groups.iter().flat_map(|group| {
        group.members.iter().enumerate().map(|(n, plan)| {
            let member = Member::new(group, plan, n, profile.engine.ack_timeout_ms);
            Client::Member(member, plan.socket_max_us)
        })
    });
    // One reader more than the load has: it reads everything at the end.
    let readers = (0..=profile.readers)
        .map(|_| Client::Reader(Reader::new(&profile.topics, profile.engine.partitions)));
    let plan = &profile.retention;
    let admin = (!plan.is_empty()).then(|| Client::Admin(Admin::new(plan)));
    producers.chain(members).chain(admin).chain(readers).collect()
}
