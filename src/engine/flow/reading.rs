//! The story of a reading, owner half: a group reads the due axis behind `next_read`, up to the
//! wall clock: in memory, and where it has left the memory, page by page.
//!
//! Everything there is due by definition; what is handed out from `ready`, or from a page, is
//! tested again, since the clock may have gone back.
//!
//! Must hold: what the reading passes is settled, busy, or open (`dispatch`); it passes nothing
//! that it has not seen.

use std::collections::VecDeque;

use super::fire::Due;
use super::past::Reach;
use crate::base::ids::{GroupNo, Offset, Position};
use crate::base::limits;
use crate::engine::delivery::{Candidate, Next};
use crate::engine::partition::Partition;
use crate::engine::past;
use crate::engine::runs::{DueEvent, DueSource};
use crate::engine::step::Step;

/// Events of the due axis passed over (settled, leased) in one go before others get a turn.
const SKIP_AT_ONCE: usize = limits::STEP_EVENTS;
/// Events of the past that the clock has gone back behind, passed in one go: then the reading waits
/// for the next one's time.
const EARLY_AT_ONCE: usize = 1_024;

impl Partition {
    /// The next event to hand out, its time tested; passes what needs no attention. `found` is what
    /// the last look at the due axis has found, up to `limit` events: looking for each anew costs
    /// more than all else of it.
    pub(super) fn candidate(
        &mut self,
        step: &mut Step<'_>,
        no: GroupNo,
        found: &mut VecDeque<Position>,
        limit: usize,
    ) -> Option<Candidate> {
        let wall = step.now.wall_ms();
        loop {
            let next_read = self.groups[no.0 as usize].dispatch.next_read;
            while found.pop_front_if(|position| *position <= next_read).is_some() {}
            let next = match found.front() {
                Some(position) => Next::Found(*position),
                None => self.next_on_axis(wall, no),
            };
            if found.is_empty() && matches!(next, Next::Found(_)) {
                self.find_more(wall, no, found, limit);
            }
            let group = &mut self.groups[no.0 as usize];
            let candidate = group.dispatch.first(next)?;
            let Candidate::Again(position) = candidate else { return Some(candidate) };
            // One that has left the memory is looked at once its record is there.
            let event = self.topics.get(group.topic).axis.at(position);
            match event.filter(|event| event.schedule_ts > wall) {
                Some(event) => self.not_yet(no, position, event.schedule_ts),
                None => return Some(candidate),
            }
        }
    }

    /// The next events on the due axis, as long as each is to be handed out. Passes nothing.
    fn find_more(&self, wall: u64, no: GroupNo, found: &mut VecDeque<Position>, limit: usize) {
        let group = &self.groups[no.0 as usize];
        let axis = &self.topics.get(group.topic).axis;
        let (from, page) = (group.dispatch.next_read, self.group_page(no));
        let Reach { end, is_past } = self.reach(group.topic, page, from, wall);
        let last = end.unwrap_or(Position::new(u64::MAX, Offset(u64::MAX)));
        let is_due = |event: &DueEvent| {
            let from = if is_past { event.schedule_ts } else { event.position.due };
            from <= wall && event.position <= last
        };
        let due = past::read(page, axis, from).take_while(is_due).map(|event| event.position);
        found.reserve(limit.min(group.dispatch.counted));
        found.extend(due.take(limit).take_while(|position| group.is_free(*position)));
    }

    /// Events behind `next_read` that are due, up to `limit`.
    pub(super) fn count_due(&self, wall: u64, no: GroupNo, limit: usize) -> usize {
        let group = &self.groups[no.0 as usize];
        let axis = &self.topics.get(group.topic).axis;
        let (from, page) = (group.dispatch.next_read, self.group_page(no));
        let last = Position::new(wall, Offset(u64::MAX));
        let reach = self.reach(group.topic, page, from, wall);
        let last = reach.end.map_or(last, |end| end.min(last));
        let due = past::read(page, axis, from).take_while(|event| event.position <= last);
        due.take(limit).count()
    }

    /// The clock has gone back since a ready event has fired: the wheel brings it again.
    pub(super) fn not_yet(&mut self, no: GroupNo, position: Position, schedule_ts: u64) {
        let group = &mut self.groups[no.0 as usize];
        let was = group.dispatch.ready.remove(&position);
        assert!(was, "what is read is due: only what was ready can be early");
        // Not ahead any more: by then the reading of the axis may be what brings it.
        group.dispatch.ahead.remove(&position);
        let topic = group.topic;
        let passed = self.topics.get_mut(topic).axis.passed_of(position, schedule_ts);
        self.wheel.insert(schedule_ts, Due { offset: position.offset, topic, passed });
    }

    /// The next event on the due axis up to `wall` that this group has to hand out. What is settled
    /// or busy on the way is passed for good.
    pub(super) fn next_on_axis(&mut self, wall: u64, no: GroupNo) -> Next {
        let group = &self.groups[no.0 as usize];
        let axis = &self.topics.get(group.topic).axis;
        let (from, page) = (group.dispatch.next_read, self.group_page(no));
        let Reach { end, is_past } = self.reach(group.topic, page, from, wall);
        let (mut passed, mut found, mut stalled) = (None, None, end.is_some());
        let (mut early, mut rewound, mut more) = (Vec::new(), None, false);
        for (looked, event) in past::read(page, axis, from).enumerate() {
            let position = event.position;
            if end.is_some_and(|end| position > end) {
                break;
            }
            let is_early = is_past && event.schedule_ts > wall;
            if !is_past && position.due > wall || early.len() == EARLY_AT_ONCE && is_early {
                stalled = false;
                if is_past {
                    rewound = Some((event.schedule_ts, no));
                }
                break;
            }
            if looked == SKIP_AT_ONCE {
                stalled = false;
                more = true; // there may be: after the others' turn
                break;
            }
            if group.is_free(position) {
                if !is_early {
                    found = Some(position);
                    stalled = false;
                    break;
                }
                early.push(event);
            }
            passed = Some(position);
        }
        self.horizon.rewound.extend(rewound);
        self.dirty.extend(more.then_some(no));
        if stalled && is_past {
            // Its next page makes the group dirty again.
            passed = end.filter(|end| *end > from);
            self.horizon.pages_wanted.insert(no);
        } else if stalled {
            // What comes next is in a run: its load makes the group dirty again.
            self.horizon.wanted.insert(group.topic);
        }
        if let Some(passed) = passed {
            self.groups[no.0 as usize].dispatch.read_up_to(passed);
        }
        self.wait_again(no, early);
        match found {
            Some(position) => Next::Found(position),
            None if stalled && is_past => Next::Awaited,
            None => Next::Nothing,
        }
    }

    /// The clock has gone back behind events of the past that this group has just read: the wheel
    /// brings them again.
    fn wait_again(&mut self, no: GroupNo, events: Vec<DueEvent>) {
        let group = &mut self.groups[no.0 as usize];
        let topic = group.topic;
        let axis = &mut self.topics.get_mut(topic).axis;
        for DueEvent { position, schedule_ts, .. } in events {
            group.dispatch.opened(position);
            let passed = axis.passed_of(position, schedule_ts);
            self.wheel.insert(schedule_ts, Due { offset: position.offset, topic, passed });
        }
    }
}
