//! Groups and their members: credit, sharing, attempts, dead letters, verdicts from anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chronosdb::base::ids::PartitionId;
use chronosdb::base::route::partition_of;
use chronosdb::base::time;
use chronosdb::client::{Client, ClientError, Delivery, Event, SubscribeOptions, Subscription};

use crate::http;
use crate::server::{Server, Setup, place};
use crate::wait::{for_the, until};

async fn next(subscription: &mut Subscription) -> Delivery {
    let next = for_the("next delivery", subscription.next()).await;
    next.expect("endless").expect("a delivery")
}

async fn publish(client: &Client, events: impl Iterator<Item = Event>) {
    let results = client.publish_batch(events.collect()).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

fn metric(server: &Server, name: &str) -> u64 {
    http::get(server.http, "/metrics").sum(name) as u64
}

/// A key that goes to this partition.
fn key(partition: u16, partitions: u16) -> String {
    let goes = |n: &u32| partition_of(format!("k{n}").as_bytes(), partitions).0 == partition;
    format!("k{}", (0..10_000).find(goes).expect("every partition has a key"))
}

#[tokio::test]
async fn credit_1_over_16_partitions_is_one_in_flight_and_starves_none() {
    const PARTITIONS: u16 = 16;
    let place = place();
    let setup = Setup::new(&place.path().join("data")).with("--partitions", PARTITIONS);
    let server = setup.start();
    let client = server.client().await;
    let now = time::wall_ms();
    // A crowd in one partition, a few in all the others, all of one time.
    let crowd = (0..200).map(|n| Event::new("t", format!("crowd-{n}"), "x").with_key(key(0, 16)));
    publish(&client, crowd.map(|event| event.at_ms(now))).await;
    let others = (1..PARTITIONS).flat_map(|partition| {
        (0..3).map(move |n| {
            let event = Event::new("t", format!("p{partition}-{n}"), "x");
            event.with_key(key(partition, PARTITIONS)).at_ms(now)
        })
    });
    publish(&client, others).await;
    let options = SubscribeOptions { credit: 1, ..SubscribeOptions::new("t", "g") };
    let mut subscription = client.subscribe(options).await.expect("it serves");
    let mut seen: BTreeMap<u16, u32> = BTreeMap::new();
    let mut fed = 0;
    for n in 0..200 + 3 * 15 {
        let delivery = next(&mut subscription).await;
        *seen.entry(delivery.partition().0).or_default() += 1;
        if n % 20 == 0 {
            assert_eq!(metric(&server, "cronos_deliveries_in_flight"), 1);
        }
        // The crowd never gets smaller while others wait.
        if delivery.partition().0 == 0 && seen.len() < 16 {
            fed += 1;
            let event = Event::new("t", format!("fed-{fed}"), "x").with_key(key(0, PARTITIONS));
            client.publish(event).await.expect("stored");
        }
        subscription.ack(&delivery).await.expect("confirmed");
    }
    for _ in 0..fed {
        let delivery = next(&mut subscription).await;
        subscription.ack(&delivery).await.expect("confirmed");
    }
    assert_eq!(seen.len(), 16, "none is starved: {seen:?}");
    assert_eq!(metric(&server, "cronos_acks_total"), 200 + 3 * 15 + fed);
    assert_eq!(metric(&server, "cronos_redeliveries_total"), 0);
    server.stop();
}

#[tokio::test]
async fn members_share_a_partition_and_each_event_goes_to_one() {
    let place = place();
    let setup = Setup::new(&place.path().join("data")).with("--max-retries", 0);
    let server = setup.start();
    let client = server.client().await;
    let events = (0..200).map(|n| Event::new("t", format!("m{n}"), "x").with_key(key(2, 4)));
    publish(&client, events).await;
    let options = |credit| SubscribeOptions {
        credit,
        // Two members of one name are two members.
        member: "twin".to_owned(),
        partitions: vec![PartitionId(2)],
        ..SubscribeOptions::new("t", "g")
    };
    let mut slow = client.subscribe(options(5)).await.expect("it serves");
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(next(&mut slow).await);
    }
    let other = server.client().await;
    let mut quick = other.subscribe(options(10)).await.expect("it serves");
    let mut ids: BTreeSet<_> = held.iter().map(|d| d.event.message_id.clone()).collect();
    for _ in 0..195 {
        let delivery = next(&mut quick).await;
        assert!(ids.insert(delivery.event.message_id.clone()), "to one member only");
        quick.ack(&delivery).await.expect("confirmed");
    }
    // Who dies gives back what it holds. It is another delivery, and no failure: none is allowed.
    drop((slow, client));
    for _ in 0..5 {
        let delivery = next(&mut quick).await;
        assert!(held.iter().any(|h| h.event.message_id == delivery.event.message_id));
        assert_eq!(delivery.attempt, 2);
        quick.ack(&delivery).await.expect("confirmed");
    }
    assert_eq!(ids.len(), 200);
    assert_eq!(metric(&server, "cronos_dead_letters_total"), 0);
    server.stop();
}

#[tokio::test]
async fn after_the_last_retry_it_is_a_dead_letter() {
    let place = place();
    let setup = Setup::new(&place.path().join("data"))
        .with("--max-retries", 2)
        .with("--retry-backoff", "5ms")
        .with("--ack-timeout", "300ms");
    let server = setup.start();
    let client = server.client().await;
    publish(&client, ["nacked", "ignored"].map(|id| Event::new("t", id, "x")).into_iter()).await;
    let mut subscription =
        client.subscribe(SubscribeOptions::new("t", "g")).await.expect("it serves");
    let mut attempts: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for _ in 0..6 {
        let delivery = next(&mut subscription).await;
        let id = delivery.event.message_id.clone();
        if id == "nacked" {
            subscription.nack(&delivery, None, "it is bad").await.expect("recorded");
        }
        attempts.entry(id).or_default().push(delivery.attempt);
    }
    until("both to be dead letters", || {
        (metric(&server, "cronos_dead_letters_total") == 2).then_some(())
    });
    assert_eq!(attempts["nacked"], [1, 2, 3]);
    assert_eq!(attempts["ignored"], [1, 2, 3]);
    assert_eq!(metric(&server, "cronos_consumer_group_lag"), 0, "they are settled");
    assert_eq!(metric(&server, "cronos_deliveries_in_flight"), 0);
    server.kill();
    // Dead for good: what comes next is what was published next.
    let server = setup.start();
    let client = server.client().await;
    let mut subscription =
        client.subscribe(SubscribeOptions::new("t", "g")).await.expect("it serves");
    for partition in 0..4 {
        let event = Event::new("t", format!("after-{partition}"), "x").with_key(key(partition, 4));
        client.publish(event).await.expect("stored");
    }
    for _ in 0..4 {
        let delivery = next(&mut subscription).await;
        assert!(delivery.event.message_id.starts_with("after"), "{delivery:?}");
    }
    server.stop();
}

#[tokio::test]
async fn verdicts_come_from_anywhere_and_are_judged_by_the_id() {
    let place = place();
    let setup = Setup::new(&place.path().join("data")).with("--retry-backoff", "1ms");
    let server = setup.start();
    let client = server.client().await;
    let other = server.client().await;
    publish(&client, (0..8).map(|n| Event::new("t", format!("m{n}"), "x"))).await;
    let mut subscription =
        client.subscribe(SubscribeOptions::new("t", "g")).await.expect("it serves");
    let mut first = Vec::new();
    for _ in 0..8 {
        first.push(next(&mut subscription).await);
    }
    // From another connection, twice: the second changes nothing and is no failure.
    other.ack(&first[0]).await.expect("confirmed");
    client.ack(&first[0]).await.expect("settled before");
    let refused = client.nack(&first[0], None, "too late").await;
    assert!(matches!(refused, Err(ClientError::Refused(_))), "{refused:?}");
    // A nack makes the next attempt; an ack of the first one settles it all the same.
    other.nack(&first[1], Some(Duration::ZERO), "again").await.expect("recorded");
    let again = next(&mut subscription).await;
    assert_eq!((again.attempt, &again.event), (2, &first[1].event));
    let old = client.nack(&first[1], None, "of an attempt that is over").await;
    assert!(matches!(old, Err(ClientError::Refused(_))), "{old:?}");
    other.ack(&first[1]).await.expect("any attempt settles the event");
    client.ack(&again).await.expect("settled before");
    // Ids that are none.
    for id in ["", "x", "g:0:1", "g:99:1-2-3-4-5", "g:0:1-2-3-4-99", &"9".repeat(5_000)] {
        let forged = Delivery { delivery_id: id.to_owned(), ..first[2].clone() };
        let refused = client.ack(&forged).await;
        assert!(matches!(refused, Err(ClientError::Refused(_))), "{id:.20}: {refused:?}");
    }
    // Another group's name on a good id.
    let forged = first[2].delivery_id.replacen("g:", "h:", 1);
    let forged = Delivery { delivery_id: forged, ..first[2].clone() };
    assert!(client.ack(&forged).await.is_err());
    for delivery in &first[2..] {
        client.ack(delivery).await.expect("confirmed");
    }
    assert_eq!(metric(&server, "cronos_consumer_group_lag"), 0);
    server.stop();
}

#[tokio::test]
async fn a_lease_that_is_extended_does_not_end() {
    let place = place();
    let setup = Setup::new(&place.path().join("data"))
        .with("--ack-timeout", "400ms")
        .with("--retry-backoff", "1ms");
    let server = setup.start();
    let client = server.client().await;
    publish(&client, (0..2).map(|n| Event::new("t", format!("m{n}"), "x"))).await;
    let mut subscription =
        client.subscribe(SubscribeOptions::new("t", "g")).await.expect("it serves");
    let (kept, left) = (next(&mut subscription).await, next(&mut subscription).await);
    client.extend(&kept, Duration::from_mins(10)).await.expect("extended");
    // The other one's lease ends, twice; the extended one does not come.
    for attempt in [2, 3] {
        let again = next(&mut subscription).await;
        assert_eq!((again.attempt, &again.event), (attempt, &left.event));
    }
    client.ack(&kept).await.expect("confirmed");
    server.stop();
}
