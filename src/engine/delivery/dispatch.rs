//! What the leader is doing for a group right now: what it has read, what is ready, who has what.
//!
//! The due axis is read once, from the frontier to the wall clock, by `next_read`. Whatever has to
//! be handed out again (released, failed, applied late) or out of order (due beyond the wall clock
//! because log time runs ahead of it) goes through `ready`.
//!
//! Must hold: an event is in at most one of `ready`, `held` and `busy`; one that lies beyond
//! `next_read` and has been handed out is in `ahead`. Every event of the group at or behind
//! `next_read` is settled, about to be (`Settling::Done`), or in `open`: so how far the frontier
//! may go is known here, without a look at the due axis ([`Dispatch::next_frontier`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use super::busy::{Busy, BusyEvents, Settling};
use super::cursor::Cursor;
use super::deadline::{DeadlineNo, Deadlines};
use super::lease::{Lease, Member, MemberKey};
use crate::base::ids::Position;
use crate::base::position_map::PositionMap;

/// Beyond this many settled events ahead of the frontier, it is worth passing a straggler.
const SETTLED_SOFT: usize = 256;
/// Stragglers passed at once at most: a frontier never drags a crowd behind it.
pub const PASS_AT_ONCE: usize = 64;

/// A move of a group's frontier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontierMove {
    /// Where to.
    pub to: Position,
    /// Unsettled events that it passes.
    pub passed: Vec<Position>,
}

/// Where the next event to deliver comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// From `ready`.
    Again(Position),
    /// The next on the due axis.
    Read(Position),
}

/// What the due axis has next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This event, and it is due.
    Found(Position),
    /// A page of the past will tell.
    Awaited,
    /// Nothing that is due.
    Nothing,
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
    /// Handed out, or judged.
    pub busy: BusyEvents,
    /// When leases end.
    pub deadlines: Deadlines<H>,
    /// Waiting for a backoff, or for the wall clock after a step backward.
    pub held: BTreeSet<Position>,
    /// Beyond `next_read`, and put into `ready` before the reading came by.
    pub ahead: BTreeSet<Position>,
    /// Read, or made ready, and not about to be settled.
    open: PositionMap<()>,
    /// The frontier that is proposed and not applied; `START` if there is none.
    proposed_frontier: Position,
    /// How often an event was given back by a disconnect.
    pub releases: BTreeMap<Position, u32>,
    /// Open streams, in order of their keys.
    pub members: BTreeMap<MemberKey, Member>,
    /// The one that was handed something last.
    pub served: Option<MemberKey>,
    /// Of the events behind `next_read` so many are due, at least, by the last count.
    pub counted: usize,
    /// A read of the log is under way for this group's next event.
    pub reading: bool,
    /// Log time when it last had a member, Unix ms; 0: not looked at yet.
    pub seen_ms: u64,
}

impl<H> Default for Dispatch<H> {
    fn default() -> Self {
        Self {
            next_read: Position::START,
            ready: BTreeSet::new(),
            busy: BusyEvents::default(),
            deadlines: Deadlines::default(),
            held: BTreeSet::new(),
            ahead: BTreeSet::new(),
            open: PositionMap::default(),
            proposed_frontier: Position::START,
            releases: BTreeMap::new(),
            members: BTreeMap::new(),
            served: None,
            counted: 0,
            reading: false,
            seen_ms: 0,
        }
    }
}

impl<H: Copy> Dispatch<H> {
    /// A dispatch that reads the due axis behind this position.
    pub fn starting_at(next_read: Position) -> Self {
        Self { next_read, ..Self::default() }
    }

    /// The event is still to be settled: no frontier passes it unnoticed.
    pub fn opened(&mut self, position: Position) {
        self.open.insert(position, ());
    }

    /// Whether it has been read, or handed out before the reading came by.
    pub fn knows(&self, position: Position) -> bool {
        position <= self.next_read || self.open.get(position).is_some() || self.is_busy(position)
    }

    /// An applied event that waits for its time: the reading may have passed its place already.
    pub fn arrived(&mut self, position: Position) {
        if position <= self.next_read {
            self.open.insert(position, ());
        }
    }

    /// The leases of a member, in order.
    pub fn leases_of(&self, key: MemberKey) -> Vec<(Position, Lease)> {
        let is_own = |(_, lease): &(Position, Lease)| self.member_of(*lease) == Some(key);
        let mut leases: Vec<_> = self.busy.leases().filter(is_own).collect();
        leases.sort_unstable_by_key(|(position, _)| *position);
        leases
    }

    /// Who holds a lease; `None` once the member is gone and late acks are awaited.
    pub fn member_of(&self, lease: Lease) -> Option<MemberKey> {
        self.deadlines.member(lease.deadline)
    }

    /// The events whose leases end by this deadline, in order.
    pub fn leases_until(&self, deadline: DeadlineNo) -> Vec<Position> {
        let Some((first, last)) = self.deadlines.range(deadline) else { return Vec::new() };
        let open = self.open.after(first.before()).map(|(position, ())| position);
        let open = open.take_while(|position| *position <= last);
        // Known bad: an extension is forgotten.
        let is_own = |lease: &Lease| lease.deadline == deadline || cfg!(bug_forget_extension);
        let ends = |at: &Position| self.busy.lease(*at).as_ref().is_some_and(is_own);
        open.filter(ends).collect()
    }

    /// A verdict on the event is proposed. Returns the lease that ends by it.
    pub fn settling(&mut self, position: Position, settling: Settling) -> Option<Lease> {
        if settling == Settling::Done {
            self.open.remove(position);
        }
        self.busy.judge(position, settling)
    }

    /// The event waits for its next attempt, if that is what was proposed for it.
    pub fn hold(&mut self, position: Position) -> bool {
        let waits = self.busy.get(position) == Some(Busy::Settling(Settling::Retry));
        if waits {
            self.busy.remove(position);
            self.held.insert(position);
        }
        waits
    }

    /// How far the frontier may go once all that is proposed is applied, `limit` at most: to the
    /// first open event, and past up to [`PASS_AT_ONCE`] open ones where too much is settled behind
    /// them. `None`: nowhere. The caller proposes what is returned.
    ///
    /// `limit`: no event that is proposed and not applied lies at or before it.
    pub fn next_frontier(&mut self, cursor: &Cursor, limit: Position) -> Option<FrontierMove> {
        let base = self.proposed_frontier.max(cursor.frontier());
        let limit = limit.min(self.next_read);
        if limit <= base {
            return None;
        }
        let open = self.open.after(base).map(|(position, ())| position);
        let mut open = open.take_while(|position| *position <= limit).peekable();
        let mut to = open.peek().map_or(limit, |first| first.before());
        let mut passed = Vec::new();
        while cursor.settled().len() > SETTLED_SOFT && open.peek().is_some() {
            let beyond = cursor.settled().after(to).map(|(position, ())| position).next();
            let Some(settled) = beyond.filter(|first| *first <= limit) else { break };
            let room = PASS_AT_ONCE - passed.len();
            let stragglers: Vec<_> =
                std::iter::from_fn(|| open.next_if(|p| *p < settled)).take(room + 1).collect();
            if stragglers.len() > room {
                break;
            }
            passed.extend(stragglers);
            to = open.peek().map_or(limit, |next| next.before());
        }
        if to <= base {
            return None;
        }
        assert!(passed.iter().all(|p| *p > base && *p <= to), "what is passed lies in between");
        self.proposed_frontier = to;
        Some(FrontierMove { to, passed })
    }

    /// The next member whose grant stays, in turn: behind the one that was served last.
    pub fn next_staying(&self) -> Option<MemberKey> {
        let from = self.served.map_or(Unbounded, Excluded);
        let mut in_turn = self.members.range((from, Unbounded)).chain(&self.members);
        let staying = in_turn.find(|(_, member)| member.granted.is_some_and(|grant| grant.stays));
        staying.map(|(key, _)| *key)
    }

    /// Events leased, failing or waiting: bounded by `GROUP_UNSETTLED`.
    pub fn in_flight(&self) -> usize {
        self.busy.len() + self.held.len()
    }

    /// The event is free to be handed out again. One that the reading has not reached yet will be
    /// found there.
    pub fn release(&mut self, position: Position) {
        self.held.remove(&position);
        assert!(self.busy.lease(position).is_none(), "a leased event is not ready");
        if position <= self.next_read || self.ahead.contains(&position) {
            self.ready.insert(position);
            self.open.insert(position, ());
        }
    }

    /// As [`Self::release`], of an event that the reading will not find.
    pub fn release_ahead(&mut self, position: Position) {
        if position > self.next_read {
            self.ahead.insert(position);
        }
        self.release(position);
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
            self.open.insert(position, ());
        }
    }

    /// Leased, proposed or waiting: not to be handed out.
    pub fn is_busy(&self, position: Position) -> bool {
        self.busy.contains(position) || self.held.contains(&position)
    }

    /// The earlier of what is ready and what the due axis has next (`next`, already past filter and
    /// cursor). Takes nothing.
    pub fn first(&self, next: Next) -> Option<Candidate> {
        match (self.ready.first().copied(), next) {
            (Some(again), Next::Found(read)) if again < read => Some(Candidate::Again(again)),
            (_, Next::Found(read)) => Some(Candidate::Read(read)),
            // What comes first may be on its way.
            (Some(again), Next::Awaited) if again > self.next_read => None,
            (Some(again), Next::Nothing | Next::Awaited) => Some(Candidate::Again(again)),
            (None, Next::Nothing | Next::Awaited) => None,
        }
    }

    /// The candidate is being handed out.
    pub fn take(&mut self, candidate: Candidate) {
        match candidate {
            Candidate::Again(position) => {
                let was = self.ready.remove(&position);
                assert!(was, "a ready event is taken once");
            }
            Candidate::Read(position) => {
                self.read_up_to(position);
                self.open.insert(position, ());
                self.counted = self.counted.saturating_sub(1);
            }
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

    /// Settled, and not busy any more: nothing about the event is remembered.
    pub fn forget(&mut self, position: Position) {
        self.ready.remove(&position);
        self.held.remove(&position);
        self.releases.remove(&position);
        self.open.remove(position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Offset;

    fn at(due: u64) -> Position {
        Position::new(due, Offset(due))
    }

    const NO_LIMIT: Position = Position { due: u64::MAX, offset: Offset(u64::MAX) };

    /// Hands out everything up to `due`.
    fn read(dispatch: &mut Dispatch<()>, due: u64) {
        for due in dispatch.next_read.due + 1..=due {
            dispatch.take(Candidate::Read(at(due)));
        }
    }

    fn apply(cursor: &mut Cursor, moved: &FrontierMove) {
        moved.passed.iter().for_each(|p| cursor.pass(*p));
        cursor.advance(moved.to);
    }

    fn settle(dispatch: &mut Dispatch<()>, cursor: &mut Cursor, due: u64) {
        dispatch.settling(at(due), Settling::Done);
        let moved = dispatch.next_frontier(cursor, NO_LIMIT);
        cursor.settle(at(due));
        if let Some(moved) = moved {
            apply(cursor, &moved);
        }
        dispatch.busy.remove(at(due));
        dispatch.forget(at(due));
    }

    #[test]
    fn the_frontier_waits_for_the_first_open_event() {
        let (mut dispatch, mut cursor) = (Dispatch::default(), Cursor::default());
        read(&mut dispatch, 5);
        settle(&mut dispatch, &mut cursor, 2);
        assert!(cursor.frontier() < at(1) && cursor.size() == 1);
        settle(&mut dispatch, &mut cursor, 1);
        assert!(cursor.frontier() >= at(2) && cursor.frontier() < at(3));
        assert_eq!(cursor.size(), 0);
        (3..=5).for_each(|due| settle(&mut dispatch, &mut cursor, due));
        assert_eq!(cursor.frontier(), at(5), "and goes no further than was read");
    }

    #[test]
    fn the_frontier_stops_before_what_is_proposed() {
        let (mut dispatch, cursor) = (Dispatch::default(), Cursor::default());
        read(&mut dispatch, 5);
        for due in 1..=5 {
            dispatch.settling(at(due), Settling::Done);
        }
        let moved = dispatch.next_frontier(&cursor, at(3).before()).expect("a move");
        assert_eq!(moved, FrontierMove { to: at(3).before(), passed: vec![] });
        assert_eq!(dispatch.next_frontier(&cursor, at(3).before()), None, "proposed already");
    }

    #[test]
    fn a_straggler_does_not_make_the_settled_set_grow() {
        let (mut dispatch, mut cursor) = (Dispatch::default(), Cursor::default());
        read(&mut dispatch, 5_000);
        for due in 2..=5_000 {
            settle(&mut dispatch, &mut cursor, due);
            assert!(cursor.size() <= SETTLED_SOFT + 2, "{} in the sets", cursor.size());
        }
        assert!(!cursor.is_settled(at(1)));
        settle(&mut dispatch, &mut cursor, 1);
        assert!((1..=5_000).all(|due| cursor.is_settled(at(due))));
    }

    #[test]
    fn a_crowd_of_stragglers_is_not_passed() {
        let (mut dispatch, mut cursor) = (Dispatch::default(), Cursor::default());
        read(&mut dispatch, 2_000);
        for due in 1_000..2_000 {
            settle(&mut dispatch, &mut cursor, due);
        }
        assert!(cursor.frontier() < at(1), "a thousand open ones are not passed");
        assert!(cursor.unsettled().is_empty());
    }

    #[test]
    fn what_arrives_behind_the_reading_is_open() {
        let (mut dispatch, mut cursor) = (Dispatch::default(), Cursor::default());
        read(&mut dispatch, 5);
        for due in 1..=5 {
            dispatch.settling(at(due), Settling::Done);
        }
        let late = Position::new(3, Offset(9));
        dispatch.arrived(late);
        let moved = dispatch.next_frontier(&cursor, NO_LIMIT).expect("a move");
        assert_eq!(moved.to, late.before());
        apply(&mut cursor, &moved);
        assert!(!cursor.is_settled(late));
    }
}
