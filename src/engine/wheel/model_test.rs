//! The wheel against a sorted map: random inserts, cancels, jumps of time in both directions.
//!
//! Checked all along: never early, at most one tick late, nothing lost, nothing twice, the next
//! deadline never later than the earliest entry, and one advance never touches more than its limit.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Handle, Wheel};

const MS_10_YEARS: u64 = 10 * 366 * 86_400_000;

#[derive(Clone, Debug)]
enum Op {
    /// An entry so many ms ahead of the clock.
    Insert(u64),
    /// An entry so many ms in the past.
    InsertPast(u64),
    /// Cancels one of the entries ever inserted, gone ones included.
    Cancel(usize),
    /// The clock moves on; the wheel is advanced to the end, by this limit.
    Forward(u64, usize),
    /// The clock moves on; one advance by this limit.
    Partly(u64, usize),
    /// The clock is set back.
    Back(u64),
    /// Sleeps until the wheel's own deadline.
    Sleep,
}

/// Spans of every magnitude from 1 ms to ten years, and the edges of slots.
fn span() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..100_u64,
        (0..36_u32, any::<u64>()).prop_map(|(bits, noise)| (1 << bits) + noise % (1 << bits)),
        (0..7_u32, 0..3_u64).prop_map(|(digits, off)| (1_u64 << (6 * digits)) + off - 1),
        0..=MS_10_YEARS,
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => span().prop_map(Op::Insert),
        1 => span().prop_map(Op::InsertPast),
        3 => any::<usize>().prop_map(Op::Cancel),
        4 => (span(), 1..20_usize).prop_map(|(by, limit)| Op::Forward(by, limit)),
        2 => (span(), 1..4_usize).prop_map(|(by, limit)| Op::Partly(by, limit)),
        1 => span().prop_map(Op::Back),
        2 => Just(Op::Sleep),
    ]
}

struct Check {
    tick_ms: u64,
    now_ms: u64,
    wheel: Wheel<u32>,
    model: BTreeMap<(u64, u32), Handle>,
    ever: Vec<(u64, Handle)>,
}

impl Check {
    fn new(tick_ms: u64, now_ms: u64) -> Self {
        let wheel = Wheel::new(tick_ms, now_ms);
        Self { tick_ms, now_ms, wheel, model: BTreeMap::new(), ever: Vec::new() }
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Insert(ahead) => self.insert(self.now_ms + ahead),
            Op::InsertPast(behind) => self.insert(self.now_ms.saturating_sub(behind)),
            Op::Cancel(pick) => self.cancel(pick),
            Op::Forward(by, limit) => {
                self.now_ms += by;
                self.advance_fully(limit);
            }
            Op::Partly(by, limit) => {
                self.now_ms += by;
                self.advance(limit);
            }
            Op::Back(by) => {
                self.now_ms = self.now_ms.saturating_sub(by);
                self.advance(1_000);
            }
            Op::Sleep => {
                if let Some(deadline) = self.wheel.next_deadline() {
                    self.now_ms = self.now_ms.max(deadline);
                    self.advance_fully(usize::MAX);
                }
            }
        }
        assert_eq!(self.wheel.len(), self.model.len());
        let earliest = self.model.keys().next().map(|&(at, _)| at.next_multiple_of(self.tick_ms));
        match (self.wheel.next_deadline(), earliest) {
            (Some(deadline), Some(earliest)) => assert!(deadline <= earliest, "slept over it"),
            (None, None) => {}
            other => panic!("a deadline without an entry or the other way round: {other:?}"),
        }
    }

    fn insert(&mut self, at_ms: u64) {
        let id = self.ever.len() as u32;
        let handle = self.wheel.insert(at_ms, id);
        self.model.insert((at_ms, id), handle);
        self.ever.push((at_ms, handle));
    }

    fn cancel(&mut self, pick: usize) {
        if self.ever.is_empty() {
            return;
        }
        let id = pick % self.ever.len();
        let (at_ms, handle) = self.ever[id];
        let expected = self.model.remove(&(at_ms, id as u32)).map(|_| id as u32);
        assert_eq!(self.wheel.cancel(handle), expected);
    }

    fn advance_fully(&mut self, limit: usize) {
        while self.advance(limit) {}
    }

    fn advance(&mut self, limit: usize) -> bool {
        let mut out = Vec::new();
        let stood_ms = self.wheel.now_ms();
        let more = self.wheel.advance(self.now_ms, limit, &mut out);
        assert!(out.len() <= limit);
        let mut last_tick = 0;
        for &(at_ms, id) in &out {
            assert!(at_ms <= self.now_ms, "early by {} ms", at_ms - self.now_ms);
            assert!(self.model.remove(&(at_ms, id)).is_some(), "handed out twice, or cancelled");
            let tick = at_ms.max(stood_ms.min(self.now_ms)).div_ceil(self.tick_ms);
            assert!(tick >= last_tick, "out of order by more than a tick");
            last_tick = tick;
        }
        if !more {
            let reached = self.now_ms - self.now_ms % self.tick_ms;
            let first = self.model.keys().next();
            assert!(first.is_none_or(|&(at, _)| at > reached), "due and not handed out");
            assert_eq!(self.wheel.now_ms(), reached);
        }
        more
    }
}

fn tick() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(1_u64), 1 => Just(2), 1 => Just(10), 1 => Just(64), 1 => 1..5_000_u64]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn agrees_with_a_sorted_map(
        tick_ms in tick(),
        start_ms in prop_oneof![Just(0), Just(1_790_000_000_000_u64), 0..1_u64 << 42],
        ops in vec(op(), 1..120),
    ) {
        let mut check = Check::new(tick_ms, start_ms);
        for op in &ops {
            check.run(op);
        }
        check.now_ms += 2 * MS_10_YEARS;
        check.advance_fully(7);
        // Time may have been set back by more than what follows: then the rest is still ahead.
        check.now_ms = 1 << 50;
        check.advance_fully(usize::MAX);
        prop_assert!(check.wheel.is_empty() && check.model.is_empty());
    }

    #[test]
    fn sleeping_from_deadline_to_deadline_fires_each_at_its_tick(
        tick_ms in tick(),
        start_ms in 0..1_u64 << 42,
        spans in vec(span(), 1..40),
    ) {
        let mut wheel = Wheel::new(tick_ms, start_ms);
        for (id, span) in spans.iter().enumerate() {
            wheel.insert(start_ms + span, id);
        }
        let (mut wakes, mut fired) = (0, 0);
        while let Some(deadline) = wheel.next_deadline() {
            let mut out = Vec::new();
            prop_assert!(!wheel.advance(deadline, usize::MAX, &mut out));
            for (at_ms, _) in &out {
                prop_assert!(at_ms.next_multiple_of(tick_ms) == deadline.max(wheel.now_ms()));
            }
            fired += out.len();
            wakes += 1;
        }
        prop_assert_eq!(fired, spans.len());
        prop_assert!(wakes <= 11 * spans.len(), "{} wakes", wakes);
    }
}
