//! How far ahead of the tail a segment is filled with zeros.
//!
//! A durable write to blocks that were written before needs no metadata, so it is one trip to the
//! disk. Steps begin small (a fresh node of many partitions stays small) and double whenever a step
//! comes back and most of it is used already: the tail writes as fast as zeros do.

use crate::base::limits::{FILL_STEP_MAX, FILL_STEP_MIN, FILL_STEP_SCARCE};
use crate::base::size::{BLOCK, block_ceil};

/// How far a segment may be filled now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// Ahead of the tail, in steps of at most so many bytes.
    UpTo(u64),
    /// Not beyond what waits to be written, but for the rest of a small step: the disk is nearly
    /// full.
    Needed,
}

/// The zero-filled extent of the active segment. One fill is out at a time.
#[derive(Debug)]
pub(super) struct FillAhead {
    /// Size of a segment.
    limit: u64,
    /// First byte not filled.
    filled: u64,
    /// End of the fill that is out.
    asked: Option<u64>,
    /// Next step.
    step: u64,
    /// Stale entries lie before this byte: nothing is written until they are gone.
    stale_end: u64,
}

impl FillAhead {
    pub(super) fn new(limit: u64, filled: u64) -> Self {
        assert!(limit > 0 && limit.is_multiple_of(BLOCK), "a segment is whole blocks");
        assert!(filled.is_multiple_of(BLOCK), "fills are whole blocks");
        Self { limit, filled, asked: None, step: FILL_STEP_MIN, stale_end: 0 }
    }

    /// Nothing is filled: a new segment. A fill that is out belongs to the old one.
    pub(super) fn start_segment(&mut self) {
        self.filled = 0;
        self.asked = None;
        self.stale_end = 0;
    }

    /// Everything from `from` on is to be zeroed anew, before anything is written.
    pub(super) fn distrust(&mut self, from: u64) {
        assert!(self.asked.is_none(), "no fill is out while the log is cut");
        assert!(from.is_multiple_of(BLOCK), "fills are whole blocks");
        self.stale_end = self.stale_end.max(self.filled);
        self.filled = self.filled.min(from);
    }

    /// Whether a fill is out.
    pub(super) fn is_out(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether stale entries lie where zeros should.
    pub(super) fn is_stale(&self) -> bool {
        self.filled < self.stale_end
    }

    /// Bytes before this may be written.
    pub(super) fn writable_end(&self) -> u64 {
        self.filled
    }

    /// The next range to fill, so that the bytes before `need` can be written, and as many more as
    /// `ahead` allows.
    pub(super) fn ask(&mut self, need: u64, ahead: Ahead) -> Option<(u64, u64)> {
        let need = need.max(self.stale_end);
        let spare = match ahead {
            Ahead::UpTo(_) => self.step / 2,
            Ahead::Needed => 0,
        };
        if self.asked.is_some() || self.filled >= (need + spare).min(self.limit) {
            return None;
        }
        // Someone waits: only as much as it takes, so that it goes on soon.
        let waited_for = need.saturating_sub(self.filled);
        let step = match ahead {
            Ahead::Needed => waited_for.clamp(FILL_STEP_SCARCE, FILL_STEP_MIN),
            Ahead::UpTo(_) if waited_for > 0 => waited_for.clamp(FILL_STEP_MIN, FILL_STEP_MAX),
            Ahead::UpTo(most) => self.step.min(most),
        };
        let to = block_ceil(self.filled + step).min(self.limit);
        self.asked = Some(to);
        Some((self.filled, to))
    }

    /// The range asked for last is filled up to `end`; the tail wants to write up to `need`.
    pub(super) fn filled(&mut self, end: u64, need: u64) {
        let asked = self.asked.take().expect("one fill is out");
        assert!(self.filled <= end && end <= asked, "a fill stays in the range asked for");
        assert!(end.is_multiple_of(BLOCK) && asked <= self.limit, "fills are whole blocks");
        self.filled = end;
        if end == asked && end < need + self.step / 2 {
            self.step = (2 * self.step).min(FILL_STEP_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const AHEAD: Ahead = Ahead::UpTo(FILL_STEP_MAX);

    #[test]
    fn an_idle_segment_stays_small() {
        let mut fill = FillAhead::new(512 * MIB, 0);
        assert_eq!(fill.ask(BLOCK, AHEAD), Some((0, MIB)));
        assert_eq!(fill.ask(BLOCK, AHEAD), None, "one at a time");
        fill.filled(MIB, BLOCK);
        assert_eq!(fill.ask(2 * BLOCK, AHEAD), None, "enough for now");
    }

    #[test]
    fn steps_grow_while_the_tail_outruns_them() {
        let mut fill = FillAhead::new(512 * MIB, 0);
        let (mut need, mut largest) = (BLOCK, 0);
        while let Some((from, to)) = fill.ask(need, AHEAD) {
            largest = largest.max(to - from);
            need = (need + 2 * (to - from)).min(512 * MIB);
            fill.filled(to, need);
        }
        assert_eq!(largest, FILL_STEP_MAX);
        assert_eq!(fill.writable_end(), 512 * MIB, "never beyond the segment");
    }

    #[test]
    fn a_slow_tail_keeps_small_steps() {
        let mut fill = FillAhead::new(64 * MIB, 0);
        for need in (0..64 * MIB).step_by(BLOCK as usize) {
            if let Some((from, to)) = fill.ask(need, AHEAD) {
                assert_eq!(to - from, MIB);
                fill.filled(to, need);
            }
            assert!(fill.writable_end() >= need);
        }
    }

    #[test]
    fn nothing_is_written_over_stale_bytes() {
        let mut fill = FillAhead::new(64 * MIB, 3 * MIB);
        fill.distrust(BLOCK);
        assert!(fill.is_stale());
        let (from, to) = fill.ask(2 * BLOCK, AHEAD).expect("the stale bytes must go");
        assert_eq!((from, to), (BLOCK, 3 * MIB));
        fill.filled(to, 2 * BLOCK);
        assert!(!fill.is_stale() && fill.writable_end() == 3 * MIB);
    }

    #[test]
    fn on_a_full_disk_only_what_is_needed_is_asked_for() {
        let mut fill = FillAhead::new(64 * MIB, 0);
        assert_eq!(fill.ask(BLOCK, Ahead::Needed), Some((0, FILL_STEP_SCARCE)));
        fill.filled(2 * BLOCK, BLOCK);
        assert_eq!(fill.ask(2 * BLOCK, Ahead::Needed), None, "no more than that");
        // Nothing could be filled: the same again, when it is needed.
        let range = fill.ask(3 * BLOCK, Ahead::Needed);
        assert_eq!(range, Some((2 * BLOCK, 2 * BLOCK + FILL_STEP_SCARCE)));
        fill.filled(2 * BLOCK, 3 * BLOCK);
        assert_eq!(fill.ask(3 * BLOCK, Ahead::Needed), range);
        fill.filled(4 * BLOCK, 3 * BLOCK);
        let (_, to) = fill.ask(32 * MIB, Ahead::Needed).expect("it is waited for");
        assert_eq!(to, 4 * BLOCK + FILL_STEP_MIN, "in steps that leave something to others");
        fill.filled(to, 32 * MIB);
        assert_eq!(fill.step, FILL_STEP_MIN << 1, "steps grow when a whole one was used up");
    }
}
