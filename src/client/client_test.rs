//! The client against a fake server: handshake, routing, bounds, loss of connections.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prost::Message;
use tokio::sync::Semaphore;

use super::fake_server::{FakeServer, Reaction, framed, patiently, publish_answer};
use super::*;
use crate::base::error::ErrorCode;
use crate::base::limits;
use crate::base::route::partition_of;
use crate::wire::events::PublishBatchRequest;

fn event(number: usize) -> Event {
    Event::new("orders", format!("id-{number}"), "payload")
}

async fn client_of(server: &FakeServer) -> Client {
    Client::connect(&server.addr).await.expect("the server is there")
}

#[tokio::test]
async fn the_handshake_tells_who_owns_what() {
    let server = FakeServer::two_shards().await;
    let client = client_of(&server).await;
    let topology = client.topology();
    assert_eq!((topology.partitions(), topology.shards()), (4, 2));
    assert_eq!(topology.node, "fake");
    assert_eq!(topology.owner(PartitionId(3)), ShardId(1));
    client.ping().await.expect("a pong");
    assert_eq!(client.partitions().await.expect("a list").len(), 4);
}

#[tokio::test]
async fn a_server_of_another_version_is_refused() {
    let server = FakeServer::start(1, 1, |seen| {
        let ack = native::HelloAck { version: 9, ..native::HelloAck::default() };
        Some(Reaction::Send(framed(FrameKind::HelloAck, seen.frame.correlation, &ack)))
    });
    let refused = Client::connect(&server.await.addr).await;
    assert!(matches!(refused, Err(ClientError::Handshake { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_refused_handshake_gives_the_servers_reason() {
    let server = FakeServer::start(1, 1, |seen| {
        let error = native::Error { code: 3, text: "10000 connections are open".into() };
        Some(Reaction::Send(framed(FrameKind::Error, seen.frame.correlation, &error)))
    });
    let refused = Client::connect(&server.await.addr).await.expect_err("it is refused");
    assert_eq!(refused.to_string(), "10000 connections are open");
}

#[tokio::test]
async fn an_event_goes_to_the_owner_of_its_partition() {
    let server = FakeServer::two_shards().await;
    let client = client_of(&server).await;
    for number in 0..32 {
        let placed = client.publish(event(number)).await.expect("it is stored");
        assert_eq!(placed.offset.0, number as u64);
    }
    let seen = server.seen(&[FrameKind::Publish]);
    assert_eq!(seen.len(), 32);
    for (number, seen) in seen.iter().enumerate() {
        let partition = partition_of(format!("id-{number}").as_bytes(), 4);
        assert_eq!(seen.shard, usize::from(partition.0 % 2), "id-{number}");
    }
    let connections: BTreeSet<_> = seen.iter().map(|seen| seen.connection).collect();
    assert_eq!(connections.len(), 2, "the connection of the handshake serves its own shard");
}

#[tokio::test]
async fn a_batch_is_split_by_owner_and_answered_in_order() {
    let server = FakeServer::two_shards().await;
    let client = client_of(&server).await;
    let results = client.publish_batch((0..1_000).map(event).collect()).await;
    assert_eq!(results.len(), 1_000);
    for (number, result) in results.into_iter().enumerate() {
        let placed = result.expect("it is stored");
        assert_eq!(placed.offset.0, number as u64);
        assert_eq!(placed.partition, partition_of(format!("id-{number}").as_bytes(), 4));
    }
    let seen = server.seen(&[FrameKind::PublishBatch]);
    assert_eq!(seen.len(), 2, "one part for each shard");
    for part in seen {
        let request = PublishBatchRequest::decode(part.frame.body).expect("a batch");
        for event in request.events {
            let partition = partition_of(event.message_id.as_bytes(), 4);
            assert_eq!(usize::from(partition.0 % 2), part.shard);
        }
    }
}

#[tokio::test]
async fn a_batch_of_one_partition_goes_whole() {
    let server = FakeServer::two_shards().await;
    let client = client_of(&server).await;
    let one_key = |number| event(number).with_key("customer-7");
    let results = client.publish_batch((0..limits::BATCH_EVENTS).map(one_key).collect()).await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(server.seen(&[FrameKind::PublishBatch]).len(), 1);

    let results = client.publish_batch((0..=limits::BATCH_EVENTS).map(one_key).collect()).await;
    assert!(results.iter().all(Result::is_ok), "one more than a batch takes makes two");
    assert_eq!(server.seen(&[FrameKind::PublishBatch]).len(), 3);
    assert!(client.publish_batch(Vec::new()).await.is_empty());
}

#[tokio::test]
async fn each_event_of_a_batch_has_its_own_result() {
    let server = FakeServer::two_shards().await;
    let client = client_of(&server).await;
    let huge = Event::new("orders", "id-1", vec![0; limits::MESSAGE_BYTES]);
    let twice = Event::new("orders", "twice-2", "payload");
    let results = client.publish_batch(vec![event(0), huge, twice]).await;
    assert!(results[0].as_ref().is_ok_and(|placed| !placed.duplicate));
    assert!(matches!(results[1], Err(ClientError::Invalid(_))), "it fits no message");
    assert!(results[2].as_ref().is_ok_and(|placed| placed.duplicate && placed.offset.0 == 2));
}

#[tokio::test]
async fn a_message_over_the_limit_is_not_sent() {
    let server = FakeServer::two_shards().await;
    let connection = Connection::connect(&server.addr, &ConnectionOptions::default()).await;
    let connection = connection.expect("the server is there");
    let body = vec![0; limits::MESSAGE_BYTES + 1];
    let refused = connection.call(FrameKind::Publish, &body).await;
    assert!(matches!(refused, Err(ClientError::Invalid(_))), "{refused:?}");
    // Also if the body turns out longer than it was said to be.
    let grown = connection.send(FrameKind::Ping, 0, |out| {
        out.extend_from_slice(&vec![0; limits::SMALL_REQUEST_BYTES + 1]);
    });
    assert!(matches!(grown.await, Err(ClientError::Invalid(_))));
    let pong = connection.call(FrameKind::Ping, &[]).await.expect("the connection is unharmed");
    assert_eq!(pong.kind, FrameKind::Pong);
    assert!(server.seen(&[FrameKind::Publish]).is_empty());
}

#[tokio::test]
async fn requests_in_flight_are_bounded() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let server = FakeServer::start(1, 1, move |seen| {
        let held = Arc::clone(&held);
        let publish = seen.frame.kind == FrameKind::Publish;
        publish.then(|| Reaction::After(held, publish_answer(seen, 1)))
    })
    .await;
    let options = ConnectionOptions { in_flight: 3, ..ConnectionOptions::default() };
    let connection = Connection::connect(&server.addr, &options).await.expect("it is there");
    let message = crate::wire::events::PublishRequest {
        event: Some(event(1)),
        ..crate::wire::events::PublishRequest::default()
    };
    let body = message.encode_to_vec();
    let send =
        || connection.send(FrameKind::Publish, body.len(), |out| out.extend_from_slice(&body));
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(send().await.expect("there is room"));
    }
    server.wait_for(FrameKind::Publish, 3).await;
    let fourth = send();
    tokio::pin!(fourth);
    // The ping goes round while the fourth waits for room: it was polled, and did not leave.
    tokio::select! {
        biased;
        _ = &mut fourth => panic!("there is no room for a fourth"),
        () = tokio::task::yield_now() => {}
    }
    assert_eq!(server.seen(&[FrameKind::Publish]).len(), 3);
    gate.add_permits(1);
    let fourth = patiently(fourth).await.expect("an answer made room");
    gate.add_permits(3);
    answers.push(fourth);
    for answer in answers {
        assert_eq!(patiently(answer).await.expect("an answer").kind, FrameKind::Published);
    }
}

#[tokio::test]
async fn what_was_in_flight_is_unknown_and_the_next_request_connects_again() {
    let fail = Arc::new(AtomicBool::new(true));
    let failing = Arc::clone(&fail);
    let server = FakeServer::start(1, 1, move |seen| {
        let publish = seen.frame.kind == FrameKind::Publish;
        (publish && failing.load(Ordering::Relaxed)).then_some(Reaction::Close)
    })
    .await;
    let client = client_of(&server).await;
    let lost = patiently(client.publish(event(1))).await.expect_err("the connection is lost");
    assert!(matches!(lost, ClientError::Unknown(_)) && lost.may_have_happened(), "{lost}");
    assert_eq!(server.seen(&[FrameKind::Publish]).len(), 1, "it was not repeated behind our back");
    fail.store(false, Ordering::Relaxed);
    assert_eq!(patiently(client.publish(event(2))).await.expect("stored").offset.0, 2);
    assert_eq!(server.seen(&[FrameKind::Hello]).len(), 2);
}

#[tokio::test]
async fn a_request_without_an_answer_times_out_as_unknown() {
    let server = FakeServer::start(1, 1, |seen| {
        (seen.frame.kind == FrameKind::Publish).then_some(Reaction::Ignore)
    })
    .await;
    let options =
        ClientOptions { request_timeout: Duration::from_millis(20), ..ClientOptions::default() };
    let client = Client::connect_with(&server.addr, options).await.expect("it is there");
    let late = client.publish(event(1)).await;
    assert!(matches!(late, Err(ClientError::Unknown(_))), "{late:?}");
    client.ping().await.expect("the connection lives on");
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let server = FakeServer::start(1, 1, |seen| {
        (seen.frame.kind != FrameKind::Hello).then_some(Reaction::Ignore)
    })
    .await;
    let keepalive = Duration::from_millis(10);
    let options = ConnectionOptions { keepalive, ..ConnectionOptions::default() };
    let connection = Connection::connect(&server.addr, &options).await.expect("it is there");
    let unanswered = patiently(connection.call(FrameKind::Publish, b"")).await;
    let text = unanswered.expect_err("nobody is there").to_string();
    assert!(text.contains("no sign of life"), "{text}");
    assert!(connection.is_closed());
    let refused = connection.call(FrameKind::Ping, &[]).await;
    assert!(matches!(refused, Err(ClientError::NotSent(_))), "{refused:?}");
}

#[tokio::test]
async fn a_shard_that_cannot_be_reached_is_reached_through_the_shared_port() {
    let server = FakeServer::start(1, 2, |seen| {
        (seen.frame.kind == FrameKind::Hello).then(|| {
            let ack = native::HelloAck {
                version: 1,
                partitions: 2,
                // Nothing listens on port 1.
                shards: [":1", ":1"].map(|at| native::Shard { address: at.into() }).to_vec(),
                partition_shards: vec![0, 1],
                ..native::HelloAck::default()
            };
            Reaction::Send(framed(FrameKind::HelloAck, seen.frame.correlation, &ack))
        })
    })
    .await;
    let client = client_of(&server).await;
    let results = patiently(client.publish_batch((0..100).map(event).collect())).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

#[tokio::test]
async fn a_refusal_has_its_code_and_text() {
    let server = FakeServer::start(1, 1, |seen| {
        let error = native::Error { code: 3, text: "partition 0 is at capacity".into() };
        let publish = seen.frame.kind == FrameKind::Publish;
        publish.then(|| Reaction::Send(framed(FrameKind::Error, seen.frame.correlation, &error)))
    })
    .await;
    match client_of(&server).await.publish(event(1)).await {
        Err(ClientError::Refused(error)) => assert_eq!(error.code, ErrorCode::ResourceExhausted),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_answer_of_the_wrong_kind_or_length_is_an_error() {
    let server = FakeServer::start(1, 1, |seen| {
        let id = seen.frame.correlation;
        let nothing = native::CloseStream::default();
        match seen.frame.kind {
            FrameKind::Publish => Some(Reaction::Send(framed(FrameKind::Pong, id, &nothing))),
            // No result for any of the events.
            FrameKind::PublishBatch => {
                Some(Reaction::Send(framed(FrameKind::PublishedBatch, id, &nothing)))
            }
            _ => None,
        }
    })
    .await;
    let client = client_of(&server).await;
    assert!(matches!(client.publish(event(1)).await, Err(ClientError::Answer(_))));
    let results = client.publish_batch(vec![event(1), event(2)]).await;
    assert!(results.iter().all(|result| matches!(result, Err(ClientError::Answer(_)))));
}
