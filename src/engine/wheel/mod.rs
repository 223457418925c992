//! The timing wheel: what is due when, in memory, by insert, cancel and advance.
//!
//! Eleven levels of 64 slots, aligned to absolute time, cover every u64 of ticks: there is no
//! horizon. An entry is filed by its tick, its time in ms rounded *up*; when the wheel reaches the
//! start of a slot above level 0, the slot's entries move down ("cascade"). Inserting and
//! cancelling are O(1), firing is O(1) per entry plus at most ten moves over its life; time that
//! passes without entries costs nothing, however much it is.
//!
//! Promises:
//! - Never early: [`Wheel::advance`] hands out an entry only if its `at_ms` is at or before the
//!   `now_ms` given, also after time has stepped back.
//! - At most one tick late: once `advance(now_ms)` has returned `false`, every entry whose rounded
//!   time is at or before `now_ms` has been handed out. Nothing is lost, nothing comes twice.
//! - Bounded: one `advance` touches at most `limit` entries, moved or handed out, and the next one
//!   goes on where it stopped.
//!
//! What must hold: `late` holds the entries whose tick is before `elapsed`; every other entry is in
//! the slot that [`level::Place::of`] gives, but for those in `draining`, a slot whose start is
//! `elapsed` and that is on its way down. There is no clock here: time is an argument.

mod level;
mod slab;

#[cfg(test)]
mod model_test;

use level::{Levels, Place, digit};
pub use slab::Handle;
use slab::{NIL, Slab};

/// Entries with a time on them, handed out when it has come.
///
/// Memory: 3 KiB, and per entry 20 bytes beside the value, rounded up to 8 (32 in all for an 8-byte
/// value, or 12 bytes of u32s). It is kept for reuse when entries leave.
#[derive(Debug)]
pub struct Wheel<T> {
    tick_ms: u64,
    /// The tick the wheel stands at: everything before it has been handed out or is `late`.
    elapsed: u64,
    slab: Slab<T>,
    levels: Levels,
    /// Entries that were behind the wheel when they came.
    late: u32,
    /// No entry in `late` has an earlier tick.
    late_min: u64,
    /// The rest of a slot that is being moved down.
    draining: u32,
}

impl<T: Copy> Wheel<T> {
    /// An empty wheel of ticks of `tick_ms` (at least 1) that stands at `now_ms`, rounded down.
    pub fn new(tick_ms: u64, now_ms: u64) -> Self {
        assert!(tick_ms > 0, "a tick takes time");
        Self {
            tick_ms,
            elapsed: now_ms / tick_ms,
            slab: Slab::new(),
            levels: Levels::new(),
            late: NIL,
            late_min: u64::MAX,
            draining: NIL,
        }
    }

    /// Files `value` for `at_ms`, any time, past or future. A past one comes with the next
    /// [`advance`](Self::advance).
    pub fn insert(&mut self, at_ms: u64, value: T) -> Handle {
        let node = self.slab.allocate(at_ms, value);
        self.file(node);
        self.slab.handle(node)
    }

    /// Takes an entry back; `None` if it was handed out or cancelled before.
    pub fn cancel(&mut self, handle: Handle) -> Option<T> {
        let node = self.slab.resolve(handle)?;
        let tick = self.tick_of(self.slab.at_ms(node));
        if tick < self.elapsed {
            self.slab.unlink(&mut self.late, node);
        } else if node == self.draining {
            self.slab.unlink(&mut self.draining, node);
        } else {
            // In its slot, or in `draining` but not first there: the neighbours are all it takes.
            self.levels.unlink(&mut self.slab, Place::of(self.elapsed, tick), node);
        }
        Some(self.slab.release(node).1)
    }

    /// Moves the wheel to `now_ms` and appends what is due, as (`at_ms`, value), to `out`.
    ///
    /// Returns whether more is due: `limit` (at least 1) entries were touched, and the wheel stands
    /// where it stopped until the next call. What comes out is in order of ticks, but for entries
    /// that were already past when inserted, which come first; entries of one tick come in no
    /// promised order, and with ticks of more than 1 ms their `at_ms` may differ: a caller that
    /// needs (`at_ms`, something) order sorts.
    ///
    /// If `now_ms` is behind the wheel, the clock was set back: the wheel goes back with it, in
    /// constant time but for the entries already past. Nothing comes out again, and entries between
    /// `now_ms` and where the wheel stood wait for their time.
    pub fn advance(&mut self, now_ms: u64, limit: usize, out: &mut Vec<(u64, T)>) -> bool {
        assert!(limit > 0, "an advance without a limit above zero never ends");
        let target = now_ms / self.tick_ms;
        if target < self.elapsed {
            self.go_back(target);
        }
        let mut left = limit;
        loop {
            while self.late != NIL {
                if left == 0 {
                    return true;
                }
                left -= 1;
                let node = self.slab.pop_front(&mut self.late).expect("it is not empty");
                out.push(self.slab.release(node));
            }
            self.late_min = u64::MAX;
            while self.draining != NIL {
                if left == 0 {
                    return true;
                }
                left -= 1;
                let node = self.slab.pop_front(&mut self.draining).expect("it is not empty");
                self.file(node);
            }
            let Some((place, start)) = self.levels.first(self.elapsed) else { break };
            if start > target {
                break;
            }
            if left == 0 {
                return true;
            }
            assert!(start >= self.elapsed, "the wheel went past a slot that is not empty");
            self.elapsed = start;
            if place.level == 0 {
                left -= self.fire(place, left, out);
            } else {
                self.draining = self.levels.take(place);
            }
        }
        self.elapsed = target;
        false
    }

    /// The time in ms at which [`advance`](Self::advance) next has something to do: hand out an
    /// entry, or move a slot down. Never later than the earliest entry, rounded up to its tick;
    /// `None` if the wheel is empty. A time that is already past means at once.
    pub fn next_deadline(&self) -> Option<u64> {
        let tick = if self.late != NIL {
            self.late_min
        } else if self.draining != NIL {
            self.elapsed
        } else {
            self.levels.first(self.elapsed)?.1
        };
        Some(tick.saturating_mul(self.tick_ms))
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether no entry is held.
    pub fn is_empty(&self) -> bool {
        self.slab.len() == 0
    }

    /// Where the wheel stands, ms, a multiple of the tick: what was due before has been handed out.
    pub fn now_ms(&self) -> u64 {
        self.elapsed * self.tick_ms
    }

    /// Bytes of memory held, those of entries gone included.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.slab.memory_bytes()
    }

    /// Hands out up to `left` entries of a slot of level 0: how many.
    fn fire(&mut self, place: Place, left: usize, out: &mut Vec<(u64, T)>) -> usize {
        assert_eq!(place.slot, digit(self.elapsed, 0), "only the wheel's own tick fires");
        let mut fired = 0;
        while fired < left {
            let Some(node) = self.levels.pop(&mut self.slab, place) else { break };
            out.push(self.slab.release(node));
            fired += 1;
        }
        fired
    }

    /// Puts a node that is in no list where it belongs.
    fn file(&mut self, node: u32) {
        let tick = self.tick_of(self.slab.at_ms(node));
        if tick < self.elapsed {
            self.keep_late(node);
        } else {
            self.levels.push(&mut self.slab, Place::of(self.elapsed, tick), node);
        }
    }

    fn keep_late(&mut self, node: u32) {
        self.late_min = self.late_min.min(self.tick_of(self.slab.at_ms(node)));
        self.slab.push_back(&mut self.late, node);
    }

    /// Sets the wheel back to `target`, before `elapsed`.
    ///
    /// Let `top` be the highest digit in which the two differ. Entries above level `top` differ
    /// from both in the same digit: they stay. Those of level `top` are ahead of both: they stay.
    /// Those of lower levels share the digits from `top` up with `elapsed`, and so does the slot
    /// that is on its way down: all of them belong to that one slot now.
    fn go_back(&mut self, target: u64) {
        let there = Place::of(target, self.elapsed);
        let below = self.levels.take_below(&mut self.slab, there.level);
        self.levels.append(&mut self.slab, there, below);
        let draining = std::mem::replace(&mut self.draining, NIL);
        self.levels.append(&mut self.slab, there, draining);
        self.elapsed = target;

        let mut late = std::mem::replace(&mut self.late, NIL);
        self.late_min = u64::MAX;
        while let Some(node) = self.slab.pop_front(&mut late) {
            self.file(node);
        }
    }

    /// The tick at which an entry fires: rounded up, so never before its time.
    fn tick_of(&self, at_ms: u64) -> u64 {
        if cfg!(bug_floor_tick) {
            // Known bad: rounds down, and an exact multiple to the tick before, so that ticks of
            // 1 ms show it too.
            return at_ms.saturating_sub(1) / self.tick_ms;
        }
        if self.tick_ms == 1 { at_ms } else { at_ms.div_ceil(self.tick_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advance(wheel: &mut Wheel<char>, now_ms: u64) -> Vec<(u64, char)> {
        let mut out = Vec::new();
        assert!(!wheel.advance(now_ms, 1_000, &mut out));
        out
    }

    #[test]
    fn fires_at_its_time_and_not_before() {
        let mut wheel = Wheel::new(1, 1_000);
        wheel.insert(1_500, 'a');
        assert_eq!(advance(&mut wheel, 1_499), []);
        assert_eq!(advance(&mut wheel, 1_500), [(1_500, 'a')]);
        assert_eq!(advance(&mut wheel, 9_999), []);
        assert!(wheel.is_empty());
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn rounds_up_to_the_tick() {
        let mut wheel = Wheel::new(10, 0);
        wheel.insert(11, 'a');
        wheel.insert(20, 'b');
        wheel.insert(21, 'c');
        assert_eq!(advance(&mut wheel, 19), []);
        assert_eq!(advance(&mut wheel, 20), [(11, 'a'), (20, 'b')]);
        assert_eq!(wheel.next_deadline(), Some(30));
        assert_eq!(advance(&mut wheel, 39), [(21, 'c')]);
        assert_eq!(wheel.now_ms(), 30);
    }

    #[test]
    fn the_past_comes_at_once() {
        let mut wheel = Wheel::new(1, 5_000);
        wheel.insert(10, 'a');
        wheel.insert(5_000, 'b');
        wheel.insert(0, 'c');
        assert_eq!(wheel.next_deadline(), Some(0));
        assert_eq!(advance(&mut wheel, 5_000), [(10, 'a'), (0, 'c'), (5_000, 'b')]);
    }

    #[test]
    fn a_cancelled_entry_never_fires_and_its_name_is_spent() {
        let mut wheel = Wheel::new(1, 0);
        let near = wheel.insert(10, 'a');
        let far = wheel.insert(1 << 40, 'b');
        wheel.insert(10, 'c');
        assert_eq!(wheel.cancel(near), Some('a'));
        assert_eq!(wheel.cancel(near), None);
        assert_eq!(wheel.cancel(far), Some('b'));
        assert_eq!(advance(&mut wheel, 1 << 41), [(10, 'c')]);
    }

    #[test]
    fn the_ends_of_time_fit() {
        let mut wheel = Wheel::new(1, 0);
        wheel.insert(u64::MAX, 'z');
        wheel.insert(u64::MAX - 1, 'y');
        assert_eq!(advance(&mut wheel, u64::MAX - 1), [(u64::MAX - 1, 'y')]);
        assert_eq!(advance(&mut wheel, u64::MAX), [(u64::MAX, 'z')]);
        let mut coarse = Wheel::new(1_000, u64::MAX);
        coarse.insert(u64::MAX, 'w');
        assert_eq!(coarse.next_deadline(), Some(u64::MAX));
    }

    #[test]
    fn stops_at_the_limit_and_goes_on() {
        let mut wheel = Wheel::new(1, 0);
        for _ in 0..10 {
            wheel.insert(70, 'a');
        }
        let mut out = Vec::new();
        // Ten moves from level 1 down and ten fires, three at a time: seven calls.
        for call in 1..=7 {
            assert_eq!(wheel.advance(100, 3, &mut out), call < 7, "call {call}");
            assert!(wheel.next_deadline().is_none_or(|deadline| deadline <= 100));
        }
        assert_eq!(out.len(), 10);
        assert_eq!(wheel.now_ms(), 100);
    }

    #[test]
    fn a_slot_on_its_way_down_can_be_cancelled_from() {
        let mut wheel = Wheel::new(1, 0);
        let handles: Vec<Handle> = (0..6).map(|i| wheel.insert(4_200 + i % 2, 'a')).collect();
        let mut out = Vec::new();
        assert!(wheel.advance(5_000, 2, &mut out), "two of six have moved");
        for handle in [handles[2], handles[5], handles[0], handles[3], handles[4]] {
            assert_eq!(wheel.cancel(handle), Some('a'));
        }
        assert!(!wheel.advance(5_000, 10, &mut out));
        assert_eq!(out, [(4_201, 'a')]);
    }

    #[test]
    fn a_clock_set_back_neither_fires_early_nor_delays() {
        let mut wheel = Wheel::new(1, 1_000_000);
        wheel.insert(1_000_100, 'a');
        wheel.insert(40_000_000, 'b');
        // A year ahead and back, with entries left from before and new ones in between.
        assert_eq!(advance(&mut wheel, 2_000_000), [(1_000_100, 'a')]);
        wheel.insert(1_000_300, 'c');
        wheel.insert(2_000_001, 'd');
        wheel.insert(2_050_000, 'e');
        assert_eq!(advance(&mut wheel, 1_000_200), []);
        assert_eq!(wheel.now_ms(), 1_000_200);
        assert_eq!(advance(&mut wheel, 1_000_299), []);
        assert_eq!(advance(&mut wheel, 1_000_300), [(1_000_300, 'c')]);
        assert_eq!(advance(&mut wheel, 2_000_000), []);
        assert_eq!(advance(&mut wheel, 39_999_999), [(2_000_001, 'd'), (2_050_000, 'e')]);
        assert_eq!(advance(&mut wheel, 40_000_000), [(40_000_000, 'b')]);
    }
}
