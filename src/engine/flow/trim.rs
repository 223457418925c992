//! The story of a trim, owner half: what is past leaves the memory, once runs and due indexes have
//! it, so that memory does not grow with what has fired.
//!
//! ```text
//!  much is past --> a pass over all topics: what every group has read goes
//!               --> still too much: what groups have not read goes, too; they read pages (`past`)
//! ```
//! Must hold: what leaves is in a run or a due index; the floor is raised before anything leaves.

use super::load::end_of;
use super::recover::Phase;
use crate::base::ids::{Position, TopicNo};
use crate::base::limits;
use crate::engine::horizon::Trim;
use crate::engine::partition::Partition;
use crate::engine::step::Step;

/// Events that one turn of a pass looks at.
const LOOK_EVENTS: usize = limits::STEP_EVENTS / 4;
/// Topics that one turn of a pass looks at.
const LOOK_TOPICS: usize = 256;

impl Partition {
    /// Begins a pass where memory holds much of the past, and goes on with one under way.
    pub(super) fn trim_on(&mut self, step: &mut Step<'_>) {
        // What is on its way out of memory ahead of its time tells what a run carries.
        let serves = self.phase == Phase::Serving && self.armed;
        if !serves || !self.horizon.drops.is_empty() || self.horizon.arming.is_some() {
            return;
        }
        // What is still to be armed is found in memory.
        let armed_to = self.horizon.armed_to;
        if let Some(to) = self.retention.trim_to.filter(|_| self.horizon.trim.is_none()) {
            let to = to.max(self.retention.trimmed.0);
            let whole = (to <= armed_to).then_some(self.horizon.on_runs);
            let to = to.min(armed_to);
            self.horizon.trim = Some(Trim { topic: 0, within: None, to, all: true, whole });
        }
        if self.horizon.trim.is_none() {
            let past = self.past_in_memory();
            if past <= self.horizon.trim_at.max(step.config.past_events / 2) {
                return;
            }
            let to = step.now.wall_ms().min(armed_to);
            let all = past > step.config.past_events;
            self.horizon.trim = Some(Trim { topic: 0, within: None, to, all, whole: None });
        }
        self.trim_some(step);
    }

    /// Past events in memory, about: those in the wheel may be there twice after a clock step.
    fn past_in_memory(&self) -> u64 {
        self.indexed().saturating_sub(self.wheel.len() as u64 + self.horizon.unarmed)
    }

    fn trim_some(&mut self, step: &mut Step<'_>) {
        let mut trim = self.horizon.trim.take().expect("a pass under way");
        let (mut events, mut topics) = (LOOK_EVENTS, LOOK_TOPICS);
        while (trim.topic as usize) < self.topics.count() {
            if events == 0 || topics == 0 {
                self.horizon.trim = Some(trim);
                return;
            }
            let no = TopicNo(trim.topic);
            let (at, end) = trim.within.unwrap_or_else(|| self.begin_trim(&mut trim));
            let on_runs = self.horizon.on_runs;
            let topic = self.topics.get_mut(no);
            let trimmed = topic.axis.trim(at, end, events, |offset| offset < on_runs);
            topic.disk.trimmed += trimmed.removed;
            self.horizon.past += trimmed.removed;
            step.stats.trimmed += trimmed.removed;
            events -= trimmed.looked;
            if let Some(at) = trimmed.more {
                trim.within = Some((at, end));
            } else {
                topics -= 1;
                (trim.topic, trim.within) = (trim.topic + 1, None);
            }
        }
        if let Some(offsets) = trim.whole {
            // Retention has waited for that.
            self.retention.trimmed = (trim.to, offsets);
            (self.retention.next_check_ms, self.retention.wake_ms) = (0, Some(0));
        }
        // Where it was not whole, the next look asks again.
        self.retention.trim_to = None;
        self.horizon.trim_at = self.past_in_memory() + step.config.past_events / 2;
        let pressed = !trim.all && self.past_in_memory() > step.config.past_events;
        if pressed {
            self.horizon.trim_at = 0;
        }
    }

    /// Where to trim a topic: its floor is raised to there.
    fn begin_trim(&mut self, trim: &mut Trim) -> (Position, Position) {
        let no = TopicNo(trim.topic);
        let topic = self.topics.get(no);
        let in_memory = topic.disk.end_of_memory(trim.to);
        let mut end = in_memory.map_or(end_of(trim.to), |end| end.min(end_of(trim.to)));
        if in_memory.is_some() && trim.all {
            // Due, in runs, and nobody reads it: it must not hold back what lies behind it.
            self.horizon.skims.insert(no);
            trim.whole = None;
        }
        if !trim.all {
            let read = topic.groups.iter().map(|no| self.groups[no.0 as usize].dispatch.next_read);
            end = read.min().map_or(end, |read| read.min(end));
        }
        let disk = &mut self.topics.get_mut(no).disk;
        disk.floor = disk.floor.max(end);
        // No run has more of it up to there, or that would be the end.
        disk.loaded_to = disk.loaded_to.max(disk.floor);
        (Position::START, end)
    }
}
