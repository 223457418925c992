//! What a server finds again: overdue events, deliveries in flight, with other shards, anywhere.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use chronosdb::base::time;
use chronosdb::client::{Client, Delivery, Event, SubscribeOptions};

use crate::server::{Setup, place};
use crate::wait::{for_the, until};

/// Takes deliveries until there are so many.
async fn deliveries(client: &Client, options: SubscribeOptions, count: usize) -> Vec<Delivery> {
    let mut subscription = client.subscribe(options).await.expect("it serves");
    let mut came = Vec::new();
    while came.len() < count {
        let next = for_the("next delivery", subscription.next()).await;
        came.push(next.expect("endless").expect("a delivery"));
    }
    came
}

#[tokio::test]
async fn overdue_events_come_at_once_in_their_order() {
    let place = place();
    let setup = Setup::new(&place.path().join("data"));
    let server = setup.start();
    let client = server.client().await;
    let now = time::wall_ms();
    // Not in the order of their times; some of one time.
    let due = |n: u64| now + 500 + (n * 7919 % 400);
    let events = (0..1_000).map(|n| Event::new("t", format!("m{n}"), "x").at_ms(due(n)));
    assert!(client.publish_batch(events.collect()).await.iter().all(Result::is_ok));
    server.kill();
    until("all to be overdue", || (time::wall_ms() > now + 1_000).then_some(()));
    let server = setup.start();
    assert_eq!(server.recovered(), 1_000);
    let client = server.client().await;
    let came = deliveries(&client, SubscribeOptions::new("t", "g"), 1_000).await;
    let mut last = BTreeMap::new();
    for delivery in &came {
        let event = &delivery.event;
        let here = (event.schedule_ts.max(event.created_ts), event.offset);
        let before = last.insert(event.partition_id, here);
        assert!(before.is_none_or(|before| before < here), "{before:?} {here:?}");
        assert_eq!(delivery.attempt, 1);
    }
    assert_eq!(last.len(), 4, "of all partitions");
    server.stop();
}

#[tokio::test]
async fn deliveries_in_flight_come_again_and_count_no_attempt() {
    let place = place();
    let setup = Setup::new(&place.path().join("data"));
    let mut server = setup.start();
    let client = server.client().await;
    let events = (0..100).map(|n| Event::new("t", format!("m{n}"), "x"));
    assert!(client.publish_batch(events.collect()).await.iter().all(Result::is_ok));
    let mut open: Vec<String> = (0..100).map(|n| format!("m{n}")).collect();
    open.sort_unstable();
    for round in 0..3 {
        let client = server.client().await;
        let came = deliveries(&client, SubscribeOptions::new("t", "g"), open.len()).await;
        let mut ids: Vec<_> = came.iter().map(|d| d.event.message_id.clone()).collect();
        ids.sort_unstable();
        assert_eq!(ids, open, "round {round}: exactly those without a confirmed ack");
        assert!(came.iter().all(|delivery| delivery.attempt == 1), "round {round}");
        // The first third is acknowledged; a delivery of the life before may be, too.
        for delivery in came.iter().filter(|d| d.event.message_id.ends_with(['1', '4', '7'])) {
            client.ack(delivery).await.expect("confirmed");
            open.retain(|id| *id != delivery.event.message_id);
        }
        server.kill();
        server = setup.start();
        if let Some(delivery) = came.iter().find(|d| open.contains(&d.event.message_id)) {
            let client = server.client().await;
            client.ack(delivery).await.expect("an id of an earlier term is good");
            open.retain(|id| *id != delivery.event.message_id);
        }
    }
    server.stop();
}

#[tokio::test]
async fn the_number_of_shards_may_change() {
    let place = place();
    let setup = Setup::new(&place.path().join("data"));
    let mut stored = 0;
    for shards in [1, 3, 2, 4, 1] {
        let server = setup.clone().with("--shards", shards).start();
        assert_eq!(server.recovered(), stored);
        let client = server.client().await;
        assert_eq!(client.topology().shards(), shards);
        let stem = format!("s{shards}-{stored}");
        let events = (0..100).map(|n| Event::new("t", format!("{stem}-{n}"), "x"));
        assert!(client.publish_batch(events.collect()).await.iter().all(Result::is_ok));
        stored += 100;
        let group = format!("g{stored}");
        deliveries(&client, SubscribeOptions::new("t", group), stored as usize).await;
        server.stop();
    }
}

/// Bytes on the disk below a directory.
fn disk_usage(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).expect("readable");
    let sizes = entries.map(|entry| {
        let entry = entry.expect("readable");
        let about = entry.metadata().expect("there");
        if about.is_dir() { disk_usage(&entry.path()) } else { about.blocks() * 512 }
    });
    sizes.sum()
}

#[tokio::test]
async fn a_fresh_relative_directory_is_small_and_everything_is_said() {
    let place = place();
    let mut command = Setup::new(Path::new("some/data")).with("--partitions", 16).command();
    command.current_dir(place.path());
    let server = crate::server::serving(command);
    let client = server.client().await;
    client.publish(Event::new("t", "m", "x")).await.expect("stored");
    let used = disk_usage(&place.path().join("some/data"));
    assert!(used < 64 << 20, "{used} bytes on the disk");
    let printed = server.printed();
    for part in ["it-node", "2 on ", "partitions  16", "some/data", "0 events"] {
        assert!(printed.contains(part), "{part:?} is not in\n{printed}");
    }
    server.stop();
}
