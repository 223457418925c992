//! The timing wheel: insert, cancel, fire and cascade, per entry, with a million pending.
//!
//! `cargo bench --package chronosdb-bench --bench wheel`

#![allow(missing_docs)] // criterion's macros make public functions

use std::hint::black_box;

use chronosdb::engine::wheel::Wheel;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const START_MS: u64 = 1_790_000_000_000;
const PENDING: u64 = 1_000_000;
const BATCH: u64 = 10_000;
const HOUR_MS: u64 = 3_600_000;

/// The `n`-th of numbers below `range` in no order.
fn scattered(n: u64, range: u64) -> u64 {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % range
}

/// A million entries over the hours from the second on.
fn filled() -> Wheel<u64> {
    let mut wheel = Wheel::new(1, START_MS);
    for n in 0..PENDING {
        wheel.insert(START_MS + HOUR_MS + scattered(n, 10 * HOUR_MS), n);
    }
    wheel
}

fn insert_and_cancel(c: &mut Criterion) {
    let mut group = c.benchmark_group("wheel");
    group.throughput(Throughput::Elements(BATCH));
    let mut wheel = filled();
    group.bench_function("insert and cancel, 1 M pending", |b| {
        b.iter(|| {
            for n in 0..BATCH {
                let handle = wheel.insert(START_MS + scattered(n, HOUR_MS), n);
                black_box(wheel.cancel(handle));
            }
        });
    });
    group.finish();
}

/// Inserts within the next second and fires millisecond by millisecond: what a busy partition does.
fn insert_and_fire(c: &mut Criterion) {
    let mut group = c.benchmark_group("wheel");
    group.throughput(Throughput::Elements(BATCH));
    let mut wheel = Wheel::new(1, START_MS);
    let mut now_ms = START_MS;
    let mut out = Vec::new();
    group.bench_function("insert and fire within 1 s", |b| {
        b.iter(|| {
            for n in 0..BATCH {
                wheel.insert(now_ms + 1 + scattered(n, 1_000), n);
            }
            for _ in 0..1_001 {
                now_ms += 1;
                out.clear();
                while wheel.advance(now_ms, 8_192, &mut out) {}
            }
            black_box(&out);
        });
    });
    group.finish();
}

/// Everything that is pending, through all its cascades, in one jump of time.
fn drain(c: &mut Criterion) {
    let mut group = c.benchmark_group("wheel");
    group.sample_size(10).throughput(Throughput::Elements(PENDING));
    group.bench_function("a jump over 1 M pending", |b| {
        b.iter_batched(
            filled,
            |mut wheel| {
                let mut out = Vec::with_capacity(PENDING as usize);
                while wheel.advance(START_MS + 11 * HOUR_MS, 8_192, &mut out) {}
                assert_eq!(out.len() as u64, PENDING);
                (wheel, out)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, insert_and_cancel, insert_and_fire, drain);
criterion_main!(benches);
