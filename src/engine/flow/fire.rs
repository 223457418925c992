//! The story of a fire, owner half: time passes, events become ready; members come and go.
//!
//! ```text
//!   wheel (wall clock) --> dirty groups, whose members get what is ready (`grant`)
//!   timers (boot time) --> leases end, backoffs end, members are given up
//! ```
//!
//! Must hold: no event leaves while `wall < schedule_ts`; only applied events are on the axis.

use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use crate::base::error::{ApiError, ErrorCode};
use crate::base::ids::{GroupNo, Offset, Position, ShardId, SubscriptionId, TopicNo};
use crate::base::limits;
use crate::engine::delivery::{DeadlineNo, Lease, Member, MemberKey};
use crate::engine::log::NewGroup;
use crate::engine::mesh::{MeshMessage, StartFilter};
use crate::engine::partition::Partition;
use crate::engine::proposals::Waiter;
use crate::engine::runs::MemoryIndex;
use crate::engine::step::Step;

/// Timers that end before the next ones are looked for.
const TIMERS_AT_ONCE: usize = 4;

/// An event in the wheel, under its `schedule_ts`: 16 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// Its offset.
    pub offset: Offset,
    /// Its topic.
    pub topic: TopicNo,
    /// `due - schedule_ts`, as [`MemoryIndex::passed`] keeps it: not 0 only where log time runs
    /// ahead of the wall.
    pub passed: u32,
}

/// What happens to a leased or failed event when boot time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerKind {
    /// The leases of a deadline have run out: the attempts failed.
    LeaseEnd(DeadlineNo),
    /// Their member has been gone for the grace: the events are free, no attempt is counted.
    Release(DeadlineNo),
    /// The backoff is over.
    Retry,
}

/// A timer of a group.
#[derive(Clone, Copy, Debug)]
pub struct Timer {
    /// What happens.
    pub kind: TimerKind,
    /// Whose lease or backoff.
    pub group: GroupNo,
    /// Which event; of a deadline's events the first.
    pub position: Position,
}

/// A member that wants to join.
pub(in crate::engine) struct JoinRequest {
    pub(in crate::engine) key: MemberKey,
    pub(in crate::engine) group: Arc<str>,
    pub(in crate::engine) topic: Arc<str>,
    pub(in crate::engine) member: Arc<str>,
    pub(in crate::engine) filter: StartFilter,
}

impl Partition {
    /// Lets time pass: fires what is due, ends what has run out, up to `limit` each. True if more
    /// is due.
    pub(in crate::engine) fn advance_time(&mut self, step: &mut Step<'_>, limit: usize) -> bool {
        if !self.armed {
            return false;
        }
        self.observe_wall(step);
        while let Some((due, no)) = self.horizon.rewound.first().copied()
            && due <= step.now.wall_ms()
        {
            self.horizon.rewound.pop_first();
            self.dirty.insert(no);
        }
        let mut fired = Vec::new();
        let mut more = self.advance_arming(step, limit);
        if self.wheel.advance(step.now.wall_ms(), limit, &mut fired) {
            more = true;
            self.seek_due();
        }
        // Events of one tick come in no order; leases are given out in (due, offset) order anyway,
        // this keeps the traces of two runs equal and the dispatch sets cheap to fill.
        fired.sort_unstable_by_key(|(at, due)| (*at, due.offset));
        for (schedule_ts, due) in fired {
            step.stats.fired += 1;
            let axis = &self.topics.get(due.topic).axis;
            let position = axis.position(due.offset, schedule_ts, due.passed);
            self.fire(step, due.topic, position);
        }
        more | self.advance_timers(step, limit)
    }

    /// Ends what has run out, few timers at a time: one may be for many events.
    fn advance_timers(&mut self, step: &mut Step<'_>, mut limit: usize) -> bool {
        while limit > 0 {
            let mut ended = Vec::new();
            let more = self.timers.advance(step.now.boot_ms(), TIMERS_AT_ONCE, &mut ended);
            ended.sort_unstable_by_key(|(at, timer)| (*at, timer.group, timer.position));
            let events: usize = ended.into_iter().map(|(_, timer)| self.timer(step, timer)).sum();
            if !more {
                return false;
            }
            limit = limit.saturating_sub(events.max(TIMERS_AT_ONCE));
        }
        true
    }

    /// The wheel is behind, and may be for long: groups whose events it comes to last need not
    /// wait for it, since they read the due axis. A few at a time, in turn.
    fn seek_due(&mut self) {
        let from = self.sought.map_or(Unbounded, Excluded);
        let some = self.members.range((from, Unbounded)).take(limits::SEEK_MEMBERS);
        let some: Vec<_> = some.map(|(key, no)| (*key, *no)).collect();
        self.sought =
            some.last().map(|(key, _)| *key).filter(|_| some.len() == limits::SEEK_MEMBERS);
        self.dirty.extend(some.into_iter().map(|(_, no)| no));
    }

    /// An applied event: to the wheel if its time nears, else it waits in memory until it does.
    pub(in crate::engine) fn arm(
        &mut self,
        step: &mut Step<'_>,
        topic: TopicNo,
        position: Position,
        schedule_ts: u64,
    ) {
        let passed = MemoryIndex::passed(position, schedule_ts);
        let near = schedule_ts <= self.horizon.armed_to;
        self.horizon.unarmed += u64::from(!near);
        if schedule_ts <= step.now.wall_ms() {
            step.stats.fired += 1;
            self.fire(step, topic, position);
            return;
        }
        for no in &self.topics.get(topic).groups {
            let group = &mut self.groups[no.0 as usize];
            if group.wants(position) {
                group.dispatch.arrived(position);
            }
        }
        if !near {
            return;
        }
        self.wheel.insert(schedule_ts, Due { offset: position.offset, topic, passed });
    }

    fn fire(&mut self, step: &Step<'_>, topic: TopicNo, position: Position) {
        for no in &self.topics.get(topic).groups {
            let group = &mut self.groups[no.0 as usize];
            if group.wants(position) {
                group.dispatch.fired(position, step.now.wall_ms());
                self.dirty.insert(*no);
            }
        }
    }

    /// A member opens its stream here; the group is created if it is new.
    pub(in crate::engine) fn join(&mut self, step: &mut Step<'_>, join: JoinRequest) {
        if !self.is_serving() {
            let text = "this partition is not serving; retry with backoff";
            let error = ApiError::new(ErrorCode::Unavailable, text);
            return self.joined(step, join.key, Err(error));
        }
        let topic = match self.topic_number(&join.topic) {
            Ok(topic) => topic,
            Err(error) => return self.joined(step, join.key, Err(error)),
        };
        let key = (join.group.clone(), topic);
        if let Some(no) = self.group_numbers.get(&key).copied() {
            self.add_member(step, no, join.key, join.member);
            return;
        }
        let (shard, subscription) = (join.key.shard, join.key.subscription);
        let no = if let Some(no) = self.proposals.groups.get(&key).copied() {
            no
        } else {
            let next = self.groups.len() + self.proposals.groups.len();
            if next >= limits::GROUPS {
                let text = format!("consumer_group: {next} groups exist, the limit");
                let error = ApiError::new(ErrorCode::ResourceExhausted, text);
                return self.joined(step, join.key, Err(error));
            }
            let no = GroupNo(next as u32);
            let min_offset = join.filter.min_offset;
            // What is hidden stays so for a group that comes later.
            let hidden = self.hidden_before(step, topic);
            let min_due = join.filter.min_due.max(hidden);
            let name = &*join.group;
            let group = NewGroup { no, name, topic, min_offset, min_due, ordered: false };
            self.proposals.creations.push(&group);
            self.proposals.groups.insert(key, no);
            no
        };
        let waiter = Waiter::Join { shard, subscription, group: no, member: join.member };
        self.proposals.wait_for_group(no, waiter);
    }

    /// Adds a member to a group that exists.
    pub(in crate::engine) fn add_member(
        &mut self,
        step: &mut Step<'_>,
        no: GroupNo,
        key: MemberKey,
        name: Arc<str>,
    ) {
        if self.proposals.left.remove(&key) {
            return; // it left while its group was being created
        }
        let members = &mut self.groups[no.0 as usize].dispatch.members;
        if members.len() >= limits::GROUP_MEMBERS {
            let text = format!("consumer_group: {} members, the limit", members.len());
            let error = ApiError::new(ErrorCode::ResourceExhausted, text);
            return self.joined(step, key, Err(error));
        }
        let before = members.insert(key, Member { name, offered: false, granted: None });
        assert!(before.is_none(), "a stream joins a partition once");
        self.members.insert(key, no);
        self.dirty.insert(no);
        self.joined(step, key, Ok(()));
    }

    fn joined(&mut self, step: &mut Step<'_>, key: MemberKey, result: Result<(), ApiError>) {
        let (subscription, partition) = (key.subscription, self.id);
        step.send(key.shard, MeshMessage::Joined { subscription, partition, result });
    }

    /// A member is gone. What it holds waits a moment for late acks, then it is free.
    pub(in crate::engine) fn leave(&mut self, step: &mut Step<'_>, key: MemberKey) {
        let Some(no) = self.members.remove(&key) else {
            if self.proposals.is_joining(key) {
                self.proposals.left.insert(key);
            }
            return;
        };
        let dispatch = &mut self.groups[no.0 as usize].dispatch;
        dispatch.members.remove(&key).expect("the maps agree");
        let at = step.now.boot_ms() + limits::DISCONNECT_GRACE_MS;
        let mut deadline = None;
        for (position, lease) in dispatch.leases_of(key) {
            self.leave_deadline(no, lease);
            let shared = self.share_deadline(no, position, at, deadline, None);
            deadline = Some(shared);
            let lease = Lease { deadline: shared, ..lease };
            self.groups[no.0 as usize].dispatch.busy.renew(position, lease);
        }
        self.dirty.insert(no);
    }

    /// Ends every stream on this partition, with a reason.
    pub(in crate::engine) fn drop_members(&mut self, step: &mut Step<'_>, error: &ApiError) {
        for (key, no) in std::mem::take(&mut self.members) {
            let dispatch = &mut self.groups[no.0 as usize].dispatch;
            dispatch.members.remove(&key).expect("the maps agree");
            // What it holds stays with it: credit given back here would be granted elsewhere, and
            // used, before the word that its stream is over arrives.
            self.joined(step, key, Err(error.clone()));
        }
    }
}

/// The key of a member from the two halves of a message.
pub(in crate::engine) fn member_key(shard: ShardId, subscription: SubscriptionId) -> MemberKey {
    MemberKey { shard, subscription }
}
