//! Rounds of load and `kill -9` on one data directory, compared with what the clients were told.
//!
//! An acknowledged publish is there after every kill, at the offset that was told, once; an id
//! whose answer was lost is there once or not at all, and says so; a confirmed ack is never
//! delivered again; offsets are dense. `CHRONOSDB_KILL_ROUNDS` gives the number of rounds (10), and
//! `CHRONOSDB_KILL_SEED` repeats the choices of a run (not its interleaving).

use std::collections::BTreeSet;
use std::time::Duration;

use chronosdb::base::ids::{Offset, PartitionId};
use chronosdb::base::route::partition_of;
use chronosdb::base::time;
use chronosdb::client::{Client, Event, ReplayOptions, ReplayRange, SubscribeOptions};

use crate::chance::Chance;
use crate::http;
use crate::ledger::{Fate, SharedLedger};
use crate::load::{Load, TOPICS, WORKERS};
use crate::server::{Server, Setup, place};
use crate::wait::{for_the, until};

/// Partitions that the checks expect.
const PARTITIONS: u16 = 4;
/// Acknowledged ids that are published again after each restart.
const SAMPLE: u64 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    let rounds = std::env::var("CHRONOSDB_KILL_ROUNDS").ok();
    let rounds = rounds.map_or(10, |text| text.parse().expect("a number of rounds"));
    let mut chance = Chance::from_environment("CHRONOSDB_KILL_SEED");
    let place = place();
    let setup = Setup::new(&place.path().join("data"))
        .with("--partitions", PARTITIONS)
        .with("--segment-size", "32MiB")
        .with("--max-retries", 1_000);
    let ledger = SharedLedger::new();
    for round in 0..rounds {
        let server = serve(&setup, &mut chance);
        let resolved = check_restart(&server, &ledger, &mut chance).await;
        let load = Load::start(&server, round, &ledger, &mut chance).await;
        // At a moment that only chance knows: early ones too.
        let progress = if chance.one_in(4) { chance.below(100) } else { chance.below(6_000) };
        for_the("progress of the load", ledger.progressed(progress)).await;
        server.kill();
        load.stop().await;
        let events = ledger.lock().events.len();
        println!("round {round}: {resolved} fates resolved, killed after {events} events");
    }
    let server = serve(&setup, &mut chance);
    check_restart(&server, &ledger, &mut chance).await;
    check_all(&server, &ledger, &mut chance).await;
    server.stop();
}

/// A server on the directory, with any number of shards; perhaps after one that was killed while
/// it recovered.
fn serve(setup: &Setup, chance: &mut Chance) -> Server {
    let setup = setup.clone().with("--shards", 1 + chance.below(3));
    if chance.one_in(3) {
        let time = Duration::from_micros(chance.below(300_000));
        if let Some(quick) = setup.start_or_kill(time) {
            return quick;
        }
    }
    setup.start()
}

/// What has to hold right after a restart. Returns how many fates were not known.
pub async fn check_restart(server: &Server, ledger: &SharedLedger, chance: &mut Chance) -> usize {
    let (stored, unresolved) = {
        let ledger = ledger.lock();
        let unknown = ledger.events.values().filter(|known| known.fate == Fate::Unknown).count();
        let unresolved = ledger.unresolved();
        let stored = ledger.events.len() - unresolved.len();
        assert!(server.recovered() >= stored as u64, "{} of {stored}", server.recovered());
        assert!(server.recovered() <= (stored + unknown) as u64, "{}", server.recovered());
        (stored, unresolved)
    };
    let client = server.client().await;
    let resolved = unresolved.len();
    publish_again(&client, ledger, unresolved.clone()).await;
    publish_again(&client, ledger, unresolved).await;
    let mut sample = Vec::new();
    if stored > 0 {
        let ledger = ledger.lock();
        let events: Vec<_> = ledger.events.values().map(|known| &known.event).collect();
        for _ in 0..SAMPLE {
            let event = events[chance.below(events.len() as u64) as usize].clone();
            // Whatever the second publish says, the first one stands.
            sample.push(if chance.one_in(2) {
                event.at_ms(time::wall_ms() + 60_000)
            } else {
                event
            });
        }
        sample.sort_unstable_by(|a, b| a.message_id.cmp(&b.message_id));
        sample.dedup_by(|a, b| a.message_id == b.message_id);
    }
    check_duplicates(&client, ledger, sample).await;
    check_dense(&client, ledger).await;
    let topic = TOPICS[chance.below(TOPICS.len() as u64) as usize];
    check_replay(&client, ledger, topic, chance.below(PARTITIONS.into()) as u16).await;
    resolved
}

/// Publishes events again; the ledger judges the answers.
async fn publish_again(client: &Client, ledger: &SharedLedger, events: Vec<Event>) {
    let ids: Vec<_> = events.iter().map(|event| event.message_id.clone()).collect();
    let results = for_the("answers", client.publish_batch(events)).await;
    let mut ledger = ledger.lock();
    ids.iter().zip(&results).for_each(|(id, result)| ledger.answered_again(id, result));
}

/// Publishes stored ids again, perhaps with another time: the answer is the original's place.
async fn check_duplicates(client: &Client, ledger: &SharedLedger, events: Vec<Event>) {
    let ids: Vec<_> = events.iter().map(|event| event.message_id.clone()).collect();
    let results = for_the("answers", client.publish_batch(events)).await;
    let ledger = ledger.lock();
    for (id, result) in ids.iter().zip(results) {
        let again = result.unwrap_or_else(|error| panic!("{id} again: {error}"));
        let Fate::Stored(first) = ledger.events[id].fate else { panic!("{id} is resolved") };
        assert!(again.duplicate, "{id} is stored twice: {first:?} and {again:?}");
        let original = (first.partition, first.offset, first.schedule_ts);
        assert_eq!((again.partition, again.offset, again.schedule_ts), original, "{id}");
    }
}

/// Each partition holds exactly the stored events, at offsets from 0 without a gap.
async fn check_dense(client: &Client, ledger: &SharedLedger) {
    let partitions = client.partitions().await.expect("it serves");
    assert_eq!(partitions.len(), usize::from(PARTITIONS));
    let ledger = ledger.lock();
    for partition in partitions {
        let offsets: Vec<u64> = ledger
            .stored_in(partition.partition_id as u16)
            .into_iter()
            .map(|(offset, _)| offset)
            .collect();
        let dense: Vec<u64> = (0..partition.high_watermark as u64).collect();
        assert!(offsets == dense, "{partition:?} has gaps or more than was published");
        assert!(!partition.read_only, "{partition:?}");
    }
}

/// Replay by offset returns every event of the topic in the partition that is due, in order.
async fn check_replay(client: &Client, ledger: &SharedLedger, topic: &str, partition: u16) {
    let before = time::wall_ms();
    let options = ReplayOptions {
        partitions: vec![PartitionId(partition)],
        range: ReplayRange::Offsets { start: Offset(0), count: u64::from(u32::MAX) },
        ..ReplayOptions::new(topic)
    };
    let mut replay = client.replay(options).await.expect("it serves");
    let mut came = Vec::new();
    while let Some(event) = for_the("next event of a replay", replay.next()).await {
        let event = event.expect("a replay").event;
        ledger.lock().came_back(&event);
        came.push(event.offset as u64);
    }
    assert!(came.is_sorted_by(|a, b| a < b), "in order of offsets");
    let ledger = ledger.lock();
    let due = ledger.stored_in(partition).into_iter().filter(|(_, known)| {
        let Fate::Stored(placed) = known.fate else { return false };
        known.event.topic == topic && placed.schedule_ts <= before
    });
    for (offset, known) in due {
        let found = came.binary_search(&offset).is_ok();
        assert!(found, "{} is not replayed at {offset}", known.event.message_id);
    }
}

/// What has to hold at the end of all rounds.
pub async fn check_all(server: &Server, ledger: &SharedLedger, chance: &mut Chance) {
    until("the last event to be due", || {
        (time::wall_ms() > ledger.lock().last_due()).then_some(())
    });
    let client = server.client().await;
    for topic in TOPICS {
        for partition in 0..PARTITIONS {
            check_replay(&client, ledger, topic, partition).await;
        }
    }
    // The workers settle what they have not settled, and then none is left without an ack.
    let load = Load::drain(server, ledger, chance).await;
    let group = format!("{{group=\"{WORKERS}\"");
    until("the workers to settle all", || {
        let page = http::get(server.http, "/metrics").text;
        let own = |line: &&str| line.starts_with(&format!("cronos_consumer_group_lag{group}"));
        let lags: Vec<u64> = page
            .lines()
            .filter(own)
            .map(|line| line.rsplit(' ').next().expect("a value").parse().expect("a number"))
            .collect();
        (!lags.is_empty() && lags.iter().all(|lag| *lag == 0)).then_some(())
    });
    load.stop().await;
    for (id, known) in &ledger.lock().events {
        assert!(known.ack_sent, "{id} is settled and was never acknowledged: {:?}", known.fate);
    }
    for topic in TOPICS {
        audit(&client, ledger, topic).await;
    }
}

/// A new group that reads from the beginning gets each event once, in order, and nothing else. A
/// last event in each partition tells that all before it has come.
async fn audit(client: &Client, ledger: &SharedLedger, topic: &str) {
    let key = |partition: u16| {
        let routed = |n: &u32| partition_of(format!("k{n}").as_bytes(), PARTITIONS).0 == partition;
        format!("k{}", (0..10_000).find(routed).expect("every partition has a key"))
    };
    for partition in 0..PARTITIONS {
        let last = Event::new(topic, format!("last-{topic}-{partition}"), "last");
        let last = last.at_ms(time::wall_ms()).with_key(key(partition));
        assert_eq!(client.publish(last).await.expect("stored").partition.0, partition);
    }
    let mut expected: BTreeSet<String> = {
        let ledger = ledger.lock();
        let of_topic = ledger.events.values().filter(|known| known.event.topic == topic);
        of_topic.map(|known| known.event.message_id.clone()).collect()
    };
    let count = expected.len();
    let options = SubscribeOptions::new(topic, format!("auditors-{topic}"));
    let mut subscription = client.subscribe(options).await.expect("it serves");
    let mut place = [(0, -1); PARTITIONS as usize];
    let mut open = usize::from(PARTITIONS);
    while open > 0 {
        let next = for_the("next delivery to an auditor", subscription.next()).await;
        let delivery = next.expect("endless").expect("a delivery");
        let event = &delivery.event;
        assert_eq!(delivery.attempt, 1);
        let here = (event.schedule_ts.max(event.created_ts), event.offset);
        let before = std::mem::replace(&mut place[event.partition_id as usize], here);
        assert!(before < here, "{before:?} before {here:?} in {}", event.partition_id);
        if event.message_id.starts_with("last-") {
            open -= 1;
        } else {
            ledger.lock().came_back(event);
            assert!(expected.remove(&event.message_id), "{} twice", event.message_id);
        }
        subscription.ack_later(&delivery).await.expect("queued");
    }
    assert!(expected.is_empty(), "of {count} events not delivered: {expected:?}");
    let summary = for_the("confirmations", subscription.settled()).await;
    assert_eq!(summary.failed, 0, "{:?}", summary.error);
}
