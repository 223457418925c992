//! The window against a sorted map that forgets nothing, and the hash against published vectors.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Dedup, Findings, IdHash, Original, Recorded};
use crate::base::ids::{Offset, TopicNo};

const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

#[test]
fn the_hash_is_siphash_2_4_128_over_a_framed_id() {
    use std::hash::Hasher as _;

    use siphasher::sip128::{Hasher128 as _, SipHasher24};
    // The reference implementation's vector for one zero byte; ours for a framed id. Both are part
    // of the format of a data directory: they never change.
    let mut reference = SipHasher24::new_with_key(&KEY);
    reference.write(&[0]);
    assert_eq!(
        reference.finish128().as_bytes(),
        [
            0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44, 0x34, 0x76, 0x59, 0x11, 0x9b, 0x22,
            0xfc, 0x45
        ]
    );
    let dedup = Dedup::new(KEY, 1);
    let mut framed = SipHasher24::new_with_key(&KEY);
    framed.write(b"\x06\x00ordersid-1");
    let expected = framed.finish128();
    assert_eq!(
        dedup.hash("orders", b"id-1"),
        IdHash { high: expected.h1, low: expected.h2 },
        "the framing is a length of two bytes, the topic, the id"
    );
}

#[test]
fn topic_and_id_do_not_run_into_each_other() {
    let dedup = Dedup::new(KEY, 1);
    let hashes: BTreeSet<IdHash> = [("ab", "c"), ("a", "bc"), ("", "abc"), ("abc", "")]
        .map(|(topic, id)| dedup.hash(topic, id.as_bytes()))
        .into();
    assert_eq!(hashes.len(), 4);
    assert_ne!(Dedup::new([1; 16], 1).hash("ab", b"c"), dedup.hash("ab", b"c"));
}

#[test]
fn a_hash_keeps_its_order_as_bytes() {
    let dedup = Dedup::new(KEY, 1);
    let mut hashes: Vec<IdHash> = (0..100_u32).map(|n| dedup.hash("t", &n.to_le_bytes())).collect();
    hashes.sort_unstable();
    assert!(hashes.is_sorted_by_key(|hash| hash.to_bytes()));
}

fn get(
    dedup: &Dedup,
    hash: IdHash,
    log_now_ms: u64,
    settled: impl FnMut(&Original) -> bool,
) -> Option<Original> {
    dedup.get(hash, log_now_ms, &Findings::default(), settled)
}

fn original(offset: u64, schedule_ts: u64, append_ts: u64) -> Original {
    Original { offset: Offset(offset), schedule_ts, append_ts, topic: TopicNo(1) }
}

#[test]
fn an_id_lives_as_long_as_its_ttl_its_event_or_its_groups_need_it() {
    let mut dedup = Dedup::new(KEY, 100);
    let hash = dedup.hash("t", b"id");
    dedup.record(hash, original(1, 5_000, 1_000), false, |_| true);
    assert!(get(&dedup, hash, 4_999, |_| true).is_some(), "not due");
    assert!(get(&dedup, hash, 5_000, |_| false).is_some(), "not settled");
    assert!(get(&dedup, hash, 5_000, |_| true).is_none());
    dedup.record(hash, original(2, 0, 6_000), false, |_| true);
    assert!(get(&dedup, hash, 6_100, |_| true).is_some(), "the last ms of its ttl");
    assert!(get(&dedup, hash, 6_101, |_| true).is_none());
}

#[test]
fn a_raised_ttl_brings_nothing_back() {
    let mut dedup = Dedup::new(KEY, 100);
    let [old, young] = [b"old", b"new"].map(|id| dedup.hash("t", id));
    dedup.record(old, original(1, 0, 1_000), false, |_| true);
    dedup.record(young, original(2, 0, 1_050), false, |_| true);
    dedup.set_ttl(1_000_000, 1_101);
    assert!(get(&dedup, old, 1_101, |_| true).is_none());
    assert!(get(&dedup, young, 9_999, |_| true).is_some());
    assert_eq!(dedup.sweep(9_999, usize::MAX, |_| true), 1);
}

#[test]
fn many_ids_stay_exact_and_cost_64_bytes_at_most() {
    let count = 300_000_u64;
    let mut dedup = Dedup::new(KEY, 100);
    let id = |n: u64| n.to_le_bytes();
    for n in 0..count {
        let hash = dedup.hash("t", &id(n));
        assert_eq!(get(&dedup, hash, 10, |_| true), None);
        assert_eq!(dedup.record(hash, original(n, 0, 10 + n), false, |_| true), Recorded::Taken);
    }
    assert_eq!(dedup.len() as u64, count);
    assert!(dedup.memory_bytes() as u64 <= 64 * count, "{} bytes", dedup.memory_bytes());
    let last = 10 + count - 1;
    for n in (0..count).step_by(17) {
        let found = get(&dedup, dedup.hash("t", &id(n)), last, |_| false);
        assert_eq!(found.map(|original| original.offset), Some(Offset(n)));
    }
    let mut removed = 0;
    for _ in 0..count / 1_000 {
        removed += dedup.sweep(last + 50, 4_000, |_| true) as u64;
    }
    assert_eq!(removed, count - 51, "all but the last 51 ms");
    assert!(dedup.memory_bytes() < 1 << 20, "memory is given back");
}

#[derive(Clone, Debug)]
enum Op {
    Publish { id: u8, ahead: u64, allow_duplicate: bool },
    Settle { id: u8 },
    Sweep { budget: usize },
    SetTtl { ttl_ms: u64 },
    Pass { ms: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (any::<u8>(), 0..400_u64, any::<bool>()).prop_map(|(id, ahead, allow_duplicate)| {
            Op::Publish { id: id % 32, ahead, allow_duplicate }
        }),
        3 => any::<u8>().prop_map(|id| Op::Settle { id: id % 32 }),
        2 => (1..300_usize).prop_map(|budget| Op::Sweep { budget }),
        1 => (0..300_u64).prop_map(|ttl_ms| Op::SetTtl { ttl_ms }),
        3 => (0..200_u64).prop_map(|ms| Op::Pass { ms }),
    ]
}

/// What the window must say, written the slow way: every id there ever was, and what became of it.
#[derive(Default)]
struct Model {
    ids: BTreeMap<u8, Fate>,
    settled: BTreeSet<u64>,
}

struct Fate {
    original: Original,
    past_ttl: bool,
    dead: bool,
}

impl Model {
    /// Marks what has passed its TTL and what has died by `now`; neither is ever undone.
    fn pass(&mut self, now: u64, ttl_ms: u64) {
        for Fate { original, past_ttl, dead } in self.ids.values_mut() {
            *past_ttl |= now - original.append_ts > ttl_ms;
            *dead |=
                *past_ttl && original.due() <= now && self.settled.contains(&original.offset.0);
        }
    }

    fn get(&self, id: u8) -> Option<Original> {
        self.ids.get(&id).filter(|fate| !fate.dead).map(|fate| fate.original)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn agrees_with_a_map_that_forgets_nothing(ops in vec(op(), 1..150)) {
        let (mut now, mut ttl_ms, mut next_offset) = (1_000, 100, 0);
        let mut model = Model::default();
        let mut swept = Dedup::new(KEY, ttl_ms);
        let mut unswept = Dedup::new(KEY, ttl_ms);
        for op in ops {
            match op {
                Op::Publish { id, ahead, allow_duplicate } => {
                    let hash = swept.hash("t", &[id]);
                    let living = model.get(id);
                    if living.is_none() || allow_duplicate {
                        let new = original(next_offset, now + ahead, now);
                        next_offset += 1;
                        for dedup in [&mut swept, &mut unswept] {
                            let settled = |o: &Original| model.settled.contains(&o.offset.0);
                            let kept = dedup.record(hash, new, allow_duplicate, settled);
                            prop_assert_eq!(kept == Recorded::Kept, living.is_some());
                        }
                        if living.is_none() {
                            let fate = Fate { original: new, past_ttl: false, dead: false };
                            model.ids.insert(id, fate);
                        }
                    }
                }
                Op::Settle { id } => {
                    // Only what is due is ever settled.
                    let fate = model.ids.get(&id);
                    if let Some(fate) = fate.filter(|fate| fate.original.due() <= now) {
                        model.settled.insert(fate.original.offset.0);
                    }
                }
                Op::Sweep { budget } => {
                    swept.sweep(now, budget, |o| model.settled.contains(&o.offset.0));
                }
                Op::SetTtl { ttl_ms: new } => {
                    swept.set_ttl(new, now);
                    unswept.set_ttl(new, now);
                    ttl_ms = new;
                }
                Op::Pass { ms } => now += ms,
            }
            model.pass(now, ttl_ms);
            for id in 0..32 {
                let hash = swept.hash("t", &[id]);
                let settled = |o: &Original| model.settled.contains(&o.offset.0);
                prop_assert_eq!(get(&swept, hash, now, settled), model.get(id));
                prop_assert_eq!(get(&unswept, hash, now, settled), model.get(id));
            }
        }
    }
}
