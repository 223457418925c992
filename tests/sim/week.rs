//! A week of a mixed load, in simulated time: the files stay within what is live and retained.

use std::collections::BTreeMap;

use chronosdb::base::config::EngineConfig;

use super::keeper::{BEGIN_MS, Keeper, small};
use super::rng::{Rng, Salt};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const YEAR_MS: u64 = 365 * DAY_MS;
const RETENTION_MS: u64 = 12 * HOUR_MS;
const SEGMENT_BYTES: u64 = 1 << 20;
const FLUSH_BYTES: u64 = 1 << 20;
/// Time between two publishes.
const PACE_MS: u64 = 60_000;
/// What a record takes in the log beside its payload: its struct, its id, its share of an entry
/// that is written in whole blocks.
const RECORD_BYTES: u64 = 150;

/// An event as the load remembers it.
struct Event {
    kept_to: u64,
    due: u64,
    bytes: u64,
    consumed: bool,
}

/// What the files may hold.
#[derive(Debug)]
struct Account {
    /// Pending, or not settled by its group.
    live: u64,
    /// Settled, and not past its time.
    window: u64,
    on_disk: u64,
}

impl Account {
    /// The promise, and what does not grow with the load: a tail that is filled ahead, segments of
    /// which not all is past, what is not flushed.
    fn allowed(&self) -> u64 {
        self.live * 3 / 2 + self.window + 4 * (SEGMENT_BYTES + FLUSH_BYTES)
    }
}

fn account(keeper: &Keeper, events: &BTreeMap<u64, Event>) -> Account {
    let now = keeper.now_ms();
    let confirmed = keeper.confirmed.get("g");
    let settled = |offset: &u64| confirmed.is_some_and(|acks| acks.contains(offset));
    let mut account = Account { live: 0, window: 0, on_disk: keeper.disk_bytes() };
    for (offset, event) in events {
        if event.due > now || (event.consumed && !settled(offset)) {
            account.live += event.bytes;
        } else if event.kept_to >= now {
            account.window += event.bytes;
        }
    }
    account
}

/// Now, within a day, or within a year.
fn due_after(now: u64, rng: &mut Rng) -> u64 {
    match rng.below(10) {
        0..6 => now,
        6..9 => now + rng.below(DAY_MS),
        _ => now + rng.below(YEAR_MS),
    }
}

#[test]
fn a_week_of_mixed_load_stays_within_what_is_live_and_retained() {
    let mut keeper = Keeper::new(EngineConfig {
        segment_bytes: SEGMENT_BYTES,
        flush_bytes: FLUSH_BYTES,
        id_window: 256,
        horizon_ms: 60_000,
        retention_ms: RETENTION_MS,
        dedup_ttl_ms: RETENTION_MS,
        retention_check_ms: 1_000,
        ack_timeout_ms: DAY_MS,
        ..small()
    });
    let mut rng = Rng::new(7, Salt::Workload);
    keeper.subscribe("g", "orders", true);
    keeper.subscribe("g", "mails", true);
    let mut events = BTreeMap::new();
    for minute in 0..7 * DAY_MS / PACE_MS {
        let now = keeper.now_ms();
        let topic = *rng.pick(&["orders", "mails", "audit"]);
        let (due, payload) = (due_after(now, &mut rng), rng.between(5_000, 40_000));
        let id = format!("{minute}");
        let offset = keeper.publish_some(topic, &id, due, payload as usize).expect("there is room");
        let (bytes, consumed) = (payload + RECORD_BYTES, topic != "audit");
        let kept_to = due.max(now) + RETENTION_MS;
        events.insert(offset, Event { kept_to, due, bytes, consumed });
        keeper.pass(PACE_MS);
        if (minute + 1) % (HOUR_MS / PACE_MS) == 0 {
            let hour = (keeper.now_ms() - BEGIN_MS) / HOUR_MS;
            let account = account(&keeper, &events);
            if hour.is_multiple_of(24) {
                println!("{hour:>4} h: {account:?}, of {} allowed", account.allowed());
            }
            assert!(account.on_disk <= account.allowed(), "after {hour} h: {account:?}");
        }
    }
    let published: u64 = events.values().map(|event| event.bytes).sum();
    let account = account(&keeper, &events);
    assert!(account.on_disk < published / 2, "most of {published} bytes is gone: {account:?}");
    delivers_the_rest(&mut keeper, &events);
}

/// A year later everything has come, each once.
fn delivers_the_rest(keeper: &mut Keeper, events: &BTreeMap<u64, Event>) {
    keeper.set_config(|config| config.retention_check_ms = HOUR_MS);
    keeper.restart();
    keeper.subscribe("g", "orders", true);
    keeper.subscribe("g", "mails", true);
    keeper.pass_to(BEGIN_MS + 7 * DAY_MS + YEAR_MS);
    let mut got = keeper.offsets_of("g");
    got.sort_unstable();
    let consumed = events.iter().filter(|(_, event)| event.consumed);
    let consumed: Vec<u64> = consumed.map(|(offset, _)| *offset).collect();
    assert!(got == consumed, "{} of {}", got.len(), consumed.len());
    println!("a year on: {} bytes", keeper.disk_bytes());
}
