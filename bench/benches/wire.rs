//! The scanner of publish messages, beside prost on the same bytes.

use bytes::{Bytes, BytesMut};
use chronosdb::wire::events::{Event, PublishBatchRequest};
use chronosdb::wire::frame::{self, FrameDecoder};
use chronosdb::wire::kind::FrameKind;
use chronosdb::wire::publish;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use std::hint::black_box;

const NOW_MS: u64 = 1_800_000_000_000;
const EVENTS: usize = 1_000;

fn batch(meta: bool) -> Bytes {
    let event = |number: usize| {
        let event = Event::new("orders", format!("order-{number:012}"), vec![7; 256]);
        let event = event.at_ms(NOW_MS + number as u64);
        if meta {
            event.with_key("customer-7").with_meta("trace", "0123456789abcdef")
        } else {
            event
        }
    };
    let events = (0..EVENTS).map(event).collect();
    PublishBatchRequest { events, allow_duplicate: false }.encode_to_vec().into()
}

fn scan(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish_batch_1000");
    group.throughput(Throughput::Elements(EVENTS as u64));
    for (name, meta) in [("plain", false), ("with_meta", true)] {
        let message = batch(meta);
        group.bench_function(format!("scan_{name}"), |b| {
            b.iter(|| publish::scan(black_box(message.clone()), true, NOW_MS).expect("sound"));
        });
        group.bench_function(format!("prost_{name}"), |b| {
            b.iter(|| PublishBatchRequest::decode(black_box(message.clone())).expect("sound"));
        });
    }
    group.finish();
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frames_of_300_bytes");
    group.throughput(Throughput::Elements(EVENTS as u64));
    let mut out = BytesMut::new();
    for number in 0..EVENTS as u64 {
        frame::put_body(&mut out, FrameKind::Publish, number + 1, &[7; 300]).expect("it fits");
    }
    group.bench_function("decode", |b| {
        b.iter_batched(
            || out.clone(),
            |mut buffer| {
                while let Some(frame) = FrameDecoder::Requests.next(&mut buffer).expect("sound") {
                    black_box(frame);
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, scan, frames);
criterion_main!(benches);
