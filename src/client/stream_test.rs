//! Subscriptions, acks and replays of the client against a fake server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use prost::Message;

use super::fake_server::{FakeServer, Reaction, Seen, framed, patiently};
use super::*;
use crate::base::ids::Offset;
use crate::wire::events;

fn delivery(number: i64, partition: i32) -> events::Delivery {
    let event = Event {
        message_id: format!("id-{number}"),
        offset: number,
        partition_id: partition,
        ..Event::default()
    };
    events::Delivery {
        event: Some(event),
        delivery_id: format!("group:{partition}:{number}"),
        attempt: 1,
        ack_timeout_ms: 30_000,
        ..events::Delivery::default()
    }
}

fn deliveries(seen: &Seen, deliveries: Vec<events::Delivery>) -> BytesMut {
    let message = native::Deliveries { deliveries };
    framed(FrameKind::Deliveries, seen.frame.correlation, &message)
}

/// A node that delivers `count` events, spread over four partitions, to each subscription.
async fn delivering(count: i64) -> FakeServer {
    FakeServer::start(2, 4, move |seen| {
        (seen.frame.kind == FrameKind::Subscribe).then(|| {
            let all = (0..count).map(|number| delivery(number, (number % 4) as i32)).collect();
            // Before `Subscribed`, as the protocol allows.
            let mut out = deliveries(seen, all);
            let subscribed = native::CloseStream::default();
            out.unsplit(framed(FrameKind::Subscribed, seen.frame.correlation, &subscribed));
            Reaction::Send(out)
        })
    })
    .await
}

async fn subscribe(server: &FakeServer) -> Subscription {
    let client = Client::connect(&server.addr).await.expect("the server is there");
    client.subscribe(SubscribeOptions::new("orders", "group")).await.expect("it opens")
}

fn verdicts(seen: &Seen) -> Vec<events::AckRequest> {
    native::AckBatch::decode(seen.frame.body.clone()).expect("verdicts").acks
}

#[tokio::test]
async fn deliveries_come_one_by_one_or_in_batches() {
    let server = delivering(10).await;
    let mut orders = subscribe(&server).await;
    let first = patiently(orders.next()).await.expect("it is open").expect("a delivery");
    assert_eq!((first.event.message_id.as_str(), first.attempt), ("id-0", 1));
    assert_eq!(first.ack_timeout, Duration::from_secs(30));
    let rest = patiently(orders.next_batch()).await.expect("it is open").expect("deliveries");
    assert_eq!(rest.len(), 9);
    drop(orders);
    // The last handle is gone, so the connection may close before CloseStream is written; the
    // server sees the end of the stream either way.
}

#[tokio::test]
async fn acks_share_frames_and_go_to_the_owner() {
    let server = delivering(1_000).await;
    let mut orders = subscribe(&server).await;
    let batch = patiently(orders.next_batch()).await.expect("open").expect("deliveries");
    for delivery in &batch {
        orders.ack_later(delivery).await.expect("it is queued");
    }
    let summary = patiently(orders.settled()).await;
    assert_eq!((summary.confirmed, summary.failed), (1_000, 0));
    assert!(summary.error.is_none());

    let frames = server.seen(&[FrameKind::AckBatch]);
    assert!(frames.len() < 100, "{} frames for 1000 acks", frames.len());
    let mut acked = 0;
    for frame in &frames {
        for verdict in verdicts(frame) {
            let partition = verdict.delivery_id.split(':').nth(1).expect("a partition");
            assert_eq!(partition.parse::<usize>().expect("a number") % 2, frame.shard);
            assert!(verdict.success);
            acked += 1;
        }
    }
    assert_eq!(acked, 1_000);
    assert_eq!(patiently(orders.settled()).await.confirmed, 0, "the summary was taken");
}

#[tokio::test]
async fn every_verdict_has_its_own_answer() {
    let server = delivering(3).await;
    let mut orders = subscribe(&server).await;
    let mut batch = patiently(orders.next_batch()).await.expect("open").expect("deliveries");
    batch[1].delivery_id = "unknown".into();
    orders.ack(&batch[0]).await.expect("it is settled");
    let refused = orders.ack(&batch[1]).await;
    assert!(matches!(&refused, Err(ClientError::Refused(e)) if e.text == "unknown"), "{refused:?}");
    let reason = "é".repeat(limits_of_reason());
    orders.nack(&batch[2], Some(Duration::from_secs(5)), &reason).await.expect("it is recorded");
    orders.extend(&batch[2], Duration::from_mins(1)).await.expect("it is extended");

    let sent: Vec<_> = server.seen(&[FrameKind::AckBatch]).iter().flat_map(verdicts).collect();
    assert_eq!(sent[2].retry_delay_ms, Some(5_000));
    assert!(!sent[2].success && sent[2].error.len() <= limits_of_reason());
    assert_eq!((sent[3].extend_ms, sent[3].success), (60_000, false));
    orders.ack_later(&batch[1]).await.expect("it is queued");
    let summary = patiently(orders.settled()).await;
    assert_eq!((summary.confirmed, summary.failed), (0, 1));
}

fn limits_of_reason() -> usize {
    crate::base::limits::NACK_REASON_BYTES
}

#[tokio::test]
async fn a_lost_subscription_opens_itself_again() {
    let opened = Arc::new(AtomicUsize::new(0));
    let server = FakeServer::start(1, 4, move |seen| match seen.frame.kind {
        FrameKind::Subscribe => {
            let number = opened.fetch_add(1, Ordering::Relaxed) as i64;
            Some(Reaction::Send(deliveries(seen, vec![delivery(number, 0)])))
        }
        // Any publish makes the server drop the connection.
        FrameKind::Publish => Some(Reaction::Close),
        _ => None,
    })
    .await;
    let mut orders = subscribe(&server).await;
    for number in 0..3 {
        let next = patiently(orders.next()).await.expect("it is open").expect("a delivery");
        assert_eq!(next.event.offset, number);
        assert_eq!(orders.reconnects(), number as u64);
        let lost = orders.client_for_tests().publish(Event::new("t", "id", "x")).await;
        assert!(matches!(lost, Err(ClientError::Unknown(_))));
    }
}

#[tokio::test]
async fn a_server_that_shuts_down_is_waited_for_and_a_refusal_is_final() {
    let opened = Arc::new(AtomicUsize::new(0));
    let server = FakeServer::start(1, 4, move |seen| {
        (seen.frame.kind == FrameKind::Subscribe).then(|| {
            let code = match opened.fetch_add(1, Ordering::Relaxed) {
                0 => return Reaction::Send(deliveries(seen, vec![delivery(0, 0)])),
                1 => 4,
                _ => 1,
            };
            let end = native::StreamEnd { code, text: "as you say".into() };
            Reaction::Send(framed(FrameKind::StreamEnd, seen.frame.correlation, &end))
        })
    })
    .await;
    let mut orders = subscribe(&server).await;
    assert!(patiently(orders.next()).await.expect("open").is_ok());
    orders.lose_stream_for_tests();
    let refused = patiently(orders.next()).await.expect("the reason");
    assert!(matches!(&refused, Err(ClientError::Refused(e)) if e.code as u32 == 1), "{refused:?}");
    assert!(patiently(orders.next()).await.is_none());
    assert_eq!(server.seen(&[FrameKind::Subscribe]).len(), 3);
}

#[tokio::test]
async fn a_refused_subscription_fails_at_once() {
    let server = FakeServer::start(1, 1, |seen| {
        let error = native::Error { code: 1, text: "consumer_group is required".into() };
        let subscribe = seen.frame.kind == FrameKind::Subscribe;
        subscribe.then(|| Reaction::Send(framed(FrameKind::Error, seen.frame.correlation, &error)))
    })
    .await;
    let client = Client::connect(&server.addr).await.expect("it is there");
    let refused = client.subscribe(SubscribeOptions::new("orders", "")).await;
    assert!(matches!(refused, Err(ClientError::Refused(_))));
}

#[tokio::test]
async fn acks_whose_answer_was_lost_are_repeated_and_nacks_are_not() {
    let lost = Arc::new(AtomicUsize::new(0));
    let server = FakeServer::start(1, 4, move |seen| match seen.frame.kind {
        FrameKind::Subscribe => {
            Some(Reaction::Send(deliveries(seen, vec![delivery(0, 0), delivery(1, 0)])))
        }
        FrameKind::AckBatch => {
            let nack = !verdicts(seen)[0].success;
            let first = lost.fetch_add(1, Ordering::Relaxed) == 0;
            (nack || first).then_some(Reaction::Close)
        }
        _ => None,
    })
    .await;
    let mut orders = subscribe(&server).await;
    let batch = patiently(orders.next_batch()).await.expect("open").expect("deliveries");
    patiently(orders.ack(&batch[0])).await.expect("the second time it is answered");
    assert_eq!(server.seen(&[FrameKind::AckBatch]).len(), 2);
    let nack = patiently(orders.nack(&batch[1], None, "")).await;
    assert!(matches!(nack, Err(ClientError::Unknown(_))), "{nack:?}");
    assert_eq!(server.seen(&[FrameKind::AckBatch]).len(), 3);
}

fn replaying(end: native::StreamEnd) -> impl Fn(&Seen) -> Option<Reaction> {
    move |seen| {
        (seen.frame.kind == FrameKind::Replay).then(|| {
            // Not asked for by the protocol, and harmless.
            let nothing = native::CloseStream::default();
            let mut out = framed(FrameKind::Subscribed, seen.frame.correlation, &nothing);
            for frame in 0..100 {
                let event =
                    |n| events::ReplayEvent { event: delivery(n, 0).event, replay_offset: n };
                let events = (frame * 10..frame * 10 + 10).map(event).collect();
                let message = native::ReplayEvents { events };
                out.unsplit(framed(FrameKind::ReplayEvents, seen.frame.correlation, &message));
            }
            out.unsplit(framed(FrameKind::StreamEnd, seen.frame.correlation, &end));
            Reaction::Send(out)
        })
    }
}

#[tokio::test]
async fn a_replay_ends_after_its_last_event() {
    let server = FakeServer::start(1, 1, replaying(native::StreamEnd::default())).await;
    let client = Client::connect(&server.addr).await.expect("it is there");
    let range = ReplayRange::Offsets { start: Offset(3), count: 1_000 };
    let options = ReplayOptions { range, ..ReplayOptions::new("orders") };
    let mut history = client.replay(options).await.expect("it opens");
    // More frames than the client holds: the rest waits in the socket, not in memory.
    let mut count = 0;
    while let Some(replayed) = patiently(history.next()).await {
        assert_eq!(replayed.expect("an event").index, count);
        count += 1;
    }
    assert_eq!(count, 1_000);
    let asked = server.seen(&[FrameKind::Replay]);
    let asked = events::ReplayRequest::decode(asked[0].frame.body.clone()).expect("a request");
    assert_eq!((asked.start_offset, asked.count, asked.start_ts), (3, 1_000, 0));
    assert_eq!(server.seen(&[FrameKind::Hello]).len(), 2, "it has a connection of its own");
}

#[tokio::test]
async fn a_failed_replay_ends_with_its_error() {
    let end = native::StreamEnd { code: 9, text: "segment 7 can't be read".into() };
    let server = FakeServer::start(1, 1, replaying(end)).await;
    let client = Client::connect(&server.addr).await.expect("it is there");
    let mut history = client.replay(ReplayOptions::new("orders")).await.expect("it opens");
    let mut last = None;
    while let Some(replayed) = patiently(history.next()).await {
        last = Some(replayed);
    }
    assert!(matches!(last, Some(Err(ClientError::Refused(_)))), "{last:?}");
}
