//! An entry of the log: built from events, put into a write, and read back and verified.
//!
//! `cargo bench --package chronosdb-bench --bench log`

#![allow(missing_docs)] // criterion's macros make public functions

use std::hint::black_box;

use bytes::Bytes;
use chronosdb::base::api::Span;
use chronosdb::base::ids::{Index, Offset, PartitionId, Term, TopicNo};
use chronosdb::engine::log::{
    Body, EntryHeader, EntryKind, Ids, NewRecord, Place, PublishBuilder, Tail,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const EVENTS: u32 = 1_000;
const PAYLOAD: [u8; 256] = [0x5a; 256];
const NOW_MS: u64 = 1_790_000_000_000;

const EVENT_BYTES: u32 = 16 + PAYLOAD.len() as u32;

/// A message of so many events: ids and payloads, side by side.
fn message() -> Bytes {
    let mut message = Vec::new();
    for n in 0..EVENTS {
        message.extend_from_slice(b"message-");
        message.extend_from_slice(&u64::from(n).to_le_bytes());
        message.extend_from_slice(&PAYLOAD);
    }
    Bytes::from(message)
}

fn body(builder: &mut PublishBuilder, message: &Bytes) -> Body {
    for n in 0..EVENTS {
        let start = n * EVENT_BYTES;
        let record = NewRecord {
            message_id: Span { start, len: 16 },
            meta: Span::default(),
            payload: Span { start: start + 16, len: PAYLOAD.len() as u32 },
            topic: TopicNo(0),
            schedule_ts: NOW_MS,
            checksum: n,
            allow_duplicate: false,
        };
        builder.push(message, record);
    }
    builder.finish()
}

fn entries(c: &mut Criterion) {
    let mut group = c.benchmark_group("entry");
    group.throughput(Throughput::Elements(u64::from(EVENTS)));
    let (mut builder, message) = (PublishBuilder::new(), message());
    group.bench_function("encode", |b| b.iter(|| black_box(body(&mut builder, &message))));

    let bytes = Bytes::copy_from_slice(body(&mut builder, &message).bytes());
    group.bench_function("verify", |b| {
        b.iter(|| black_box(Body::verify(bytes.clone()).expect("our own")));
    });

    let entry = body(&mut builder, &message);
    let header = EntryHeader {
        kind: EntryKind::Normal,
        term: Term(1),
        index: Index(1),
        chain: 0,
        base_offset: Offset(0),
        count: EVENTS,
        append_ts: NOW_MS,
    };
    group.bench_function("fill a write", |b| {
        b.iter(|| {
            let ids = Ids { cluster: 1, partition: PartitionId(0) };
            let mut tail = Tail::new(ids, 64 << 20, Place::new(Index(1), 0), &[], 8 << 20);
            tail.push(header, entry.clone());
            let planned = tail.plan(Index(0)).expect("a write");
            let mut buffer = vec![0; planned.len as usize];
            tail.fill_write(planned.write, &mut buffer);
            black_box(buffer)
        });
    });
    group.finish();
}

criterion_group!(benches, entries);
criterion_main!(benches);
