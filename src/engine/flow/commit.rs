//! The story of a commit, owner half: gathered proposals become entries, entries become writes,
//! writes become durable, what is committed is applied, and only then is anyone answered.
//!
//! Group commit: while a write is on its way, proposals gather; they are sealed into entries when
//! nothing is in flight any more, or when enough bytes have come together to fill a write of their
//! own. So a lone publish waits for nobody, and a crowd shares one write.

use std::collections::BTreeMap;

use super::recover::Phase;
use super::roll::Roll;
use crate::base::config::FsyncMode;
use crate::base::ids::{Index, Offset, Position};
use crate::base::size::BLOCK;
use crate::engine::effect::Effect;
use crate::engine::log::{Body, Content, EntryHeader, EntryKind, Planned, entry_len};
use crate::engine::mesh::MeshMessage;
use crate::engine::partition::{LogEntry, Partition};
use crate::engine::proposals::{ProposedEntry, Waiter};
use crate::engine::step::Step;

/// With this many bytes gathered, the next write need not wait for the one in flight.
const EARLY_BYTES: usize = 128 << 10;

/// Kept free at the end of a segment for the no-ops of terms to come: a term must be able to begin
/// where the log ends, before anything that was found there is committed.
const TERM_ROOM: u64 = 2 * BLOCK;

/// Writes of one partition's log.
#[derive(Debug, Default)]
pub struct Writes {
    /// When each was submitted (boot time, microseconds), and its bytes.
    submitted: BTreeMap<u64, (u64, u64)>,
    /// Highest index known to survive a power loss.
    pub(super) synced: Index,
    /// Highest index on the disk, synced or not.
    pub(super) written: Index,
    /// Periodic mode: a publish asked for a sync before its answer.
    pub(in crate::engine) force_sync: bool,
    /// Periodic mode: the written index that the sync under way will cover.
    pub(super) syncing: Option<Index>,
    /// Periodic mode: when the next sync is due, boot time, ms.
    next_sync_ms: u64,
}

impl Partition {
    /// End of a turn: whatever can be written is.
    pub(in crate::engine) fn flush(&mut self, step: &mut Step<'_>) {
        if !matches!(self.phase, Phase::Serving | Phase::Opening(_)) {
            return;
        }
        self.roll_on(step);
        let tail = self.tail.as_ref().expect("a serving partition has a tail");
        if tail.writes_in_flight() == 0 || self.proposals.open_bytes() >= EARLY_BYTES {
            self.seal(step);
        }
        self.submit(step);
        self.roll_on(step);
    }

    /// Makes entries of what is gathered: groups, settings, publishes, settlements, in this order.
    pub(in crate::engine) fn seal(&mut self, step: &mut Step<'_>) {
        if !self.replica.is_leader() || self.roll != Roll::None {
            return;
        }
        if !self.proposals.creations.is_empty() {
            let new_topics: usize = self.proposals.new_topics.iter().map(|t| t.1.len() + 16).sum();
            if !self.fits(self.proposals.creations.body_bytes() + new_topics) {
                return;
            }
            for (no, name) in std::mem::take(&mut self.proposals.new_topics) {
                self.proposals.creations.define_topic(no, &name);
            }
            let (base, append_ts) = self.stamp_beside_publishes(step);
            let body = self.proposals.creations.finish();
            self.propose(EntryKind::Normal, base, append_ts, body);
        }
        if !self.seal_settings(step) {
            return;
        }
        if let Some(open) = &self.proposals.publishes {
            let new_topics: usize = self.proposals.new_topics.iter().map(|t| t.1.len() + 16).sum();
            if !self.fits(open.builder.body_bytes() + new_topics) {
                return;
            }
            let mut open = self.proposals.publishes.take().expect("just seen");
            for (no, name) in std::mem::take(&mut self.proposals.new_topics) {
                open.builder.define_topic(no, &name);
            }
            let min_due = open.min_schedule_ts.max(open.append_ts);
            let body = open.builder.finish();
            self.proposals.builder = open.builder;
            let end = open.base_offset.plus(u64::from(body.records()));
            let index = self.propose(EntryKind::Normal, open.base_offset, open.append_ts, body);
            self.proposals.entry_proposed(ProposedEntry {
                base: open.base_offset,
                end,
                index,
                min_due,
                hashes: open.hashes,
            });
            self.proposals.wait(index, open.waiters);
        }
        let settles = self.proposals.settles.body_bytes() + self.frontier_bytes();
        if !self.proposals.settles.is_empty() && self.fits(settles) {
            self.propose_frontiers();
            let append_ts = self.clock.stamp(step.now);
            let body = self.proposals.settles.finish();
            let index = self.propose(EntryKind::Normal, self.sealed_end, append_ts, body);
            self.proposals.settles_proposed(index);
        }
    }

    /// Base offset and stamp of an entry of no events: that of the publishes that gather already.
    pub(super) fn stamp_beside_publishes(&mut self, step: &Step<'_>) -> (Offset, u64) {
        let open = self.proposals.publishes.as_ref();
        let stamp = open.map(|open| (open.base_offset, open.append_ts));
        stamp.unwrap_or_else(|| (self.sealed_end, self.clock.stamp(step.now)))
    }

    /// Whether an entry with a body of this size may go into the segment; if not, a roll begins.
    pub(super) fn fits(&mut self, body_bytes: usize) -> bool {
        let tail = self.tail.as_ref().expect("a leader has a tail");
        if tail.fits(entry_len(body_bytes) + TERM_ROOM) {
            return true;
        }
        self.roll = Roll::Draining;
        false
    }

    /// Appends an entry to the replica and the tail.
    pub(super) fn propose(
        &mut self,
        kind: EntryKind,
        base_offset: Offset,
        append_ts: u64,
        body: Body,
    ) -> Index {
        let (term, index) = (self.replica.term(), self.replica.last().0.next());
        let (chain, count) = (self.chain, body.records());
        let header = EntryHeader { kind, term, index, chain, base_offset, count, append_ts };
        self.chain = header.next_chain(body.crc());
        self.sealed_end = header.end_offset();
        self.tail.as_mut().expect("a leader has a tail").push(header, body.clone());
        self.replica.propose(LogEntry { header, body });
        index
    }

    /// Submits what the tail's rules allow, and runs the zero-fill ahead of it.
    pub(super) fn submit(&mut self, step: &mut Step<'_>) {
        let partition = self.id;
        let tail = self.tail.as_mut().expect("a leader has a tail");
        while let Some(planned) = tail.plan(self.writes.synced) {
            let Planned { write, segment, position, len, entries, places } = planned;
            if let Some((first, _)) = entries {
                for (index, place) in (first.0..).zip(places) {
                    self.places.insert(Index(index), place);
                }
            }
            self.writes.submitted.insert(write, (step.now.boot_us, len));
            let periodic = matches!(step.config.fsync, FsyncMode::Periodic { .. });
            // Known bad: the page cache is taken for the disk.
            let sync = !periodic && !cfg!(bug_write_without_sync);
            step.effects.push(Effect::Write { partition, write, segment, position, len, sync });
        }
        if let Some((from, to)) = tail.wants_fill(step.space.ahead()) {
            let segment = tail.end().segment;
            step.effects.push(Effect::Fill { partition, segment, from, to });
        }
        if cfg!(bug_deliver_before_durable) {
            self.apply_submitted(step);
        }
    }

    /// Known bad: what is on its way to the disk is applied, and so delivered. Who waits for it is
    /// answered when it is durable, as it should be.
    fn apply_submitted(&mut self, step: &mut Step<'_>) {
        let nobody_acks = self.proposals.no_verdict_waits();
        let submitted = self.places.keys().next_back().copied();
        if let Some(index) = submitted.filter(|_| self.phase == Phase::Serving && nobody_acks) {
            self.persisted(step, index);
        }
    }

    /// A write is done: what it makes possible happens at once.
    pub(in crate::engine) fn write_done(&mut self, step: &mut Step<'_>, write: u64) {
        self.account(step, write);
        match self.phase {
            Phase::Deposed { .. } => self.deposed_on(step),
            Phase::Opening(_) => self.submit(step),
            _ => {}
        }
    }

    fn account(&mut self, step: &mut Step<'_>, write: u64) {
        let (at, bytes) = self.writes.submitted.remove(&write).expect("a write is done once");
        step.stats.commits += 1;
        step.stats.commit_bytes_each.saturating_record(bytes);
        let took = step.now.boot_us.saturating_sub(at).max(1);
        step.stats.commit_latency_us.saturating_record(took);
        let tail = self.tail.as_mut().expect("writes come from a tail");
        step.stats.commit_bytes += bytes;
        let Some(index) = tail.done(write) else { return };
        assert!(index >= self.writes.written, "writes are acknowledged in log order");
        let before = std::mem::replace(&mut self.writes.written, index);
        if cfg!(bug_deliver_before_durable) {
            (before.0 + 1..=index.0).for_each(|index| self.answer_all(step, Index(index)));
        }
        let FsyncMode::Periodic { interval_ms } = step.config.fsync else {
            self.writes.synced = index;
            return self.persisted(step, index);
        };
        if self.writes.force_sync {
            self.sync_now(step);
        } else if self.writes.syncing.is_none() || !self.writes.holding() {
            if self.writes.next_sync_ms == 0 {
                self.writes.next_sync_ms = step.now.boot_ms() + interval_ms;
            }
            self.persisted(step, index);
        }
    }

    /// Periodic mode: asks for a sync of all that is written.
    pub(super) fn sync_now(&mut self, step: &mut Step<'_>) {
        if self.writes.syncing.is_none() {
            self.writes.syncing = Some(self.writes.written);
            self.writes.next_sync_ms = 0;
            let segment = self.tail.as_ref().expect("a leader has a tail").end().segment;
            step.effects.push(Effect::Sync { partition: self.id, segment });
        }
    }

    /// Periodic mode: syncs when the interval is over. Returns when it next will, boot time, ms.
    pub(in crate::engine) fn periodic_sync(&mut self, step: &mut Step<'_>) {
        let due = self.writes.next_sync_ms;
        if due != 0 && due <= step.now.boot_ms() && self.writes.synced < self.writes.written {
            self.sync_now(step);
        }
    }

    /// When the next periodic sync is due, boot time, ms.
    pub(in crate::engine) fn next_sync_ms(&self) -> Option<u64> {
        let waits = self.writes.next_sync_ms != 0 && self.writes.syncing.is_none();
        waits.then_some(self.writes.next_sync_ms)
    }

    /// Periodic mode: what was written when the sync began is durable.
    pub(super) fn log_synced(&mut self, step: &mut Step<'_>) {
        let index = self.writes.syncing.take().expect("a sync is answered once");
        self.writes.synced = self.writes.synced.max(index);
        if self.writes.force_sync {
            self.writes.force_sync = self.writes.written > index;
            self.persisted(step, index);
            if self.writes.force_sync {
                self.sync_now(step);
            }
        } else if self.writes.written > index && self.writes.next_sync_ms == 0 {
            self.writes.next_sync_ms = step.now.boot_ms() + 1;
        }
    }

    /// Entries up to `index` are on this replica's disk: commit and apply what that allows.
    pub(super) fn persisted(&mut self, step: &mut Step<'_>, index: Index) {
        self.replica.on_persisted(index);
        self.apply_committed(step);
    }

    /// Applies what is committed, in order, and answers who waited for it.
    pub(in crate::engine) fn apply_committed(&mut self, step: &mut Step<'_>) {
        while let Some(LogEntry { header, body }) = self.replica.next_committed() {
            let applied = self.apply(&header, &body);
            let place = self.places.remove(&header.index).expect("a persisted entry has a place");
            self.sparse.note(place, &header, body.entry_len());
            self.keep_in_memory(step, header, body.clone());
            self.horizon.unflushed_bytes += body.entry_len();
            if self.armed {
                self.arm_entry(step, &header, &body);
            }
            self.settled(step, applied);
            if !cfg!(bug_deliver_before_durable) || header.index <= self.writes.written {
                self.answer_all(step, header.index);
            }
            self.proposals.topics_defined(self.topics.count());
            if self.phase == Phase::Opening(header.index) {
                self.serve(step);
            }
        }
    }

    /// What a new entry means to the wheel and to groups.
    fn arm_entry(&mut self, step: &mut Step<'_>, header: &EntryHeader, body: &Body) {
        match body.content() {
            Content::Publish(view) => {
                for slot in 0..view.len() {
                    let record = view.record(slot);
                    let due = record.schedule_ts.max(header.append_ts);
                    let offset = header.base_offset.plus(u64::from(slot));
                    let position = Position::new(due, offset);
                    self.arm(step, record.topic, position, record.schedule_ts);
                }
            }
            Content::Groups(view) => {
                for group in view.groups() {
                    self.start_group(step, group.no);
                    for waiter in self.proposals.group_created(group.no) {
                        self.answer(step, waiter);
                    }
                }
            }
            Content::NoOp | Content::Settle(_) | Content::Topics(_) | Content::State(_) => {}
        }
    }

    /// Tells all who wait for an entry that it is applied.
    fn answer_all(&mut self, step: &mut Step<'_>, index: Index) {
        for waiter in self.proposals.applied(index) {
            self.answer(step, waiter);
        }
    }

    /// Tells a waiter that its entry is applied.
    pub(super) fn answer(&mut self, step: &mut Step<'_>, waiter: Waiter) {
        match waiter {
            Waiter::Publish { shard, request, outcomes } => {
                let partition = self.id;
                step.send(shard, MeshMessage::Published { request, partition, outcomes });
            }
            Waiter::Ack { shard, request, outcomes } => {
                step.send(shard, MeshMessage::Acked { request, outcomes });
            }
            Waiter::Topic { shard, request, retention } => {
                let (partition, result) = (self.id, Ok(retention));
                step.send(shard, MeshMessage::TopicIs { request, partition, result });
            }
            Waiter::Join { shard, subscription, group, member } => {
                let key = super::fire::member_key(shard, subscription);
                self.add_member(step, group, key, member);
            }
        }
    }
}

impl Writes {
    /// Commits wait for the sync under way.
    fn holding(&self) -> bool {
        self.force_sync
    }

    /// A replica that starts to write behind this index, all of it durable.
    pub(super) fn starting_at(index: Index) -> Self {
        Self { synced: index, written: index, ..Self::default() }
    }

    /// Nothing is on its way to the disk.
    pub(super) fn is_idle(&self) -> bool {
        self.submitted.is_empty() && self.syncing.is_none()
    }
}
