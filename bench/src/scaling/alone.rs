//! The wheel and the engine by themselves, on one core.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bench_engine::{Driver, START, batch_of};
use chronosdb::engine::wheel::Wheel;

use super::Rows;

/// What is measured on top of what is pending.
const UNITS: u64 = 100_000;
const _: () = assert!(UNITS < HOUR_MS, "they fire before what is pending");
const BATCH: u64 = 1_000;
const HOUR_MS: u64 = 3_600_000;

/// The `n`-th of numbers below `range` in no order.
fn scattered(n: u64, range: u64) -> u64 {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % range
}

/// 10 K, then ten times as many, up to `most`.
fn tenfold(from: u64, most: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(from), |n| n.checked_mul(10)).take_while(move |n| *n <= most)
}

fn each(took: Duration, units: u64) -> f64 {
    took.as_nanos() as f64 / units as f64
}

/// Insert, cancel and fire with so much pending behind them.
pub fn wheel(most: u64, rows: &mut Rows) {
    for pending in tenfold(10_000, most) {
        let start_ms = START.wall_ms();
        let mut wheel = Wheel::new(1, start_ms);
        for n in 0..pending {
            wheel.insert(start_ms + HOUR_MS + scattered(n, 720 * HOUR_MS), n);
        }
        let memory = wheel.memory_bytes() as f64 / pending as f64;
        let began = Instant::now();
        let handles: Vec<_> = (0..UNITS)
            .map(|n| wheel.insert(start_ms + 1 + scattered(n, 720 * HOUR_MS), n))
            .collect();
        let inserted = began.elapsed();
        let began = Instant::now();
        for handle in handles {
            black_box(wheel.cancel(handle));
        }
        let cancelled = began.elapsed();
        // One a millisecond, all before the first of the pending ones.
        for n in 0..UNITS {
            wheel.insert(start_ms + 1 + scattered(n, UNITS), n);
        }
        let mut out = Vec::with_capacity(UNITS as usize);
        let began = Instant::now();
        for ms in 1..=UNITS {
            while wheel.advance(start_ms + ms, 8_192, &mut out) {}
        }
        let fired = began.elapsed();
        assert_eq!(out.len() as u64, UNITS, "all of them have fired");
        let figures = [
            ("insert_ns", each(inserted, UNITS)),
            ("cancel_ns", each(cancelled, UNITS)),
            ("fire_ns", each(fired, UNITS)),
            ("memory_bytes", memory),
        ];
        rows.tell("wheel", "pending", pending, &figures);
    }
}

/// Publish, then deliver and ack, with so much pending behind them, in one partition.
pub fn engine(most: u64, rows: &mut Rows) {
    for pending in tenfold(10_000, most) {
        let start_ms = START.wall_ms();
        let mut driver = Driver::new(1);
        driver.subscribe();
        let later = |n| start_ms + HOUR_MS + scattered(n, 720 * HOUR_MS);
        for first in (0..pending).step_by(BATCH as usize) {
            driver.publish(batch_of(first, BATCH, later, |_| 0));
        }
        // Due over a second: so long as it takes to see what a single batch costs.
        let soon = |n| start_ms + 1_000 + scattered(n, 1_000);
        let published = publish(&mut driver, pending, soon, |_| 0);
        let began = Instant::now();
        for _ in 0..2_100 {
            driver.advance(1);
        }
        let delivered = began.elapsed();
        assert_eq!(driver.delivered, UNITS, "all of them were delivered");
        let figures = [("publish_ns", published), ("deliver_and_ack_ns", each(delivered, UNITS))];
        rows.tell("engine", "pending", pending, &figures);
    }
}

/// Publishes `UNITS` events in batches; ns each. Making the batches is not counted.
fn publish(
    driver: &mut Driver,
    first: u64,
    due: impl Fn(u64) -> u64 + Copy,
    topic: impl Fn(u64) -> u64 + Copy,
) -> f64 {
    let firsts = (first..first + UNITS).step_by(BATCH as usize);
    let messages: Vec<_> = firsts.map(|first| batch_of(first, BATCH, due, topic)).collect();
    let began = Instant::now();
    for message in messages {
        driver.publish(message);
    }
    each(began.elapsed(), UNITS)
}

/// Batches of 1,000 that spread over so many partitions.
pub fn partitions(rows: &mut Rows) {
    for partitions in [1, 4, 16, 64, 256] {
        let mut driver = Driver::new(partitions);
        // The first ones grow the buffers.
        publish(&mut driver, 0, |_| 1, |_| 0);
        let written = driver.written_bytes;
        let took = publish(&mut driver, UNITS, |_| 1, |_| 0);
        let bytes = (driver.written_bytes - written) as f64 / UNITS as f64;
        let figures = [("publish_ns", took), ("written_bytes", bytes)];
        rows.tell("partitions", "partitions", u64::from(partitions), &figures);
    }
}

/// Batches of 1,000 that spread over so many topics of one partition.
pub fn topics(rows: &mut Rows) {
    for topics in [1, 10, 100, 1_000, 10_000] {
        let mut driver = Driver::new(1);
        // After these, every topic is there.
        publish(&mut driver, 0, |_| 1, |n| n % topics);
        let took = publish(&mut driver, UNITS, |_| 1, |n| n % topics);
        rows.tell("topics", "topics", topics, &[("publish_ns", took)]);
    }
}
