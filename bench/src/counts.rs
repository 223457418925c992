//! `chronosdb-counts CASE`: one piece of work, done once, for a counter of instructions around it.
//! Started by `scripts/check-perf.sh` under callgrind, which collects only what is inside
//! [`counted`]. Wall clocks of a shared machine can't hold a bound of 5 %; instructions can.
//!
//! A case prepares, warms up, and does the same work on the same bytes in every run: no clock, no
//! chance, no thread. Memory comes from the server's allocator. The first line of the output is
//! what the work is divided by.

use std::hint::black_box;
use std::process::ExitCode;

use bench_engine::{Driver, START, batch};
use bytes::Bytes;
use chronosdb::base::api::Span;
use chronosdb::base::ids::{Offset, TopicNo};
use chronosdb::engine::dedup::{Dedup, Findings, Original};
use chronosdb::engine::log::{Body, NewRecord, PublishBuilder};
use chronosdb::engine::wheel::Wheel;
use chronosdb::wire::publish;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Units of work in a case, and in each batch of it.
const UNITS: u64 = 10_000;
const BATCH: u64 = 1_000;
const PAYLOAD: [u8; 256] = [0x5a; 256];
const HOUR_MS: u64 = 3_600_000;

/// A case: its name, what it does, and the work.
type Case = (&'static str, &'static str, fn());

const CASES: [Case; 8] = [
    ("publish_scan", "publish batches taken apart, an event", publish_scan),
    ("step_publish", "publish to commit in the engine, due at once, an event", step_publish),
    ("step_publish_later", "the same, due later", step_publish_later),
    ("step_deliver", "publish, deliver, ack, an event", step_deliver),
    ("wheel_advance", "insert, cascade and fire, an entry", wheel_advance),
    ("entry_encode", "an entry of the log encoded, an event", entry_encode),
    ("entry_verify", "an entry of the log verified, an event", entry_verify),
    ("dedup_look_up", "a new id hashed and looked up among 100,000, an id", dedup_look_up),
];

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let Some((_, _, work)) = CASES.iter().find(|(case, ..)| *case == name) else {
        println!("Usage: chronosdb-counts CASE, one of these; scripts/check-perf.sh runs them all");
        for (case, what, _) in CASES {
            println!("{case:<20} {what}");
        }
        return ExitCode::FAILURE;
    };
    work();
    println!("{UNITS}");
    ExitCode::SUCCESS
}

/// The work that counts. callgrind knows it by this name, so it must stay a function.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
    black_box(work);
}

/// The `n`-th of numbers below `range` in no order.
fn scattered(n: u64, range: u64) -> u64 {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % range
}

fn publish_scan() {
    let message = batch(0, BATCH, |n| START.wall_ms() + n);
    counted(&mut || {
        for _ in 0..UNITS / BATCH {
            let scanned = publish::scan(black_box(message.clone()), true, START.wall_ms());
            assert!(black_box(scanned).is_ok(), "our own batch");
        }
    });
}

fn step_publish() {
    publishes(Driver::new(1), |_| 1);
}

fn step_publish_later() {
    publishes(Driver::new(1), |n| START.wall_ms() + 1 + scattered(n, 30_000));
}

fn step_deliver() {
    let mut driver = Driver::new(1);
    driver.subscribe();
    publishes(driver, |_| 1);
}

/// Ten batches after ten that warm up. Messages are made outside of what counts.
fn publishes(mut driver: Driver, due: fn(u64) -> u64) {
    let batches = UNITS / BATCH;
    let mut messages: Vec<Bytes> =
        (0..2 * batches).map(|number| batch(number * BATCH, BATCH, due)).collect();
    let measured = messages.split_off(batches as usize);
    for message in messages {
        driver.publish(message);
    }
    let mut measured = measured.into_iter();
    counted(&mut || measured.by_ref().for_each(|message| driver.publish(message)));
}

fn wheel_advance() {
    let start_ms = START.wall_ms();
    let mut wheel = Wheel::new(1, start_ms);
    for n in 0..100_000 {
        wheel.insert(start_ms + HOUR_MS + scattered(n, 10 * HOUR_MS), n);
    }
    let mut out = Vec::with_capacity(UNITS as usize);
    counted(&mut || {
        for n in 0..UNITS {
            wheel.insert(start_ms + 1 + scattered(n, 10_000), n);
        }
        for ms in 1..=10_001 {
            while wheel.advance(start_ms + ms, 8_192, &mut out) {}
        }
    });
    assert_eq!(out.len() as u64, UNITS, "all of them have fired");
}

/// A message of so many events: ids and payloads, side by side.
fn message() -> Bytes {
    let mut message = Vec::new();
    for n in 0..BATCH {
        message.extend_from_slice(b"message-");
        message.extend_from_slice(&n.to_le_bytes());
        message.extend_from_slice(&PAYLOAD);
    }
    Bytes::from(message)
}

fn entry(builder: &mut PublishBuilder, message: &Bytes) -> Body {
    for n in 0..BATCH as u32 {
        let start = n * (16 + PAYLOAD.len() as u32);
        let record = NewRecord {
            message_id: Span { start, len: 16 },
            meta: Span::default(),
            payload: Span { start: start + 16, len: PAYLOAD.len() as u32 },
            topic: TopicNo(0),
            schedule_ts: START.wall_ms(),
            checksum: n,
            allow_duplicate: false,
        };
        builder.push(message, record);
    }
    builder.finish()
}

fn entry_encode() {
    let (mut builder, message) = (PublishBuilder::new(), message());
    black_box(entry(&mut builder, &message));
    counted(&mut || {
        for _ in 0..UNITS / BATCH {
            black_box(entry(&mut builder, &message));
        }
    });
}

fn entry_verify() {
    let body = entry(&mut PublishBuilder::new(), &message());
    let bytes = Bytes::copy_from_slice(body.bytes());
    counted(&mut || {
        for _ in 0..UNITS / BATCH {
            assert!(black_box(Body::verify(bytes.clone())).is_ok(), "our own entry");
        }
    });
}

fn dedup_look_up() {
    let now_ms = START.wall_ms();
    let id = |n: u64| {
        let mut id = [b'x'; 16];
        id[..8].copy_from_slice(&n.to_le_bytes());
        id
    };
    let mut dedup = Dedup::new([7; 16], 7 * 24 * HOUR_MS);
    for n in 0..100_000 {
        let original = Original {
            offset: Offset(n),
            schedule_ts: now_ms,
            append_ts: now_ms,
            topic: TopicNo(1),
        };
        dedup.record(dedup.hash("orders", &id(n)), original, false, |_| false);
    }
    let findings = Findings::default();
    counted(&mut || {
        for n in 0..UNITS {
            let hash = dedup.hash("orders", &id(1_000_000 + n));
            black_box(dedup.get(hash, now_ms, &findings, |_| true));
        }
    });
}
