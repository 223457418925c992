//! A partition: the unit of order, and everything that is derived from its log.
//!
//! ```text
//!   propose --> open entries --> replica + tail --(write)--> durable --> committed --> apply
//!   (decides, Proposals)         (replicate, commit)                                   (truth)
//! ```
//!
//! Promises: [`Partition::apply`] alone changes topics, dedup, cursors and groups; it reads no
//! clock and is the same on every replica. Everything else here is volatile and belongs to the
//! leader.
//!
//! Must hold: `applied <= committed <= persisted <= proposed`; offsets are dense; nothing that is
//! not applied is delivered or answered as stored.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ahash::RandomState;

use super::dedup::{Dedup, IdHash, Original};
use super::delivery::{Group, MemberKey};
use super::effect::RecoveryReport;
use super::flow::checkpoint::Checkpoints;
use super::flow::commit::Writes;
use super::flow::fire::{Due, Timer};
use super::flow::recover::Phase;
use super::flow::roll::Roll;
use super::horizon::Horizon;
use super::log::{
    Body, Content, EntryHeader, Ids, NewGroup, Place, PublishView, Record, RecordCache,
    SparseIndex, Tail,
};
use super::log_clock::{LogClock, TRUSTED_JUMP_MS};
use super::lookups::Lookups;
use super::proposals::Proposals;
use super::reads::Reads;
use super::replica::{self, CommitRule, HardState, Replica};
use super::retention::Retention;
use super::runs::DueSource;
use super::topics::Topics;
use super::wheel::{Handle, Wheel};
use crate::base::api::PartitionStatus;
use crate::base::config::EngineConfig;
use crate::base::ids::{GroupNo, Index, Offset, PartitionId, Position, ShardId, Term, TopicNo};

/// An entry on its way from proposal to apply.
#[derive(Clone, Debug)]
pub struct LogEntry {
    /// The replicated head.
    pub header: EntryHeader,
    /// The verified body.
    pub body: Body,
}

impl replica::LogEntry for LogEntry {
    fn index(&self) -> Index {
        self.header.index
    }

    fn term(&self) -> Term {
        self.header.term
    }

    fn bytes(&self) -> usize {
        self.body.bytes().len() + size_of::<Self>()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Partition {
    pub(super) id: PartitionId,
    pub(super) ids: Ids,
    pub(super) phase: Phase,

    // Applied: a function of the log.
    pub(super) topics: Topics,
    pub(super) dedup: Dedup,
    pub(super) groups: Vec<Group<Handle>>,
    pub(super) group_numbers: HashMap<(Arc<str>, TopicNo), GroupNo, RandomState>,
    pub(super) applied_end: Offset,
    pub(super) applied_ts: u64,

    // The log and its replication.
    pub(super) replica: Replica<LogEntry>,
    pub(super) clock: LogClock,
    pub(super) tail: Option<Tail>,
    pub(super) sparse: SparseIndex,
    pub(super) cache: RecordCache,
    pub(super) segments: Vec<(Index, u64)>,
    pub(super) horizon: Horizon,
    pub(super) checkpoints: Checkpoints,
    pub(super) retention: Retention,
    pub(super) writes: Writes,
    pub(super) roll: Roll,
    pub(super) chain: u32,
    pub(super) sealed_end: Offset,
    pub(super) places: BTreeMap<Index, Place>,
    pub(super) last_applied: (Index, Term),
    pub(super) external_commit: bool,
    pub(super) report: Option<RecoveryReport>,

    // Volatile: the leader's.
    pub(super) proposals: Proposals,
    pub(super) wheel: Wheel<Due>,
    pub(super) timers: Wheel<Timer>,
    pub(super) reads: Reads,
    pub(super) lookups: Lookups,
    pub(super) dirty: BTreeSet<GroupNo>,
    pub(super) members: BTreeMap<MemberKey, GroupNo>,
    /// The last member whose group was looked at while the wheel is behind.
    pub(super) sought: Option<MemberKey>,
    pub(super) armed: bool,
    /// What the wall clock read last.
    pub(super) wall_seen_ms: u64,
}

impl Partition {
    /// A partition whose log has not been read.
    pub fn new(id: PartitionId, config: &EngineConfig) -> Self {
        let rule = if config.external_commit { CommitRule::External } else { CommitRule::Alone };
        let start = (Index(0), Term(0));
        let cache_bytes = config.cache_bytes_each();
        let group_numbers = HashMap::with_hasher(RandomState::with_seeds(1, 2, 3, 4));
        Self {
            id,
            ids: Ids { cluster: config.cluster, partition: id },
            phase: Phase::Unmounted,
            topics: Topics::default(),
            dedup: Dedup::new(config.dedup_key, config.dedup_ttl_ms),
            groups: Vec::new(),
            group_numbers,
            applied_end: Offset(0),
            applied_ts: 0,
            replica: Replica::new(rule, HardState::default(), start, start),
            clock: LogClock::default(),
            tail: None,
            sparse: SparseIndex::new(config.index_interval_bytes),
            cache: RecordCache::new(cache_bytes),
            segments: Vec::new(),
            horizon: Horizon::new(cache_bytes / 4),
            checkpoints: Checkpoints::default(),
            retention: Retention::default(),
            writes: Writes::default(),
            roll: Roll::None,
            chain: 0,
            sealed_end: Offset(0),
            places: BTreeMap::new(),
            last_applied: start,
            external_commit: config.external_commit,
            report: None,
            proposals: Proposals::new(Offset(0)),
            wheel: Wheel::new(config.tick_ms, 0),
            timers: Wheel::new(1, 0),
            reads: Reads::default(),
            lookups: Lookups::default(),
            dirty: BTreeSet::new(),
            members: BTreeMap::new(),
            sought: None,
            armed: false,
            wall_seen_ms: 0,
        }
    }

    /// Which one.
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// Takes publishes, acks and joins.
    pub fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Serving) && self.replica.is_leader()
    }

    /// Changes the applied state by one committed entry. No clock, no flag: the entry is all.
    pub(super) fn apply(&mut self, header: &EntryHeader, body: &Body) -> Applied {
        assert_eq!(header.base_offset, self.applied_end, "entries are applied in order, once");
        let mut applied = Applied::default();
        match body.content() {
            Content::NoOp => {}
            Content::Publish(view) => {
                self.apply_publish(header, body.bytes(), &view);
                self.forget_ids(header);
            }
            Content::Settle(view) => {
                for settlement in view.settlements() {
                    self.apply_settlement(&settlement, header.append_ts, &mut applied);
                }
            }
            Content::Groups(view) => {
                for (no, name) in view.topics() {
                    self.topics.define(no, name);
                }
                for group in view.groups() {
                    self.apply_group(&group);
                }
            }
            Content::Topics(view) => {
                for (no, name) in view.topics() {
                    self.topics.define(no, name);
                }
                for (no, retention) in view.retention() {
                    self.topics.retain(no, retention);
                }
            }
            Content::State(view) => self.apply_state(header, &view),
        }
        self.applied_end = header.end_offset();
        self.last_applied = (header.index, header.term);
        self.applied_ts = header.append_ts;
        applied
    }

    fn apply_publish(&mut self, header: &EntryHeader, bytes: &[u8], view: &PublishView<'_>) {
        assert_eq!(view.len(), header.count, "the header counts the records");
        for (no, name) in view.topics() {
            self.topics.define(no, name);
        }
        let records = || (0..view.len()).map(|slot| view.record(slot));
        let offsets = || (0..).map(|slot| header.base_offset.plus(slot));
        let hashes = self.proposals.take_hashes(header.base_offset);
        let hashes = hashes.unwrap_or_else(|| records().map(|r| self.hash_of(bytes, &r)).collect());
        assert_eq!(hashes.len(), view.len() as usize, "one for each event");
        // Table by table: what of them is not in the processor's caches is waited for together.
        for (offset, record) in offsets().zip(records()) {
            let position = Position::new(record.schedule_ts.max(header.append_ts), offset);
            let topic = self.topics.get_mut(record.topic);
            topic.axis.insert(position, record.schedule_ts);
            for group in &topic.groups {
                let group = &mut self.groups[group.0 as usize];
                if group.admits(position) {
                    group.cursor.joined(position);
                }
            }
        }
        for (offset, hash) in offsets().zip(&hashes) {
            self.proposals.id_applied(*hash, offset);
        }
        for ((offset, record), hash) in offsets().zip(records()).zip(hashes) {
            debug_assert_eq!(hash, self.hash_of(bytes, &record), "computed when it was proposed");
            self.remember_id(header, hash, &record, offset);
        }
    }

    /// The hash of a record's id.
    pub(super) fn hash_of(&self, bytes: &[u8], record: &Record) -> IdHash {
        let topic = &self.topics.get(record.topic).name;
        self.dedup.hash(topic.as_bytes(), record.message_id.of(bytes))
    }

    /// The id of an applied event names it from now on, unless it names another one.
    pub(super) fn remember_id(
        &mut self,
        header: &EntryHeader,
        hash: IdHash,
        record: &Record,
        offset: Offset,
    ) {
        let original = Original {
            offset,
            schedule_ts: record.schedule_ts,
            append_ts: header.append_ts,
            topic: record.topic,
        };
        let settled = |o: &Original| settled_everywhere(&self.topics, &self.groups, o);
        self.dedup.record(hash, original, record.allow_duplicate, settled);
    }

    /// Drops ids past their time, as many as keep pace with new ones. Part of apply, so that the
    /// table stays a function of the log though a group created later may want old events again.
    fn forget_ids(&mut self, header: &EntryHeader) {
        let settled = |o: &Original| settled_everywhere(&self.topics, &self.groups, o);
        // Not by the first reading after a long jump of the clock: that one may be wrong.
        let jumped = header.append_ts - self.applied_ts > TRUSTED_JUMP_MS;
        let log_now = if jumped { self.applied_ts } else { header.append_ts };
        self.dedup.sweep(log_now, 2 * header.count as usize, settled);
    }

    pub(super) fn apply_group(&mut self, record: &NewGroup<'_>) {
        assert_eq!(record.no.0 as usize, self.groups.len(), "group numbers are dense");
        let name: Arc<str> = Arc::from(record.name);
        let key = (name.clone(), record.topic);
        let before = self.group_numbers.insert(key, record.no);
        assert!(before.is_none(), "a group is created once");
        self.topics.get_mut(record.topic).groups.push(record.no);
        let (offset, due) = (record.min_offset, record.min_due);
        self.groups.push(Group::new(record.no, name, record.topic, offset, due));
    }

    /// Whether the event is done for all groups of its topic (a topic without groups has none
    /// to wait for).
    pub(super) fn is_settled(&self, original: &Original) -> bool {
        settled_everywhere(&self.topics, &self.groups, original)
    }

    /// What is known of this partition at the moment.
    pub fn status(&self, shard: ShardId) -> PartitionStatus {
        let in_flight = self.groups.iter().map(|g| g.dispatch.busy.leased() as u64).sum();
        let ready = self.groups.iter().map(|g| g.dispatch.ready.len() as u64).sum();
        PartitionStatus {
            partition: self.id,
            shard,
            term: self.replica.term(),
            high_watermark: self.applied_end,
            segment_count: self.segments.len() as u32,
            disk_usage_bytes: self.segments.iter().map(|(_, bytes)| bytes).sum(),
            pending: self.wheel.len() as u64 + self.horizon.unarmed + self.horizon.on_disk,
            ready,
            in_flight,
            read_only: matches!(self.phase, Phase::ReadOnly(_)),
        }
    }

    /// Events in the in-memory index.
    pub(super) fn indexed(&self) -> u64 {
        self.applied_end.0.saturating_sub(self.horizon.on_disk + self.horizon.past)
    }

    /// Per group: all applied events of its topic, by where they stand. Walks every event. Empty
    /// until the partition has begun to serve: its due axis may not be there.
    pub(super) fn audit(&self) -> Vec<GroupAudit> {
        if !self.armed {
            return Vec::new();
        }
        let audit = |group: &Group<Handle>| {
            let topic = self.topics.get(group.topic);
            let mut audit = GroupAudit {
                group: group.name.clone(),
                topic: topic.name.clone(),
                is_whole: self.horizon.past == 0,
                applied: topic.disk.count,
                settled: 0,
                unsettled: group.cursor.unsettled().len() as u64,
                beyond: topic.disk.count,
            };
            let own = topic.axis.after(Position::START).filter(|e| group.admits(e.position));
            for event in own {
                audit.applied += 1;
                if group.cursor.is_settled(event.position) {
                    audit.settled += 1;
                } else if event.position > group.cursor.frontier() {
                    audit.beyond += 1;
                }
            }
            audit
        };
        self.groups.iter().map(audit).collect()
    }
}

/// What applying an entry means to the leader's volatile state, in order.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// Events that are done, and how.
    pub(super) settled: Vec<(GroupNo, Position, End)>,
    /// Events to be tried again after this many ms.
    pub(super) retries: Vec<(GroupNo, Position, u64)>,
}

/// How an event was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By an ack.
    Acked,
    /// As a dead letter.
    Dead,
    /// It was settled before.
    Again,
}

/// The accounts of one group in one partition: `applied = settled + unsettled + beyond`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupAudit {
    /// Group name.
    pub group: Arc<str>,
    /// Topic name.
    pub topic: Arc<str>,
    /// Nothing of the topic's past has left the memory: else what has is not counted.
    pub is_whole: bool,
    /// Applied events of the topic that pass the group's filter.
    pub applied: u64,
    /// Of those, done.
    pub settled: u64,
    /// In the unsettled set.
    pub unsettled: u64,
    /// Beyond the frontier and not settled.
    pub beyond: u64,
}

fn settled_everywhere(topics: &Topics, groups: &[Group<Handle>], original: &Original) -> bool {
    let topic = topics.get(original.topic);
    let due = original.schedule_ts.max(original.append_ts);
    let position = Position::new(due, original.offset);
    let settled = |no: &GroupNo| !groups[no.0 as usize].wants(position);
    topic.groups.iter().all(settled)
}
