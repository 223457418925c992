//! The story of a roll, owner half: a full segment is left for a new one that begins with a state
//! entry.
//!
//! The state entry says what all entries before it have made, so it is only composed when all of
//! them are applied: proposals gather for the time of a write or two. It makes any suffix of
//! segments enough to rebuild groups and settings.

use crate::base::ids::{Index, Position};
use crate::engine::delivery::Failures;
use crate::engine::effect::Effect;
use crate::engine::input::HardState;
use crate::engine::log::{
    Body, DeadLetter as LoggedLetter, DeadReason, EntryHeader, EntryKind, GroupState, StateBuilder,
    StateHead, StateView, Unsettled,
};
use crate::engine::partition::Partition;
use crate::engine::step::Step;

/// Where a roll stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roll {
    /// No roll.
    None,
    /// Waiting until everything before the new segment is durable and applied.
    Draining,
    /// Waiting until it is saved that everything before the new segment is committed: a term that
    /// begins in an empty segment must know the state it begins with.
    Saving,
    /// Waiting for the file.
    Creating(Index),
}

impl Partition {
    /// Goes on with a roll, if there is one and it can.
    pub(super) fn roll_on(&mut self, step: &mut Step<'_>) {
        if self.roll != Roll::Draining || self.retention.saving.is_some() {
            return;
        }
        let tail = self.tail.as_ref().expect("a leader has a tail");
        let applied = self.replica.applied() == self.replica.last().0;
        if !tail.is_idle() || tail.is_filling() || !self.writes.is_idle() || !applied {
            return;
        }
        if self.writes.synced < self.writes.written {
            self.writes.syncing = Some(self.writes.written);
            step.effects.push(Effect::Sync { partition: self.id, segment: tail.end().segment });
            return;
        }
        if self.external_commit {
            self.roll = Roll::Saving;
            let state = HardState { cut_from: Index(0), ..self.replica.hard_state() };
            step.effects.push(Effect::SaveHardState { partition: self.id, state });
        } else {
            self.begin_segment(step);
        }
    }

    /// What is committed is saved.
    pub(super) fn roll_saved(&mut self, step: &mut Step<'_>) {
        if self.replica.is_leader() {
            self.begin_segment(step);
        } else {
            self.roll = Roll::None;
            self.deposed_on(step);
        }
    }

    fn begin_segment(&mut self, step: &mut Step<'_>) {
        let segment = self.replica.last().0.next();
        self.roll = Roll::Creating(segment);
        self.create_segment(step, segment);
    }

    pub(super) fn create_segment(&mut self, step: &mut Step<'_>, segment: Index) {
        step.effects.push(Effect::CreateSegment { partition: self.id, segment });
    }

    /// The new segment's file is there.
    pub(super) fn rolled(&mut self, step: &mut Step<'_>, segment: Index) {
        assert_eq!(self.roll, Roll::Creating(segment), "a segment is created for a roll");
        self.roll = Roll::None;
        let tail = self.tail.as_mut().expect("a leader has a tail");
        tail.start_segment(segment, self.writes.synced);
        self.segments.push((segment, 0));
        if self.replica.is_leader() {
            self.propose_state(step);
            self.flush(step);
        } else {
            self.deposed_on(step);
        }
    }

    /// The head of a segment: all applied state, in as many entries as it takes.
    pub(super) fn propose_state(&mut self, step: &mut Step<'_>) {
        let append_ts = self.clock_for_state(step);
        for body in self.state().finish() {
            self.propose(EntryKind::Normal, self.applied_end, append_ts, body);
        }
    }

    /// A state entry comes before the publishes that gather already, so its stamp does, too.
    fn clock_for_state(&mut self, step: &Step<'_>) -> u64 {
        let open = self.proposals.publishes.as_ref().map(|open| open.append_ts);
        open.unwrap_or_else(|| self.clock.stamp(step.now))
    }

    /// The applied state, in parts. Dead letters are not among it: nothing bounds them, and what
    /// begins a segment must leave room in it for what follows.
    pub(super) fn state(&self) -> StateBuilder {
        let (truncated_index, truncated_term) = self.replica.truncated();
        let mut state = StateBuilder::new(StateHead {
            next_offset: self.applied_end,
            dedup_ttl_ms: self.dedup.ttl_ms(),
            truncated_index,
            truncated_term,
        });
        for (no, topic) in self.topics.iter() {
            state.topic(no, &topic.name, self.topics.retention(no));
        }
        for group in &self.groups {
            state.group(&GroupState {
                no: group.no,
                name: &group.name,
                topic: group.topic,
                min_offset: group.min_offset,
                min_due: group.min_due,
                ordered: false,
                frontier: group.cursor.frontier(),
            });
            for (position, ()) in group.cursor.settled().iter() {
                state.settled(group.no, position);
            }
            let frontier = group.cursor.frontier();
            let ahead = group.cursor.failures().keys().filter(|p| **p > frontier);
            for position in group.cursor.unsettled().iter().chain(ahead) {
                let failures = group.cursor.failures().get(position).copied().unwrap_or_default();
                let Failures { attempts, not_before } = failures;
                state.unsettled(&Unsettled {
                    group: group.no,
                    position: *position,
                    attempts,
                    releases: 0,
                    not_before_ms: not_before,
                });
            }
        }
        state
    }

    /// As [`Self::state`], with dead letters.
    pub(super) fn whole_state(&self) -> Vec<Body> {
        let mut state = self.state();
        for group in &self.groups {
            for (position, letter) in &group.dead {
                let reason = DeadReason::from_number(letter.reason).expect("as it was logged");
                let (group, position) = (group.no, *position);
                let (attempts, text) = (letter.attempts, &*letter.text);
                state.dead(&LoggedLetter { group, position, attempts, reason, text });
            }
        }
        state.finish()
    }

    /// A state entry in the middle of a log that is there from the start: what it says must be what
    /// the entries before it have made. Two replicas that disagree here would deliver differently.
    pub(in crate::engine) fn apply_state(&mut self, header: &EntryHeader, view: &StateView<'_>) {
        let head = view.head();
        assert_eq!(head.next_offset, self.applied_end, "state and log agree on offsets");
        assert_eq!(head.truncated_index, Index(0), "logs are whole in this version: {header:?}");
        for (no, name) in view.topics() {
            assert_eq!(*self.topics.get(no).name, *name, "state and log agree on topics");
        }
        for (no, retention) in view.retention() {
            assert_eq!(self.topics.retention(no), retention, "and on how long they are kept");
        }
        for state in view.groups() {
            let group = &self.groups[state.no.0 as usize];
            assert_eq!(*group.name, *state.name, "state and log agree on groups");
            assert_eq!(group.cursor.frontier(), state.frontier, "and on their frontiers");
        }
        for (no, position) in view.settled() {
            assert!(
                self.groups[no.0 as usize].cursor.is_settled(position),
                "and on what is settled"
            );
        }
        let unsettled = |no: crate::base::ids::GroupNo, position: Position| {
            !self.groups[no.0 as usize].cursor.is_settled(position)
        };
        for event in view.unsettled() {
            assert!(unsettled(event.group, event.position), "and on what is not");
        }
    }
}
