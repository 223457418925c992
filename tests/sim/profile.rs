//! What a seed stands for: the node's settings, the weather, the load and its consumers. Everything
//! is drawn here, once, so that a seed can be described by printing its profile.

use std::sync::Arc;

use chronosdb::base::api::Start;
use chronosdb::base::config::{EngineConfig, FsyncMode};
use chronosdb::base::ids::Offset;
use chronosdb::base::topic_retention::TopicRetention;

use super::groups::Facts;
use super::rng::{Rng, Salt, mix};
use super::weather::Weather;

/// Settings of one seed.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // what a seed may have is independent
pub struct Profile {
    pub engine: EngineConfig,
    /// How long the chaos lasts, world time.
    pub chaos_us: u64,
    /// Longest delay between two shards, of a shard's turn, of a disk operation.
    pub net_max_us: u64,
    pub turn_max_us: u64,
    pub disk_max_us: u64,
    pub crashes: u64,
    /// Of 100 crashes, how many take the power; how many of the restarts crash again soon.
    pub power_percent: u64,
    pub again_percent: u64,
    /// Of 100 restarts, how many are orderly (drain first).
    pub drain_percent: u64,
    pub wall_steps: u64,
    /// Flip a bit at the last restart.
    pub rot: bool,
    /// Chance that a start finds a run or a checkpoint damaged, per partition, in percent.
    pub run_damage: u64,
    pub topics: Vec<Arc<str>>,
    pub groups: Vec<GroupPlan>,
    pub producers: u64,
    /// Events per producer.
    pub events: u64,
    pub batch_max: u64,
    pub payload_max: u64,
    /// How long topics are kept, where it is not as the node says.
    pub retention: Vec<(Arc<str>, TopicRetention)>,
    pub readers: u64,
    /// Shards of every process; the first is `engine.shards`.
    pub shards: Vec<u16>,
    /// Ids are remembered for the whole run.
    pub exact_dedup: bool,
    /// The disk has an end, and others on it take of it what they like.
    pub bounded_disk: bool,
    /// At the end the wall goes on past everything.
    pub drain_all: bool,
}

/// A group and its members.
#[derive(Clone, Debug)]
pub struct GroupPlan {
    pub name: Arc<str>,
    pub topic: Arc<str>,
    pub start: Start,
    pub members: Vec<MemberPlan>,
}

/// How a member behaves.
#[derive(Clone, Debug, Default)]
pub struct MemberPlan {
    pub credit: u32,
    /// Only these partitions; empty: all.
    pub partitions: Vec<u16>,
    /// Longest time it holds a delivery before it judges it.
    pub hold_max_us: u64,
    /// Of 100 deliveries: nacked, ignored, judged too late, extended first, judged elsewhere,
    /// judged twice.
    pub nack: u64,
    pub ignore: u64,
    pub late: u64,
    pub extend: u64,
    pub elsewhere: u64,
    pub twice: u64,
    /// Average life of its connection; 0: it does not die.
    pub life_us: u64,
    /// Longest time its socket holds deliveries back.
    pub socket_max_us: u64,
}

impl Profile {
    pub fn new(seed: u64) -> Self {
        let mut profile = Self::plain(seed);
        if let Some(weather) = Weather::of(seed) {
            weather.bend(&mut profile);
        }
        profile
    }

    fn plain(seed: u64) -> Self {
        let rng = &mut Rng::new(seed, Salt::Profile);
        let partitions = rng.between(1, 4) as u16;
        let external = rng.percent(20);
        let fsync = match rng.below(10) {
            0 | 1 => FsyncMode::EveryEvent,
            2 if !external => FsyncMode::Periodic { interval_ms: rng.between(5, 200) },
            _ => FsyncMode::Batch,
        };
        let exact_dedup = !rng.percent(10);
        let engine = engine(rng, seed, partitions, external, fsync, exact_dedup);
        let topics: Vec<Arc<str>> =
            (0..rng.between(1, 3)).map(|n| format!("t{n}").into()).collect();
        let mut groups: Vec<GroupPlan> = Vec::new();
        for number in 0..rng.between(1, 4) {
            let mut plan = group(rng, number, &topics, partitions);
            // A group starts where its first member starts, so all members say the same.
            let same = |g: &&GroupPlan| g.name == plan.name && g.topic == plan.topic;
            if let Some(same) = groups.iter().find(same) {
                plan.start = same.start;
                plan.members.iter_mut().for_each(|member| member.partitions.clear());
            }
            groups.push(plan);
        }
        let shards = (0..16).map(|_| rng.between(1, 3) as u16).collect::<Vec<_>>();
        let periodic = matches!(fsync, FsyncMode::Periodic { .. });
        let rot = rng.percent(12) && !external;
        let payload_max = if rot { 5_000 } else { *rng.pick(&[16, 200, 600, 600, 5_000]) };
        let crashes = if rot { 1 } else { *rng.pick(&[0, 1, 2, 3, 4, 6]) };
        let segments_go = engine.retention_ms > 0;
        // Damage is planted in sealed segments: they must be there.
        let segment_bytes = if rot { 64 << 10 } else { engine.segment_bytes };
        // Drawn apart: seeds known for something else stay what they are.
        let rng_of_space = &mut Rng::new(seed, Salt::Space);
        let bounded_disk = rng_of_space.percent(25);
        let disk_reserve_bytes = *rng_of_space.pick(&[64 << 10, 256 << 10]);
        let engine = if rot { engine } else { keeping(seed, &engine) };
        let retention = if rot { Vec::new() } else { of_topics(seed, &topics) };
        Self {
            engine: EngineConfig { shards: shards[0], segment_bytes, disk_reserve_bytes, ..engine },
            bounded_disk,
            chaos_us: rng.between(1_000_000, 8_000_000),
            net_max_us: *rng.pick(&[50, 300, 2_000]),
            turn_max_us: *rng.pick(&[20, 100, 500]),
            disk_max_us: *rng.pick(&[200, 1_000, 20_000]),
            crashes,
            // What a power loss takes in periodic mode is the user's choice, and not modelled.
            power_percent: if periodic { 0 } else { *rng.pick(&[0, 50, 100]) },
            again_percent: *rng.pick(&[0, 50, 80]),
            drain_percent: *rng.pick(&[0, 0, 20]),
            wall_steps: *rng.pick(&[0, 0, 1, 3, 6]),
            rot,
            run_damage: if rot { 0 } else { [10, 40, 60, 60][(mix(seed) % 4) as usize] },
            producers: rng.between(1, 3),
            events: rng.between(20, 150) * if segments_go { 3 } else { 1 },
            // A batch that is larger than half a segment is refused for good.
            batch_max: (20_000 / payload_max).min(*rng.pick(&[1, 4, 12, 40])),
            payload_max,
            retention,
            readers: rng.between(0, 2),
            topics,
            groups,
            shards,
            exact_dedup,
            drain_all: rng.percent(70),
        }
    }

    /// Nothing is kept for longer than this behind its due time, ms; `None`: all is kept.
    pub fn retention_ms(&self) -> Option<u64> {
        Some(self.engine.retention_ms).filter(|ms| *ms > 0)
    }

    pub fn facts(&self) -> Facts {
        Facts {
            partitions: self.engine.partitions,
            ack_timeout_ms: self.engine.ack_timeout_ms,
            max_retries: self.engine.max_retries,
            max_credit: self.engine.max_credit,
            tick_ms: self.engine.tick_ms,
            disk_reserve_bytes: self.engine.disk_reserve_bytes,
            slack_us: 2 * self.net_max_us + 20 * self.turn_max_us + 5_000,
        }
    }
}

fn engine(
    rng: &mut Rng,
    seed: u64,
    partitions: u16,
    external_commit: bool,
    fsync: FsyncMode,
    exact_dedup: bool,
) -> EngineConfig {
    const DECADES_MS: u64 = 300 * 366 * 86_400_000;
    // Most seeds write ids out all the time, some never do.
    let rng_of_ids = &mut Rng::new(seed, Salt::Ids);
    let id_window = *rng_of_ids.pick(&[1, 2, 4, 12, 40, 1_000_000]);
    // Most seeds read the past from the disk.
    let past_events = *rng_of_ids.pick(&[0, 0, 4, 20, 100, 1_000_000]);
    // Entries may be longer than what is read at once, and lie behind others in it.
    let read_bytes = *rng_of_ids.pick(&[4 << 10, 16 << 10, 1 << 20]);
    EngineConfig {
        id_window,
        past_events,
        read_bytes,
        cluster: seed | 1,
        dedup_key: [seed as u8; 16],
        partitions,
        segment_bytes: *rng.pick(&[64 << 10, 128 << 10, 256 << 10]),
        index_interval_bytes: *rng.pick(&[4 << 10, 16 << 10]),
        fsync,
        tick_ms: *rng.pick(&[1, 1, 1, 10]),
        ack_timeout_ms: rng.between(200, 2_000),
        max_retries: rng.between(0, 4) as u32,
        retry_backoff_ms: rng.between(1, 200),
        retry_backoff_max_ms: rng.between(200, 2_000),
        max_credit: *rng.pick(&[3, 100, 50_000]),
        dedup_ttl_ms: if exact_dedup { DECADES_MS } else { rng.between(500, 60_000) },
        cache_bytes: *rng.pick(&[4 << 10, 64 << 10, 64 << 20]),
        index_events: if rng.percent(5) { rng.between(50, 400) } else { 1_000_000 },
        external_commit,
        flush_bytes: *rng.pick(&[4 << 10, 16 << 10, 64 << 10]),
        horizon_ms: *rng.pick(&[20, 200, 2_000, 60_000]),
        retention_ms: 0,
        ..EngineConfig::default()
    }
}

/// How long events are kept. Drawn apart, too.
fn keeping(seed: u64, engine: &EngineConfig) -> EngineConfig {
    let rng = &mut Rng::new(seed, Salt::Retention);
    let retention_ms = *rng.pick(&[0, 0, 1, 20, 200, 2_000]);
    // What is removed are whole segments: there must be some.
    let segment_bytes = if retention_ms > 0 { 64 << 10 } else { engine.segment_bytes };
    EngineConfig {
        retention_ms,
        segment_bytes,
        dead_letter_retention_ms: *rng.pick(&[0, 100, u64::MAX]),
        retention_check_ms: *rng.pick(&[20, 200]),
        jump_pause_ms: *rng.pick(&[0, 100]),
        ..engine.clone()
    }
}

/// How long each topic is kept, where it is not as the node says. Drawn apart, too.
fn of_topics(seed: u64, topics: &[Arc<str>]) -> Vec<(Arc<str>, TopicRetention)> {
    let rng = &mut Rng::new(seed, Salt::Topics);
    let mut drawn = Vec::new();
    if !rng.percent(40) {
        return drawn;
    }
    for topic in topics.iter().filter(|_| rng.percent(40)).collect::<Vec<_>>() {
        let retention = *rng.pick(&[
            TopicRetention::For(1),
            TopicRetention::For(100),
            TopicRetention::For(1_000),
            TopicRetention::For(10_000),
            TopicRetention::Forever,
        ]);
        drawn.push((topic.clone(), retention));
    }
    drawn
}

fn group(rng: &mut Rng, number: u64, topics: &[Arc<str>], partitions: u16) -> GroupPlan {
    let start = match rng.below(8) {
        0 => Start::Now,
        1 => Start::Offset(Offset(rng.below(40))),
        _ => Start::Beginning,
    };
    let mut members: Vec<MemberPlan> = (0..rng.between(1, 3)).map(|_| member(rng)).collect();
    // Where a group starts is fixed per partition by its first member there, so members that name
    // partitions are for groups that start where any member would.
    if start == Start::Beginning && rng.percent(30) {
        for member in &mut members {
            member.partitions = (0..partitions).filter(|_| rng.percent(60)).collect();
        }
    }
    // Groups of two topics may share a name.
    let name = format!("g{}", if rng.percent(20) { 0 } else { number });
    GroupPlan { name: name.into(), topic: rng.pick(topics).clone(), start, members }
}

fn member(rng: &mut Rng) -> MemberPlan {
    let credit = *rng.pick(&[1, 1, 2, 7, 50, 1_000]);
    let plain =
        MemberPlan { credit, hold_max_us: 3_000, socket_max_us: 300, ..MemberPlan::default() };
    match rng.below(8) {
        0 => MemberPlan { hold_max_us: 400_000, socket_max_us: 50_000, ..plain },
        1 => MemberPlan { life_us: 400_000, hold_max_us: 60_000, elsewhere: 20, ..plain },
        2 => MemberPlan { nack: 40, ..plain },
        3 => MemberPlan { nack: 90, hold_max_us: 500, ..plain },
        4 => MemberPlan { late: 25, extend: 20, ..plain },
        5 => MemberPlan { ignore: 30, elsewhere: 30, ..plain },
        6 => MemberPlan { elsewhere: 50, twice: 30, nack: 10, late: 5, ..plain },
        _ => plain,
    }
}
