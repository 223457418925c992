//! The dedup window: hash, look up and record, per id, with a million ids remembered.
//!
//! `cargo bench --package chronosdb-bench --bench dedup`

#![allow(missing_docs)] // criterion's macros make public functions

use std::hint::black_box;

use chronosdb::base::ids::{Offset, TopicNo};
use chronosdb::engine::dedup::{Dedup, Findings, Original};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const IDS: u64 = 1_000_000;
const BATCH: u64 = 10_000;
const NOW_MS: u64 = 1_790_000_000_000;

fn original(offset: u64) -> Original {
    Original { offset: Offset(offset), schedule_ts: NOW_MS, append_ts: NOW_MS, topic: TopicNo(1) }
}

fn id(n: u64) -> [u8; 16] {
    let mut id = [b'x'; 16];
    id[..8].copy_from_slice(&n.to_le_bytes());
    id
}

fn filled() -> Dedup {
    let mut dedup = Dedup::new([7; 16], 7 * 86_400_000);
    for n in 0..IDS {
        dedup.record(dedup.hash("orders", &id(n)), original(n), false, |_| false);
    }
    dedup
}

fn look_ups(c: &mut Criterion) {
    let mut group = c.benchmark_group("dedup");
    group.throughput(Throughput::Elements(BATCH));
    let dedup = filled();
    println!("{} bytes an id", dedup.memory_bytes() as u64 / IDS);
    group.bench_function("hash", |b| {
        b.iter(|| {
            for n in 0..BATCH {
                black_box(dedup.hash("orders", &id(n)));
            }
        });
    });
    for (name, first) in [("get a new id of 1 M", 2 * IDS), ("get a known id of 1 M", 0)] {
        let (mut next, findings) = (0, Findings::default());
        group.bench_function(name, |b| {
            b.iter(|| {
                for _ in 0..BATCH {
                    next = (next + 7_919) % IDS;
                    let hash = dedup.hash("orders", &id(first + next));
                    black_box(dedup.get(hash, NOW_MS, &findings, |_| true));
                }
            });
        });
    }
    group.finish();
}

fn record(c: &mut Criterion) {
    let mut group = c.benchmark_group("dedup");
    group.sample_size(10).throughput(Throughput::Elements(IDS));
    group.bench_function("record 1 M from none", |b| {
        b.iter_batched(|| (), |()| filled(), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, look_ups, record);
criterion_main!(benches);
