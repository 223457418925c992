//! What is proposed and not yet applied: an overlay over the applied state.
//!
//! Decisions are made against the applied state *and* this overlay (next offset, ids in flight,
//! topic and group numbers given out). Nothing in it is truth: on a change of term it is dropped
//! whole, and everyone who waits in it is told `not the leader`.
//!
//! Must hold: a waiter under index `i` is answered when entry `i` is applied, or dropped with it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use ahash::RandomState;

use super::dedup::IdHash;
use super::delivery::MemberKey;
use super::log::{GroupsBuilder, PublishBuilder, SettleBuilder, TopicsBuilder};
use crate::base::api::{AckOutcome, EventOutcome};
use crate::base::error::ApiError;
use crate::base::ids::{
    GroupNo, Index, Offset, PartitionId, Position, ShardId, SubscriptionId, TopicNo,
};
use crate::base::topic_retention::TopicRetention;

/// Who waits for an entry to be applied.
#[derive(Debug)]
pub enum Waiter {
    /// A slice of a publish; the outcomes are decided already.
    Publish {
        /// Shard of the asker.
        shard: ShardId,
        /// Slot of the asker.
        request: u64,
        /// One per event.
        outcomes: Vec<EventOutcome>,
    },
    /// Verdicts.
    Ack {
        /// Shard of the asker.
        shard: ShardId,
        /// Slot of the asker.
        request: u64,
        /// Place of each in the request, and what to answer.
        outcomes: Vec<(u32, AckOutcome)>,
    },
    /// A topic's settings are being changed.
    Topic {
        /// Shard of the asker.
        shard: ShardId,
        /// Slot of the asker.
        request: u64,
        /// What to answer.
        retention: TopicRetention,
    },
    /// A member whose group is being created.
    Join {
        /// Shard of the session.
        shard: ShardId,
        /// Its stream.
        subscription: SubscriptionId,
        /// The group.
        group: GroupNo,
        /// The member's name.
        member: Arc<str>,
    },
}

/// An event id that is proposed and not applied.
#[derive(Clone, Copy, Debug)]
pub struct PendingId {
    /// Where it will lie.
    pub offset: Offset,
    /// Its time, Unix ms.
    pub schedule_ts: u64,
    /// Published with `allow_duplicate`, so that nobody has looked for older ones.
    pub weak: bool,
}

/// Publishes that will make up the next entry.
#[derive(Debug)]
pub struct OpenPublishes {
    /// The body in the making.
    pub builder: PublishBuilder,
    /// Stamp of the entry.
    pub append_ts: u64,
    /// Offset of its first event.
    pub base_offset: Offset,
    /// Earliest `schedule_ts` in it, Unix ms.
    pub min_schedule_ts: u64,
    /// Hashes of the ids of its events.
    pub hashes: Vec<IdHash>,
    /// Who waits for it.
    pub waiters: Vec<Waiter>,
}

/// A publish entry that is not applied.
#[derive(Debug)]
pub struct ProposedEntry {
    /// Its first offset.
    pub base: Offset,
    /// Behind its last offset.
    pub end: Offset,
    /// Its index.
    pub index: Index,
    /// No event of it is due earlier, Unix ms.
    pub min_due: u64,
    /// Hashes of the ids of its events, for when they are applied.
    pub hashes: Vec<IdHash>,
}

/// See the module.
#[derive(Debug)]
pub struct Proposals {
    /// Offset of the next event to be proposed.
    pub next_offset: Offset,
    /// Publishes gathered for the next entry.
    pub publishes: Option<OpenPublishes>,
    /// The builder of the entry before: its memory is used again.
    pub builder: PublishBuilder,
    /// Settlements gathered for the next entry.
    pub settles: SettleBuilder,
    /// Who waits for them.
    verdicts: Vec<Waiter>,
    /// The last entry of settlements that was proposed.
    settled_by: Index,
    /// Groups to be created by the next entry.
    pub creations: GroupsBuilder,
    /// Settings of topics gathered for the next entry.
    pub settings: TopicsBuilder,
    /// Who waits for them.
    pub settings_waits: Vec<Waiter>,
    /// Topics that got a number; the next entry of any of these kinds defines them, so that
    /// definitions lie in the log in order of their numbers.
    pub new_topics: Vec<(TopicNo, Arc<str>)>,
    /// Members that wait for their group, by its number.
    group_waits: BTreeMap<GroupNo, Vec<Waiter>>,
    /// Members that left while they waited.
    pub left: BTreeSet<MemberKey>,
    /// Ids given an offset.
    pub ids: HashMap<IdHash, PendingId, RandomState>,
    /// Numbers given to topics.
    pub topics: HashMap<Arc<str>, TopicNo, RandomState>,
    /// Numbers given to groups, by name and topic.
    pub groups: HashMap<(Arc<str>, TopicNo), GroupNo, RandomState>,
    /// Groups with settlements in `settles`.
    pub settled_groups: BTreeSet<GroupNo>,
    /// Publish entries that are not applied, in log order.
    entries: VecDeque<ProposedEntry>,
    waiters: BTreeMap<Index, Vec<Waiter>>,
}

impl Proposals {
    /// An empty overlay over a state whose next offset is this.
    pub fn new(next_offset: Offset) -> Self {
        let state = || RandomState::with_seeds(5, 6, 7, 8);
        Self {
            next_offset,
            publishes: None,
            builder: PublishBuilder::new(),
            settles: SettleBuilder::new(),
            verdicts: Vec::new(),
            settled_by: Index(0),
            creations: GroupsBuilder::new(),
            settings: TopicsBuilder::new(),
            settings_waits: Vec::new(),
            new_topics: Vec::new(),
            group_waits: BTreeMap::new(),
            left: BTreeSet::new(),
            ids: HashMap::with_hasher(state()),
            topics: HashMap::with_hasher(state()),
            groups: HashMap::with_hasher(state()),
            settled_groups: BTreeSet::new(),
            entries: VecDeque::new(),
            waiters: BTreeMap::new(),
        }
    }

    /// Nothing is gathered for a next entry.
    pub fn is_idle(&self) -> bool {
        let settles = self.settles.is_empty() && self.settings.is_empty();
        self.publishes.is_none() && settles && self.creations.is_empty()
    }

    /// Nothing is gathered, and nobody waits.
    pub fn is_empty(&self) -> bool {
        self.is_idle()
            && self.waiters.is_empty()
            && self.verdicts.is_empty()
            && self.group_waits.is_empty()
    }

    /// Bytes gathered for the next publish entry.
    pub fn open_bytes(&self) -> usize {
        self.publishes.as_ref().map_or(0, |open| open.builder.body_bytes())
    }

    /// A record with this id has been applied: the table of the applied state knows it now.
    pub fn id_applied(&mut self, hash: IdHash, offset: Offset) {
        if let Entry::Occupied(pending) = self.ids.entry(hash)
            && pending.get().offset == offset
        {
            pending.remove();
        }
    }

    /// Hashes of the ids of a publish entry's events, if it was proposed here: they were computed
    /// once already.
    pub fn take_hashes(&mut self, base: Offset) -> Option<Vec<IdHash>> {
        let proposed = self.entries.front_mut().filter(|entry| entry.base == base)?;
        Some(std::mem::take(&mut proposed.hashes))
    }

    /// A publish entry has got its index.
    pub fn entry_proposed(&mut self, entry: ProposedEntry) {
        self.entries.push_back(entry);
    }

    /// Right before the first event that is in the log and not applied: an entry sealed now is
    /// applied behind all of those.
    pub fn applied_limit(&self) -> Position {
        let first_due = self.entries.iter().map(|entry| entry.min_due).min().unwrap_or(u64::MAX);
        Position::new(first_due.saturating_sub(1), Offset(u64::MAX))
    }

    /// Waits for an entry.
    pub fn wait(&mut self, index: Index, waiters: Vec<Waiter>) {
        if !waiters.is_empty() {
            self.waiters.entry(index).or_default().extend(waiters);
        }
    }

    /// Waits for the entry that will hold a proposed offset.
    pub fn wait_for_offset(&mut self, offset: Offset, waiter: Waiter) {
        let proposed = self.entries.iter().find(|e| e.base <= offset && offset < e.end);
        if let Some(ProposedEntry { index, .. }) = proposed {
            self.waiters.entry(*index).or_default().push(waiter);
        } else {
            let open =
                self.publishes.as_mut().expect("a pending id lies in an entry or the open one");
            assert!(offset >= open.base_offset);
            open.waiters.push(waiter);
        }
    }

    /// Waits for settlements that are proposed: with the last of them all are applied.
    pub fn wait_for_settlements(&mut self, waiter: Waiter) {
        if self.settles.is_empty() {
            assert!(self.settled_by > Index(0), "what is waited for has been proposed");
            self.wait(self.settled_by, vec![waiter]);
        } else {
            self.verdicts.push(waiter);
        }
    }

    /// The settlements gathered have become an entry.
    pub fn settles_proposed(&mut self, index: Index) {
        assert!(self.settles.is_empty() && index > self.settled_by, "entries follow each other");
        self.settled_by = index;
        let verdicts = std::mem::take(&mut self.verdicts);
        self.wait(index, verdicts);
    }

    /// Whether no verdict waits for its entry.
    pub fn no_verdict_waits(&self) -> bool {
        let mut waiters = self.waiters.values().flatten();
        self.verdicts.is_empty() && !waiters.any(|waiter| matches!(waiter, Waiter::Ack { .. }))
    }

    /// Waits for a group to be created.
    pub fn wait_for_group(&mut self, no: GroupNo, waiter: Waiter) {
        self.group_waits.entry(no).or_default().push(waiter);
    }

    /// A group exists: its numbers are the applied state's, and these members join it.
    pub fn group_created(&mut self, no: GroupNo) -> Vec<Waiter> {
        self.groups.retain(|_, proposed| *proposed != no);
        self.group_waits.remove(&no).unwrap_or_default()
    }

    /// Topics up to this number are the applied state's.
    pub fn topics_defined(&mut self, count: usize) {
        self.topics.retain(|_, no| no.0 as usize >= count);
    }

    /// Whether a stream waits for its group.
    pub fn is_joining(&self, key: MemberKey) -> bool {
        let is_it = |waiter: &Waiter| match waiter {
            Waiter::Join { shard, subscription, .. } => {
                *shard == key.shard && *subscription == key.subscription
            }
            _ => false,
        };
        self.group_waits.values().flatten().any(is_it)
    }

    /// An entry has been applied: who waited for it.
    pub fn applied(&mut self, index: Index) -> Vec<Waiter> {
        while self.entries.front().is_some_and(|entry| entry.index <= index) {
            self.entries.pop_front();
        }
        self.waiters.remove(&index).unwrap_or_default()
    }

    /// The term is over: everyone who waits, in order, and an empty overlay in its place.
    pub fn drop_all(&mut self, next_offset: Offset) -> Vec<Waiter> {
        let old = std::mem::replace(self, Self::new(next_offset));
        let mut waiters: Vec<Waiter> = old.waiters.into_values().flatten().collect();
        waiters.extend(old.publishes.into_iter().flat_map(|open| open.waiters));
        waiters.extend(old.settings_waits);
        waiters.extend(old.verdicts);
        waiters.extend(old.group_waits.into_values().flatten());
        waiters
    }
}

impl Waiter {
    /// The message that tells the asker that nothing came of it.
    pub fn failed(
        self,
        partition: PartitionId,
        error: &ApiError,
    ) -> (ShardId, super::mesh::MeshMessage) {
        use super::mesh::MeshMessage as M;
        match self {
            Self::Publish { shard, request, outcomes } => {
                let fail = |outcome| match outcome {
                    // What failed by itself keeps its own reason.
                    EventOutcome::Failed(own) => EventOutcome::Failed(own),
                    _ => EventOutcome::Failed(Box::new(error.clone())),
                };
                let outcomes = outcomes.into_iter().map(fail).collect();
                (shard, M::Published { request, partition, outcomes })
            }
            Self::Ack { shard, request, mut outcomes } => {
                for (_, outcome) in &mut outcomes {
                    outcome.result = Err(error.clone());
                }
                (shard, M::Acked { request, outcomes })
            }
            Self::Topic { shard, request, .. } => {
                (shard, M::TopicIs { request, partition, result: Err(error.clone()) })
            }
            Self::Join { shard, subscription, .. } => {
                (shard, M::Joined { subscription, partition, result: Err(error.clone()) })
            }
        }
    }
}
