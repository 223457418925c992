//! What the publish path allocates: so much for a batch, and for an event in it only what it leaves
//! in memory. A broker that builds an object per event pays for it twice, when it takes the memory
//! and when it gives it back.
//!
//! The engine runs without a disk and without threads, so the counts are the same in every run.

use allocation_counter::measure;
use bench_engine::{Driver, START, batch};
use bytes::Bytes;
use chronosdb::wire::publish;

const BATCH: u64 = 1_000;
/// Batches that grow buffers and tables to their size.
const WARM_UP: u64 = 64;
const BATCHES: u64 = 64;

/// For a batch, whatever it holds: spans, what memory says of its ids, proposal, body of the entry,
/// answer.
const PER_BATCH: u64 = 13;
/// For an event that stays, amortised: blocks of the due index, which hold 32 to 64 events each,
/// and tables of ids, which grow in small steps so that they are never much larger than what they
/// hold.
const PER_EVENT: f64 = 0.06;

fn messages(first: u64, batches: u64, events: u64, due: fn(u64) -> u64) -> Vec<Bytes> {
    (0..batches).map(|number| batch(first + number * events, events, due)).collect()
}

/// Allocations of `BATCHES` publishes of `events` each, behind a warm-up: each one's, in order.
fn publishes(events: u64, due: fn(u64) -> u64) -> Vec<u64> {
    let mut driver = Driver::new(1);
    for message in messages(0, WARM_UP, BATCH, due) {
        driver.publish(message);
    }
    let measured = messages(WARM_UP * BATCH, BATCHES, events, due).into_iter();
    measured.map(|message| measure(|| driver.publish(message)).count_total).collect()
}

#[test]
fn the_scanner_allocates_its_spans_and_nothing_else() {
    let message = batch(0, BATCH, |n| START.wall_ms() + n);
    let scan = |message| publish::scan(message, true, START.wall_ms()).expect("our own batch");
    let found = measure(|| drop(scan(message.clone())));
    // The second is the shared count of the bytes, made by the first clone.
    assert!(found.count_total <= 2, "{found:?}");
    let found = measure(|| drop(scan(message.clone())));
    assert_eq!(found.count_total, 1, "{found:?}");
}

#[test]
fn a_publish_allocates_per_batch_and_for_what_stays() {
    for (what, due) in [("due at once", at_once as fn(u64) -> u64), ("due later", later)] {
        let mut single = publishes(1, due);
        single.sort_unstable();
        // Now and then a table grows in one of them: that is the event's.
        let per_batch = single[single.len() / 2];
        let all: u64 = publishes(BATCH, due).iter().sum();
        let per_event = (all - BATCHES * per_batch) as f64 / (BATCHES * BATCH) as f64;
        println!("{what}: {per_batch} allocations a batch, {per_event:.3} an event that stays");
        assert!(per_batch <= PER_BATCH, "{what}: {per_batch} a batch, at most {PER_BATCH}");
        assert!(per_event <= PER_EVENT, "{what}: {per_event} an event, at most {PER_EVENT}");
        assert_eq!(all, publishes(BATCH, due).iter().sum::<u64>(), "the same in every run");
    }
}

fn at_once(_: u64) -> u64 {
    START.wall_ms()
}

fn later(n: u64) -> u64 {
    START.wall_ms() + 1_000 + (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % 30_000
}
