//! What the leader is doing for a group right now: what it has read, what is ready, who has what.
//!
//! The due axis is read once, from the frontier to the wall clock, by `next_read`. Whatever has to
//! be handed out again (released, failed, applied late) or out of order (due beyond the wall clock
//! because log time runs ahead of it) goes through `ready`.
//!
//! Must hold: an event is in at most one of `ready`, `leased`, `held`, `settling`; one that lies
//! beyond `next_read` and has been handed out is in `ahead`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ahash::RandomState;

use super::lease::{Lease, Member, MemberKey};
use crate::base::ids::Position;

/// Where the next event to deliver comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// From `ready`.
    Again(Position),
    /// The next on the due axis.
    Read(Position),
}

impl Candidate {
    /// The event's place.
    pub fn position(self) -> Position {
        match self {
            Self::Again(position) | Self::Read(position) => position,
        }
    }
}

/// See the module. `H` is the handle of a timer.
#[derive(Debug)]
pub struct Dispatch<H> {
    /// Everything on the due axis up to here has been looked at.
    pub next_read: Position,
    /// To be handed out now, earliest first.
    pub ready: BTreeSet<Position>,
    /// Handed out.
    pub leased: HashMap<Position, Lease<H>, RandomState>,
    /// Waiting for a backoff, or for the wall clock after a step backward.
    pub held: BTreeSet<Position>,
    /// An ack, nack or expiry is proposed and not applied.
    pub settling: HashMap<Position, Settling, RandomState>,
    /// Beyond `next_read`, and put into `ready` before the reading came by.
    pub ahead: BTreeSet<Position>,
    /// How often an event was given back by a disconnect.
    pub releases: BTreeMap<Position, u32>,
    /// Open streams, in order of their keys.
    pub members: BTreeMap<MemberKey, Member>,
    /// A read of the log is under way for this group's next event.
    pub reading: bool,
}

/// What is proposed for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settling {
    /// It will be settled.
    Done,
    /// It will be tried again.
    Retry,
}

impl<H> Default for Dispatch<H> {
    fn default() -> Self {
        // Fixed seeds: the same inputs give the same effects, in the simulator and everywhere.
        let state = || RandomState::with_seeds(1, 2, 3, 4);
        Self {
            next_read: Position::START,
            ready: BTreeSet::new(),
            leased: HashMap::with_hasher(state()),
            held: BTreeSet::new(),
            settling: HashMap::with_hasher(state()),
            ahead: BTreeSet::new(),
            releases: BTreeMap::new(),
            members: BTreeMap::new(),
            reading: false,
        }
    }
}

impl<H: Copy> Dispatch<H> {
    /// A dispatch that reads the due axis behind this position.
    pub fn starting_at(next_read: Position) -> Self {
        Self { next_read, ..Self::default() }
    }

    /// Events leased, failing or waiting: bounded by `GROUP_UNSETTLED`.
    pub fn in_flight(&self) -> usize {
        self.leased.len() + self.settling.len() + self.held.len()
    }

    /// The event is free to be handed out again. One that the reading has not reached yet will be
    /// found there.
    pub fn release(&mut self, position: Position) {
        self.held.remove(&position);
        assert!(!self.leased.contains_key(&position), "a leased event is not ready");
        if position <= self.next_read || self.ahead.contains(&position) {
            self.ready.insert(position);
        }
    }

    /// An event has become due. `wall_ms` tells whether the reading of the due axis will come by.
    pub fn fired(&mut self, position: Position, wall_ms: u64) {
        let known = position <= self.next_read || self.ahead.contains(&position);
        if !known && position.due <= wall_ms {
            return; // the reading of the axis brings it
        }
        if !known {
            // Noted though it be busy: when it is free again, it is not the reading's yet.
            self.ahead.insert(position);
        }
        if !self.is_busy(position) {
            self.ready.insert(position);
        }
    }

    /// Leased, proposed or waiting: not to be handed out.
    pub fn is_busy(&self, position: Position) -> bool {
        self.leased.contains_key(&position)
            || self.settling.contains_key(&position)
            || self.held.contains(&position)
    }

    /// The earlier of what is ready and what the due axis has next (`next`, already past filter and
    /// cursor). Takes nothing.
    pub fn first(&self, next: Option<Position>) -> Option<Candidate> {
        match (self.ready.first().copied(), next) {
            (Some(again), Some(read)) if again < read => Some(Candidate::Again(again)),
            (_, Some(read)) => Some(Candidate::Read(read)),
            (Some(again), None) => Some(Candidate::Again(again)),
            (None, None) => None,
        }
    }

    /// The candidate is being handed out.
    pub fn take(&mut self, candidate: Candidate) {
        match candidate {
            Candidate::Again(position) => {
                let was = self.ready.remove(&position);
                assert!(was, "a ready event is taken once");
            }
            Candidate::Read(position) => self.read_up_to(position),
        }
    }

    /// The due axis has been looked at up to here.
    pub fn read_up_to(&mut self, position: Position) {
        assert!(position > self.next_read, "the due axis is read forward");
        self.next_read = position;
        while self.ahead.first().is_some_and(|first| *first <= position) {
            self.ahead.pop_first();
        }
    }

    /// Settled or given up: nothing about the event is remembered.
    pub fn forget(&mut self, position: Position) {
        self.ready.remove(&position);
        self.held.remove(&position);
        self.settling.remove(&position);
        self.releases.remove(&position);
    }
}
