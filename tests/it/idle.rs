//! A server with nothing to do does nothing: its shards turn for what happens, not for time.
//!
//! How much of a core that takes is for the bench to say; here turns are counted.

use chronosdb::client::{Event, SubscribeOptions};

use crate::http;
use crate::raw::Raw;
use crate::server::{Setup, place};
use crate::wait::for_the;

/// Turns of a shard per second of its time that are no polling: its sweeps and alarms take 8, and
/// one that woke for every tick would take 1,000.
const TURNS_PER_S: f64 = 100.0;

#[tokio::test]
async fn pending_events_and_idle_clients_cost_no_turns() {
    let place = place();
    let server = Setup::new(&place.path().join("data")).start();
    let client = server.client().await;
    let year = 365 * 86_400_000;
    for batch in 0..10 {
        let events = (0..2_000)
            .map(|n| Event::new("far", format!("{batch}-{n}"), "x").after_ms(year + n * 1_000));
        assert!(client.publish_batch(events.collect()).await.iter().all(Result::is_ok));
    }
    let _idle: Vec<_> = (0..100).map(|_| Raw::greeted(server.native)).collect();
    let _waits = client.subscribe(SubscribeOptions::new("far", "g")).await.expect("it serves");
    let mut soon = client.subscribe(SubscribeOptions::new("soon", "g")).await.expect("it serves");
    let turns = || {
        let page = http::get(server.http, "/metrics");
        (page.sum("cronos_shard_turns_total"), page.sum("cronos_shard_uptime_ms"))
    };
    client.publish(Event::new("soon", "m", "x").after_ms(3_000)).await.expect("stored");
    let (before, from) = turns();
    // The only thing that happens meanwhile.
    let delivery = for_the("delivery", soon.next()).await.expect("endless").expect("a delivery");
    let (after, to) = turns();
    soon.ack(&delivery).await.expect("confirmed");
    let rate = (after - before) / ((to - from) / 1_000.0);
    println!("{} turns in {} ms of both shards", after - before, to - from);
    assert!(rate < TURNS_PER_S, "{rate} turns/s");
    server.stop();
}
