//! The wheel's levels: where a tick belongs, and which slot comes next.
//!
//! A tick is read as eleven digits of six bits. Seen from the wheel's own tick, another tick
//! belongs to the level of the highest digit in which the two differ, in the slot that its own
//! digit there names:
//!
//! ```text
//!   wheel   .. 0 0 3 [17] 40 12      differs from the tick in digit 2: level 2,
//!   tick    .. 0 0 3 [19] 05 63      slot 19, which starts at .. 0 0 3 19 00 00
//! ```
//!
//! So slots are aligned to absolute time whatever the moment a wheel was made, everything in a
//! level shares all higher digits with the wheel, and a lower level is always sooner than a higher
//! one. What must hold: the bit of a slot is set exactly if its list is not empty, and a level's
//! bit exactly if one of its slots' is.

use super::slab::{NIL, Slab};

/// Bits of a digit.
const DIGIT: u32 = 6;
/// Slots of a level.
pub(super) const SLOTS: usize = 1 << DIGIT;
/// Levels that cover every u64.
pub(super) const LEVELS: usize = 64_usize.div_ceil(DIGIT as usize);

const _: () = assert!(SLOTS == u64::BITS as usize, "one occupancy word per level");
const _: () = assert!(LEVELS <= u16::BITS as usize, "one bit per level");

/// A slot: its level and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) level: usize,
    pub(super) slot: usize,
}

impl Place {
    /// Where `tick` belongs on a wheel that stands at `elapsed`.
    pub(super) fn of(elapsed: u64, tick: u64) -> Self {
        let highest_bit = ((elapsed ^ tick) | 1).ilog2();
        let level = (highest_bit / DIGIT) as usize;
        Self { level, slot: digit(tick, level) }
    }
}

/// The digit of `tick` that level `level` looks at.
pub(super) fn digit(tick: u64, level: usize) -> usize {
    (tick >> (DIGIT * level as u32)) as usize % SLOTS
}

/// First tick of a slot, seen from `elapsed`.
fn slot_start(elapsed: u64, place: Place) -> u64 {
    let shift = DIGIT * place.level as u32;
    if cfg!(bug_unaligned_levels) && place.level > 0 {
        // Known bad: the level's turn counts from wherever the wheel happens to stand.
        let ahead = place.slot.saturating_sub(digit(elapsed, place.level)) as u64;
        return elapsed.saturating_add(ahead << shift);
    }
    let higher = elapsed.checked_shr(shift + DIGIT).unwrap_or(0);
    let higher = higher.checked_shl(shift + DIGIT).unwrap_or(0);
    higher | ((place.slot as u64) << shift)
}

/// The slots: heads of lists of nodes, and which of them are not empty. 2.9 KiB.
#[derive(Debug)]
pub(super) struct Levels {
    heads: [[u32; SLOTS]; LEVELS],
    /// A bit per slot.
    occupied: [u64; LEVELS],
    /// A bit per level.
    summary: u16,
}

impl Levels {
    pub(super) fn new() -> Self {
        Self { heads: [[NIL; SLOTS]; LEVELS], occupied: [0; LEVELS], summary: 0 }
    }

    /// The soonest slot that is not empty, and its first tick.
    pub(super) fn first(&self, elapsed: u64) -> Option<(Place, u64)> {
        if self.summary == 0 {
            return None;
        }
        let level = self.summary.trailing_zeros() as usize;
        let slot = self.occupied[level].trailing_zeros() as usize;
        let place = Place { level, slot };
        // Nothing lies behind the wheel, and only level 0 has a slot for the wheel's own tick.
        let own = digit(elapsed, level);
        assert!(slot > own || (slot == own && level == 0), "a slot was passed over");
        Some((place, slot_start(elapsed, place)))
    }

    /// Puts a node at the end of a slot.
    pub(super) fn push<T: Copy>(&mut self, slab: &mut Slab<T>, place: Place, node: u32) {
        slab.push_back(&mut self.heads[place.level][place.slot], node);
        self.mark(place);
    }

    /// Takes the first node of a slot.
    pub(super) fn pop<T: Copy>(&mut self, slab: &mut Slab<T>, place: Place) -> Option<u32> {
        let node = slab.pop_front(&mut self.heads[place.level][place.slot])?;
        self.mark(place);
        Some(node)
    }

    /// Takes a node out of the slot, or out of a list that has left its slot (then it must not be
    /// the first of that list).
    pub(super) fn unlink<T: Copy>(&mut self, slab: &mut Slab<T>, place: Place, node: u32) {
        slab.unlink(&mut self.heads[place.level][place.slot], node);
        self.mark(place);
    }

    /// Takes the whole list of a slot.
    pub(super) fn take(&mut self, place: Place) -> u32 {
        let list = std::mem::replace(&mut self.heads[place.level][place.slot], NIL);
        self.mark(place);
        list
    }

    /// Puts a whole list at the end of a slot.
    pub(super) fn append<T: Copy>(&mut self, slab: &mut Slab<T>, place: Place, list: u32) {
        slab.append(&mut self.heads[place.level][place.slot], list);
        self.mark(place);
    }

    /// Takes the lists of all levels below `level`, sooner ones first, as one.
    pub(super) fn take_below<T: Copy>(&mut self, slab: &mut Slab<T>, level: usize) -> u32 {
        let mut gathered = NIL;
        for below in 0..level {
            while self.occupied[below] != 0 {
                let slot = self.occupied[below].trailing_zeros() as usize;
                let list = self.take(Place { level: below, slot });
                slab.append(&mut gathered, list);
            }
        }
        gathered
    }

    /// Brings the occupancy bits in line with the slot.
    fn mark(&mut self, place: Place) {
        let Place { level, slot } = place;
        if self.heads[level][slot] == NIL {
            self.occupied[level] &= !(1 << slot);
            if self.occupied[level] == 0 {
                self.summary &= !(1 << level);
            }
        } else {
            self.occupied[level] |= 1 << slot;
            self.summary |= 1 << level;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_belongs_to_the_highest_digit_that_differs() {
        assert_eq!(Place::of(0, 0), Place { level: 0, slot: 0 });
        assert_eq!(Place::of(0, 63), Place { level: 0, slot: 63 });
        assert_eq!(Place::of(0, 64), Place { level: 1, slot: 1 });
        assert_eq!(Place::of(63, 64), Place { level: 1, slot: 1 });
        assert_eq!(Place::of(64, 65), Place { level: 0, slot: 1 });
        assert_eq!(Place::of(0, u64::MAX), Place { level: 10, slot: 15 });
        assert_eq!(Place::of(u64::MAX, u64::MAX), Place { level: 0, slot: 63 });
    }

    #[test]
    fn slots_start_on_absolute_time() {
        let elapsed = 5 * 4096 + 9 * 64 + 33;
        assert_eq!(slot_start(elapsed, Place { level: 0, slot: 40 }), 5 * 4096 + 9 * 64 + 40);
        assert_eq!(slot_start(elapsed, Place { level: 1, slot: 10 }), 5 * 4096 + 10 * 64);
        assert_eq!(slot_start(elapsed, Place { level: 2, slot: 6 }), 6 * 4096);
        assert_eq!(slot_start(elapsed, Place { level: 10, slot: 15 }), 15 << 60);
        assert_eq!(slot_start(u64::MAX, Place { level: 0, slot: 63 }), u64::MAX);
    }

    #[test]
    fn occupancy_follows_the_lists() {
        let mut slab = Slab::new();
        let mut levels = Levels::new();
        assert_eq!(levels.first(7), None);
        let far = slab.allocate(0, ());
        let near = slab.allocate(0, ());
        levels.push(&mut slab, Place { level: 3, slot: 4 }, far);
        levels.push(&mut slab, Place { level: 0, slot: 9 }, near);
        assert_eq!(levels.first(7), Some((Place { level: 0, slot: 9 }, 9)));
        assert_eq!(levels.pop(&mut slab, Place { level: 0, slot: 9 }), Some(near));
        assert_eq!(levels.first(7).map(|(place, _)| place), Some(Place { level: 3, slot: 4 }));
        levels.unlink(&mut slab, Place { level: 3, slot: 4 }, far);
        assert_eq!(levels.first(7), None);
    }
}
