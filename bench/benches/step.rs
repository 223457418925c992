//! The engine's step without a disk: publish in batches of 1,000, applied and answered; then the
//! same delivered to a subscription and acknowledged. Writes are done at once, by the driver.
//!
//! `cargo bench --package chronosdb-bench --bench step`

#![allow(missing_docs)] // criterion's macros make public functions

use bench_engine::{Driver, batch};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const BATCH: u64 = 1_000;

fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("step");
    group.throughput(Throughput::Elements(BATCH));
    for (name, subscribed) in [("publish", false), ("publish, deliver and ack", true)] {
        let mut driver = Driver::new(1);
        if subscribed {
            driver.subscribe();
        }
        let mut first = 0;
        group.bench_function(name, |b| {
            b.iter_batched(
                || {
                    first += BATCH;
                    batch(first, BATCH, |_| 1)
                },
                |message| driver.publish(message),
                BatchSize::SmallInput,
            );
        });
        assert!(!subscribed || driver.delivered > 0, "the subscription got what was published");
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
