//! What is due far ahead leaves the memory, and comes back in time, in order, after restarts too.

use chronosdb::base::time;
use chronosdb::client::{Client, Event, SubscribeOptions};

use crate::http;
use crate::server::{Server, Setup, place};
use crate::wait::{for_the, until};

/// Events that are published.
pub const EVENTS: u64 = 4_000;
const AHEAD_MS: u64 = 6_000;

/// A metric of the server, summed over its labels.
pub fn metric(server: &Server, name: &str) -> u64 {
    http::get(server.http, "/metrics").sum(name) as u64
}

/// Publishes events that are due from `first_due` on, one a ms but in no order.
pub async fn publish(client: &Client, first_due: u64) {
    for chunk in (0..EVENTS).collect::<Vec<_>>().chunks(1_000) {
        let event = |n: &u64| {
            let due = first_due + n * 7_919 % EVENTS / 4;
            Event::new("far", format!("far-{n}"), vec![b'x'; 1_000]).at_ms(due)
        };
        let results = client.publish_batch(chunk.iter().map(event).collect()).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
}

/// All events come once, none early, in the order of their time.
pub async fn consume(client: &Client, group: &str) {
    let mut subscription =
        client.subscribe(SubscribeOptions::new("far", group)).await.expect("it serves");
    let mut last = 0;
    let mut seen = vec![false; EVENTS as usize];
    for _ in 0..EVENTS {
        let next = for_the("next delivery", subscription.next()).await;
        let delivery = next.expect("endless").expect("a delivery");
        let due = delivery.event.schedule_ts as u64;
        assert!(due <= time::wall_ms() && due >= last, "{due} behind {last}");
        last = due;
        let number = delivery.event.message_id.strip_prefix("far-").expect("ours");
        let seen = &mut seen[number.parse::<usize>().expect("a number")];
        assert!(!std::mem::replace(seen, true), "{number} comes once");
        subscription.ack(&delivery).await.expect("confirmed");
    }
}

/// The partition's files with this ending.
fn files(setup: &Setup, ending: &str) -> Vec<std::path::PathBuf> {
    let directory = setup.data().join("p-00000");
    let entries = std::fs::read_dir(directory).expect("a partition");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|found| found == ending)).collect()
}

#[tokio::test]
async fn far_events_leave_the_memory_and_come_back_in_order() {
    let place = place();
    let setup = Setup::new(&place.path().join("data"))
        .with("--partitions", 1)
        .with("--shards", 1)
        .with("--horizon", "1s")
        .with("--flush-size", "1MiB");
    let server = setup.start();
    let client = server.client().await;
    publish(&client, time::wall_ms() + AHEAD_MS).await;
    until("most events are on disk only", || {
        let on_disk = metric(&server, "cronos_scheduler_cold_store_entries");
        (on_disk > EVENTS / 2).then_some(())
    });
    assert_eq!(metric(&server, "cronos_scheduler_active_timers"), EVENTS);
    consume(&client, "live").await;
    assert_eq!(metric(&server, "cronos_scheduler_cold_store_entries"), 0);
    assert!(metric(&server, "cronos_events_loaded_total") > EVENTS / 2);
    server.stop();

    // A start goes on from a checkpoint, and a late group reads all of it.
    let checkpoints = files(&setup, "checkpoint");
    assert!(!checkpoints.is_empty() && checkpoints.len() <= 2, "{checkpoints:?}");
    let server = setup.start();
    consume(&server.client().await, "late").await;
    server.stop();

    // What is derived may be lost or damaged: then the whole log is read.
    for path in files(&setup, "checkpoint") {
        std::fs::write(path, "damaged").expect("writable");
    }
    for path in files(&setup, "run").into_iter().take(1) {
        std::fs::remove_file(path).expect("there");
    }
    let server = setup.start();
    consume(&server.client().await, "later").await;
    server.stop();
}
