//! A sorter of what a job gathers: it takes keys in any order and gives them back in theirs.
//!
//! ```text
//!  push:        open --(full: sorted)--> portion | portion | portion ...
//!  pop_first:   the least of the portions' first ones
//! ```
//! A tree finds the place of each key among all; here only those of a portion are moved about, in
//! memory that the processor's caches hold. This is the external merge sort of Knuth (The Art of
//! Computer Programming 3, 5.4), without the tapes.
//!
//! Promises: a call sorts at most [`PORTION`] pairs of a key and its value; memory is what the
//! pairs take and at most one portion more; a portion's is let go of when its last pair is given
//! back.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::vec::IntoIter;

use crate::engine::runs::RunKey;

/// Pairs that are sorted at once.
const PORTION: usize = 4_096;

/// See the module.
#[derive(Debug)]
pub(super) struct Sorter<T> {
    /// At most [`PORTION`] pairs, in no order.
    open: Vec<(RunKey, T)>,
    /// Each in order; empty where all of it was given back.
    portions: Vec<IntoIter<(RunKey, T)>>,
    /// Of each portion that has pairs, the key of the first one.
    next: BinaryHeap<Reverse<(RunKey, usize)>>,
}

impl<T: Copy> Sorter<T> {
    pub(super) fn new() -> Self {
        Self { open: Vec::new(), portions: Vec::new(), next: BinaryHeap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.next.is_empty()
    }

    /// Adds a pair.
    pub(super) fn push(&mut self, key: RunKey, value: T) {
        if self.open.len() == PORTION {
            self.end_portion();
        }
        self.open.push((key, value));
    }

    /// Gives back the pair with the least key. Of several with one key any may be the first.
    pub(super) fn pop_first(&mut self) -> Option<(RunKey, T)> {
        if !self.open.is_empty() {
            self.end_portion();
        }
        let mut least = self.next.peek_mut()?;
        let Reverse((key, number)) = *least;
        let portion = &mut self.portions[number];
        let (first, value) = portion.next().expect("it has pairs");
        assert_eq!(first, key, "each portion's first one is in the heap");
        if let Some((next, _)) = portion.as_slice().first() {
            *least = Reverse((*next, number));
        } else {
            PeekMut::pop(least);
            self.portions[number] = Vec::new().into_iter();
        }
        Some((key, value))
    }

    fn end_portion(&mut self) {
        let mut portion = std::mem::take(&mut self.open);
        portion.sort_unstable_by_key(|pair| pair.0);
        self.next.push(Reverse((portion[0].0, self.portions.len())));
        self.portions.push(portion.into_iter());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::base::ids::{Offset, Position, TopicNo};

    fn key(n: u64) -> RunKey {
        // By topic first: the order of offsets is not the order of keys.
        RunKey::new(TopicNo(n as u32 % 3), Position::new(n * 7 % 1_000, Offset(n)))
    }

    fn all_of(mut sorter: Sorter<u64>) -> Vec<(RunKey, u64)> {
        std::iter::from_fn(|| sorter.pop_first()).collect()
    }

    #[test]
    fn as_many_as_a_portion_and_one_more_are_sorted() {
        for count in [0, 1, PORTION, PORTION + 1, 3 * PORTION + 1] {
            let (mut sorter, mut expected) = (Sorter::new(), BTreeMap::new());
            for n in (0..count as u64).rev() {
                sorter.push(key(n), n);
                expected.insert(key(n), n);
            }
            assert_eq!(sorter.is_empty(), count == 0);
            assert!(sorter.open.len() <= PORTION);
            assert_eq!(all_of(sorter), expected.into_iter().collect::<Vec<_>>(), "{count}");
        }
    }

    #[test]
    fn a_portion_that_is_given_back_takes_no_memory() {
        let mut sorter = Sorter::new();
        for n in 0..2 * PORTION as u64 {
            sorter.push(RunKey::new(TopicNo(0), Position::new(n, Offset(n))), n);
        }
        for n in 0..PORTION as u64 {
            assert_eq!(sorter.pop_first().map(|pair| pair.1), Some(n));
        }
        let left: Vec<usize> = sorter.portions.iter().map(ExactSizeIterator::len).collect();
        assert_eq!((left, sorter.next.len()), (vec![0, PORTION], 1));
        assert!(!sorter.is_empty());
    }

    proptest! {
        /// Pairs that come while others are taken are sorted among what is left.
        #[test]
        fn it_is_an_ordered_map(steps in prop::collection::vec((0..50_000_u64, 0..3_u8), 0..400)) {
            let (mut sorter, mut model) = (Sorter::new(), BTreeMap::new());
            for (n, step) in steps {
                if step == 0 {
                    prop_assert_eq!(sorter.pop_first(), model.pop_first());
                } else if model.insert(key(n), n).is_none() {
                    sorter.push(key(n), n);
                }
                prop_assert_eq!(sorter.is_empty(), model.is_empty());
            }
            prop_assert_eq!(all_of(sorter), model.into_iter().collect::<Vec<_>>());
        }
    }
}
