//! What has to hold of a node that came up on a disk whose power failed, for all that is known.
//!
//! It is asked everything that a client can ask: its partitions, a replay of all topics, a second
//! publish of every id, and all deliveries to the group of workers. A broken promise is a panic.

use std::collections::{BTreeMap, BTreeSet};

use chronosdb::base::ids::Offset;
use chronosdb::base::time;
use chronosdb::client::{
    Client, Event, PartitionInfo, Published, ReplayOptions, ReplayRange, SubscribeOptions,
};

use crate::ledger::{Known, Ledger, Place, place_of};
use crate::load::{PARTITIONS, TOPICS, WORKERS};
use crate::server::Server;
use crate::wait::for_the;

/// Far enough ahead that nothing of it is delivered within a check.
const FAR_MS: u64 = 24 * 3_600_000;

/// Checks a node against what is known.
pub async fn check(server: &Server, known: &Ledger) {
    let client = server.client().await;
    let partitions = check_sound(server).await;
    let due_before = time::wall_ms();
    let replayed = replay_all(&client, known).await;
    let present = publish_again(&client, known).await;
    check_dense(&partitions, &present);
    for (id, place) in &replayed {
        assert_eq!(present.get(id), Some(place), "{id} is replayed from a place it has not");
    }
    for (id, place) in &present {
        let missing = place.schedule_ts <= due_before && !replayed.contains_key(id);
        assert!(!missing, "{id} is at {place:?}, and is not replayed");
    }
    for topic in TOPICS {
        check_workers(&client, known, &present, topic, due_before).await;
    }
}

/// It has found no damage, since there is none.
pub async fn check_sound(server: &Server) -> Vec<PartitionInfo> {
    let partitions = server.client().await.partitions().await.expect("it serves");
    assert_eq!(partitions.len(), usize::from(PARTITIONS));
    let log = server.log();
    for partition in &partitions {
        assert!(!partition.read_only, "rot is found where there is none: {partition:?} {log}");
    }
    let complaint = log.lines().find(|line| line.contains("ERROR") || line.contains("panicked"));
    assert!(complaint.is_none(), "it complains: {complaint:?}");
    partitions
}

/// Every event that is due, from everywhere; each is known, as it was sent, and there once.
pub async fn replay_all(client: &Client, known: &Ledger) -> BTreeMap<String, Place> {
    let mut came = BTreeMap::new();
    for topic in TOPICS {
        let range = ReplayRange::Offsets { start: Offset(0), count: u64::from(u32::MAX) };
        let options = ReplayOptions { range, ..ReplayOptions::new(topic) };
        let mut replay = client.replay(options).await.expect("it serves");
        let mut last = None;
        while let Some(next) = for_the("next event of a replay", replay.next()).await {
            let event = next.expect("a replay").event;
            let place = place_of(&event);
            find(known, &event).judge(&event);
            let here = Some((place.partition, place.offset));
            assert!(last < here, "{} is replayed out of order: {place:?}", event.message_id);
            last = here;
            let twice = came.insert(event.message_id.clone(), place);
            assert!(
                twice.is_none(),
                "{} is there twice: {twice:?} and {place:?}",
                event.message_id
            );
        }
    }
    came
}

fn find<'a>(known: &'a Ledger, event: &Event) -> &'a Known {
    let id = &event.message_id;
    known.events.get(id).unwrap_or_else(|| panic!("{id} is here and had not been published"))
}

/// Publishes every id again. A stored one must answer with its place; one of doubt says whether it
/// is there. Returns what is.
async fn publish_again(client: &Client, known: &Ledger) -> BTreeMap<String, Place> {
    let due = time::wall_ms() + FAR_MS;
    // The first publish stands, whatever the second one says.
    let again = |known: &Known| Event { payload: "again".into(), ..known.event() }.at_ms(due);
    let events: Vec<_> = known.events.values().map(again).collect();
    let results: Vec<Published> = for_the("answers", client.publish_batch(events))
        .await
        .into_iter()
        .map(|result| result.unwrap_or_else(|error| panic!("a second publish: {error}")))
        .collect();
    let mut present = BTreeMap::new();
    for (known, answer) in known.events.values().zip(results) {
        if let Some((_, place)) = known.stored {
            let id = &known.id;
            assert!(answer.duplicate, "{id} was stored at {place:?}, and is gone");
            assert_eq!(Place::from(answer), place, "{id} has moved");
        }
        if answer.duplicate {
            assert!(!known.refused, "{} was refused, and is there", known.id);
            present.insert(known.id.clone(), answer.into());
        }
    }
    present
}

/// Each partition holds the present events at offsets from 0 without a gap, and nothing else.
fn check_dense(partitions: &[PartitionInfo], present: &BTreeMap<String, Place>) {
    for partition in partitions {
        let number = partition.partition_id as u16;
        let own = present.values().filter(|place| place.partition == number);
        let mut offsets: Vec<u64> = own.map(|place| place.offset).collect();
        offsets.sort_unstable();
        let dense: Vec<u64> = (0..partition.high_watermark as u64).collect();
        assert!(offsets == dense, "gaps, or more than was published: {partition:?} {offsets:?}");
    }
}

/// The group gets everything that is due and not acknowledged, and nothing whose ack was confirmed.
async fn check_workers(
    client: &Client,
    known: &Ledger,
    present: &BTreeMap<String, Place>,
    topic: &str,
    due_before: u64,
) {
    // A last one, so that there is always something to wait for.
    let last = Event::new(topic, format!("last-{topic}"), "last").at_ms(time::wall_ms());
    let last_id = last.message_id.clone();
    client.publish(last).await.expect("stored");
    let due = |known: &&Known| {
        known.topic == topic
            && known.ack_sent.is_none()
            && present.get(&known.id).is_some_and(|place| place.schedule_ts <= due_before)
    };
    let due = known.events.values().filter(due).map(|known| known.id.clone());
    let mut expected: BTreeSet<String> = due.chain([last_id.clone()]).collect();
    let mut seen = BTreeSet::new();
    let options = SubscribeOptions { credit: 5_000, ..SubscribeOptions::new(topic, WORKERS) };
    let mut subscription = client.subscribe(options).await.expect("it serves");
    while !expected.is_empty() {
        let next = for_the("next delivery to the workers", subscription.next()).await;
        let delivery = next.expect("endless").expect("a delivery");
        let (event, id) = (&delivery.event, &delivery.event.message_id);
        if *id != last_id {
            let known = find(known, event);
            known.judge(event);
            assert!(known.acked.is_none(), "{id} comes again after its ack was confirmed");
            assert_eq!(present.get(id), Some(&place_of(event)), "{id} is delivered");
        }
        assert!(seen.insert(id.clone()), "{id} is delivered twice");
        expected.remove(id);
        subscription.ack_later(&delivery).await.expect("queued");
    }
    let summary = for_the("confirmations", subscription.settled()).await;
    assert_eq!(summary.failed, 0, "{:?}", summary.error);
}
