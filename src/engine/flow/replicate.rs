//! The story of replication, owner half: what the layer above a replica tells it.
//!
//! A group of one commits by itself and never comes here. A scripted replica (the simulator's) and
//! later Raft commit late, take leadership away and give it back.

use bytes::Bytes;

use super::commit::Writes;
use super::recover::Phase;
use super::roll::Roll;
use crate::base::error::ApiError;
use crate::base::ids::{Index, Term};
use crate::base::size::{BLOCK, block_floor};
use crate::engine::effect::Effect;
use crate::engine::input::{HardState, ReplicaEvent};
use crate::engine::log::Place;
use crate::engine::partition::Partition;
use crate::engine::reads::CUT_READ;
use crate::engine::step::Step;

/// Where a partition's replica stands, for the layer above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// The current term.
    pub term: Term,
    /// The last entry, persisted or not.
    pub last: Index,
    /// The last entry that is durable here.
    pub persisted: Index,
    /// The last entry that is committed and durable here.
    pub committed: Index,
    /// It leads, and may be deposed; false: it was deposed, and may be elected.
    pub leader: bool,
}

impl Partition {
    /// Where the replica stands; `None` while the log is opened or its term is saved.
    pub(in crate::engine) fn replica_status(&self) -> Option<ReplicaStatus> {
        let leader = match self.phase {
            Phase::Opening(_) | Phase::Serving => true,
            Phase::Deposed { elected: None, .. } => false,
            _ => return None,
        };
        Some(ReplicaStatus {
            term: self.replica.term(),
            last: self.replica.last().0,
            persisted: self.replica.persisted(),
            committed: self.replica.committed(),
            leader,
        })
    }

    /// The replication layer speaks.
    pub(in crate::engine) fn replica_event(&mut self, step: &mut Step<'_>, event: ReplicaEvent) {
        match event {
            ReplicaEvent::Committed(index) => {
                self.replica.on_committed(index);
                self.apply_committed(step);
            }
            ReplicaEvent::Deposed { truncate_from } => self.deposed(step, truncate_from),
            ReplicaEvent::Elected(term) => self.elected(step, term),
        }
    }

    /// The leadership is lost. What was proposed is dropped whole, everyone who waits is told, and
    /// the suffix that others lack is cut from the log.
    fn deposed(&mut self, step: &mut Step<'_>, truncate_from: Index) {
        assert!(
            matches!(self.phase, Phase::Serving | Phase::Opening(_)),
            "only a leader is deposed"
        );
        self.replica.depose();
        let error = ApiError::not_leader();
        for waiter in self.proposals.drop_all(self.applied_end) {
            let (shard, message) = waiter.failed(self.id, &error);
            step.send(shard, message);
        }
        self.drop_look_ups(step, &error);
        self.drop_members(step, &error);
        self.armed = false;
        for group in &mut self.groups {
            group.restart();
        }
        self.phase = Phase::Deposed { truncate_from: Some(truncate_from), elected: None };
        self.deposed_on(step);
    }

    /// Leads again: a new term begins with the hard state, then a no-op.
    fn elected(&mut self, step: &mut Step<'_>, term: Term) {
        let Phase::Deposed { elected, .. } = &mut self.phase else {
            panic!("only a deposed replica is elected");
        };
        *elected = Some(term);
        self.deposed_on(step);
    }

    /// Cuts the log once nothing is on its way to it, then takes up the new term, if there is one.
    pub(super) fn deposed_on(&mut self, step: &mut Step<'_>) {
        let Phase::Deposed { truncate_from, elected } = self.phase else { return };
        if self.reads.cut.is_some() {
            return; // goes on when the cut's place is saved and its block is read
        }
        let tail = self.tail.as_mut().expect("a former leader has a tail");
        let rolling = matches!(self.roll, Roll::Saving | Roll::Creating(_));
        if let Some(from) = truncate_from {
            let next = tail.drop_from(from);
            let busy = tail.writes_in_flight() > 0 || tail.is_filling() || rolling;
            if busy || !self.writes.is_idle() {
                return;
            }
            self.roll = Roll::None;
            self.truncate(step, from, next > from);
        } else if !tail.is_cut() {
            self.submit(step);
        } else if let Some(term) = elected {
            self.take_term(step, term);
        }
    }

    /// Drops the uncommitted suffix. What of it is on disk is cut behind the last entry that stays;
    /// its block is needed again, since writes rewrite it.
    fn truncate(&mut self, step: &mut Step<'_>, from: Index, on_disk: bool) {
        let dropped = self.replica.truncate_from(from);
        if let Some(first) = dropped.first() {
            self.chain = first.header.chain;
            self.sealed_end = first.header.base_offset;
        }
        let Some(place) = on_disk.then(|| self.places[&from]) else {
            self.places.split_off(&from);
            return self.truncated(step);
        };
        self.places.split_off(&from);
        // What is half removed looks like rot: a recovery must know that it goes on purpose.
        self.reads.cut = Some(place);
        let state = HardState { cut_from: from, ..self.replica.hard_state() };
        step.effects.push(Effect::SaveHardState { partition: self.id, state });
    }

    /// The place of the cut is durable: the log may be cut.
    pub(super) fn cut_saved(&mut self, step: &mut Step<'_>) {
        let place = self.reads.cut.expect("a cut was saved");
        let position = block_floor(place.position);
        if position == place.position {
            self.reads.cut = None;
            return self.cut_log(step, place, &[]);
        }
        let (partition, segment) = (self.id, place.segment);
        let (read, len) = (CUT_READ, BLOCK);
        step.effects.push(Effect::Read { partition, read, segment, position, len });
    }

    /// The block in which the log is cut has been read.
    pub(super) fn cut_block(&mut self, step: &mut Step<'_>, data: &Bytes) {
        let place = self.reads.cut.take().expect("the block was asked for");
        let kept = (place.position - block_floor(place.position)) as usize;
        self.cut_log(step, place, &data[..kept]);
    }

    fn cut_log(&mut self, step: &mut Step<'_>, place: Place, block: &[u8]) {
        let tail = self.tail.as_mut().expect("a former leader has a tail");
        tail.cut(place, block);
        self.truncated(step);
    }

    fn truncated(&mut self, step: &mut Step<'_>) {
        // What stays and was not written yet is still queued: the next term writes it.
        self.writes = Writes::starting_at(self.replica.persisted());
        self.proposals.next_offset = self.sealed_end;
        let Phase::Deposed { truncate_from, .. } = &mut self.phase else {
            unreachable!("only a deposed replica truncates");
        };
        *truncate_from = None;
        self.deposed_on(step);
    }
}
