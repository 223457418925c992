//! The services through real connections, with shards that the test plays.

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

use super::*;
use crate::base::api::{
    AckOutcome, Delivery, EventOutcome, PartitionStatus, Placed, Replayed, Reply, Request, Span,
    Start, StoredEvent, Verdict,
};
use crate::base::config::ConnectionLimits;
use crate::base::ids::{GroupNo, Offset, PartitionId, ShardId, Term};
use crate::base::route::partition_of;
use crate::base::time::wall_ms;
use crate::control::Doors;
use crate::control::accept::Protocol;
use crate::control::door::FakeShard;
use crate::shard::StreamMessage;
use crate::wire::events::event_service_client::EventServiceClient;
use crate::wire::events::partition_service_client::PartitionServiceClient;
use crate::wire::events::transaction_service_client::TransactionServiceClient;
use crate::wire::events::{
    AckRequest, BeginTransactionRequest, ErrorCode as WireCode, Event, GetPartitionRequest,
    ListPartitionsRequest, PublishBatchRequest, PublishRequest, ReplayRequest, SubscribeRequest,
};

const PARTITIONS: u16 = 4;

struct Node {
    channel: Channel,
    stop: watch::Sender<bool>,
    bridge: Bridge<FakeShard>,
}

async fn node(shards: Vec<FakeShard>) -> Node {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let stop = watch::channel(false).0;
    let bridge = Bridge::new(Doors::new(shards, PARTITIONS), "n1", 100, stop.subscribe());
    let refused = bridge.metrics.refused("grpc");
    let entrance = Entrance::new(listener, Protocol::Grpc, ConnectionLimits::default(), refused);
    tokio::spawn(serve(entrance, bridge.clone(), true));
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
    Node { channel: endpoint.connect().await.expect("served"), stop, bridge }
}

impl Node {
    fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel.clone())
            .max_decoding_message_size(limits::MESSAGE_BYTES)
    }
}

/// A shard that stores all events of a message at offsets from 10 on.
fn storing(number: u16) -> FakeShard {
    FakeShard::new(number, |request| {
        let Request::Publish(message) = request else { panic!("asked for {request:?}") };
        let outcomes = message.events.iter().zip(10..).map(|(event, offset)| match event.fault {
            Some(fault) => EventOutcome::Failed(Box::new(fault.error())),
            None => EventOutcome::Stored(Placed {
                partition: partition_of(event.routing_key(&message.bytes), PARTITIONS),
                offset: Offset(offset),
                schedule_ts: event.schedule_ts,
            }),
        });
        Ok(Reply::Published { batch: message.batch, outcomes: outcomes.collect() })
    })
}

fn failing(error: impl Fn() -> ApiError + Send + Sync + 'static) -> FakeShard {
    FakeShard::new(0, move |request| match request {
        Request::Publish(message) => {
            let outcomes = vec![EventOutcome::Failed(Box::new(error())); message.events.len()];
            Ok(Reply::Published { batch: message.batch, outcomes })
        }
        _ => Err(error()),
    })
}

fn event(id: &str) -> Event {
    Event {
        message_id: id.into(),
        schedule_ts: 1_000,
        payload: Bytes::from_static(b"hello"),
        topic: "t".into(),
        ..Event::default()
    }
}

fn publish(event: Event) -> PublishRequest {
    PublishRequest { event: Some(event), allow_duplicate: false }
}

#[tokio::test]
async fn a_publish_goes_through_the_owner_of_its_partition() {
    let shards = vec![storing(0), storing(1)];
    let node = node(shards.clone()).await;
    for id in ["a", "b", "c", "d", "e"] {
        let answer = node.events().publish(publish(event(id))).await.expect("OK").into_inner();
        let partition = partition_of(id.as_bytes(), PARTITIONS);
        assert!(answer.success && answer.error.is_empty());
        assert_eq!((answer.offset, answer.schedule_ts), (10, 1_000));
        assert_eq!(answer.partition_id, i32::from(partition.0));
        let owner = &shards[usize::from(partition.0 % 2)];
        let Some(Request::Publish(message)) = owner.asked().pop() else { panic!("not asked") };
        assert_eq!(message.events[0].message_id.of(&message.bytes), id.as_bytes());
        assert!(!message.batch);
    }
}

#[tokio::test]
async fn broken_rules_and_duplicates_are_answers() {
    let node = node(vec![storing(0)]).await;
    let answer = node.events().publish(publish(event(""))).await.expect("OK").into_inner();
    assert!(!answer.success);
    assert_eq!(answer.error, "message_id is required");
    assert_eq!((answer.offset, answer.partition_id), (-1, -1));

    let original = Placed { partition: PartitionId(3), offset: Offset(0), schedule_ts: 77 };
    let duplicate = FakeShard::new(0, move |_| {
        let outcomes = vec![EventOutcome::Duplicate(original)];
        Ok(Reply::Published { batch: false, outcomes })
    });
    let node = self::node(vec![duplicate]).await;
    let answer = node.events().publish(publish(event("x"))).await.expect("OK").into_inner();
    assert_eq!((answer.success, answer.error.as_str()), (false, "duplicate message_id"));
    assert_eq!((answer.offset, answer.partition_id, answer.schedule_ts), (0, 3, 77));
    assert!(answer.duplicate && answer.code == WireCode::Duplicate as i32);
}

#[tokio::test]
async fn what_a_retry_cures_is_a_status() {
    type Make = fn() -> ApiError;
    let cases: [(Make, Code, &str); 4] = [
        (
            || ApiError::at_capacity(PartitionId(3)),
            Code::ResourceExhausted,
            "partition 3 is at capacity; retry with backoff",
        ),
        (ApiError::not_leader, Code::FailedPrecondition, "not the leader"),
        (|| ApiError::new(ErrorCode::Unavailable, "later"), Code::Unavailable, "later"),
        (|| ApiError::new(ErrorCode::NotFound, "none"), Code::NotFound, "none"),
    ];
    for (make, code, text) in cases {
        let node = node(vec![failing(make)]).await;
        let status = node.events().publish(publish(event("x"))).await.expect_err("a status");
        assert_eq!((status.code(), status.message()), (code, text));
        let batch = PublishBatchRequest {
            events: vec![event("x"), event("y")],
            ..PublishBatchRequest::default()
        };
        let status = node.events().publish_batch(batch).await.expect_err("a status");
        assert_eq!((status.code(), status.message()), (code, text));
    }
}

#[tokio::test]
async fn a_log_error_is_an_answer() {
    let node = node(vec![failing(|| ApiError::new(ErrorCode::DataLoss, "rot"))]).await;
    let answer = node.events().publish(publish(event("x"))).await.expect("OK").into_inner();
    assert_eq!((answer.success, answer.error.as_str()), (false, "rot"));
}

#[tokio::test]
async fn a_batch_has_a_result_per_event() {
    let node = node(vec![storing(0)]).await;
    let events = vec![event("a"), event(""), event("b")];
    let batch = PublishBatchRequest { events, allow_duplicate: true };
    let answer = node.events().publish_batch(batch).await.expect("OK").into_inner();
    assert_eq!((answer.published_count, answer.error_count), (2, 1));
    assert!(!answer.success);
    assert_eq!(answer.error, "message_id is required");
    assert_eq!((answer.first_offset, answer.last_offset), (10, 12));
    assert_eq!(answer.results.len(), 3);
    let empty = node.events().publish_batch(PublishBatchRequest::default()).await.expect("OK");
    let empty = empty.into_inner();
    assert_eq!((empty.success, empty.first_offset, empty.last_offset), (true, -1, -1));
}

#[tokio::test]
async fn messages_up_to_16_mib() {
    let node = node(vec![storing(0)]).await;
    let mut large = event("x");
    large.payload = vec![1; limits::PAYLOAD_BYTES].into();
    let events = vec![large.clone(), large.clone(), large];
    let batch = PublishBatchRequest { events, ..PublishBatchRequest::default() };
    let mut client = node.events().max_encoding_message_size(usize::MAX);
    let answer = client.publish_batch(batch.clone()).await.expect("12 MiB").into_inner();
    assert_eq!(answer.published_count, 3);
    let mut more = batch;
    more.events.extend(more.events.clone());
    let status = client.publish_batch(more).await.expect_err("24 MiB");
    assert!([Code::OutOfRange, Code::ResourceExhausted].contains(&status.code()), "{status}");
    let after = node.events().publish(publish(event("y"))).await.expect("others go on");
    assert!(after.into_inner().success);
}

fn stored(offset: u64, payload: &'static [u8]) -> StoredEvent {
    let mut body = b"id".to_vec();
    body.extend_from_slice(payload);
    StoredEvent {
        body: body.into(),
        message_id: Span { start: 0, len: 2 },
        meta: Span::default(),
        payload: Span { start: 2, len: payload.len() as u32 },
        topic: "t".into(),
        schedule_ts: 5,
        append_ts: 6,
        partition: PartitionId(2),
        offset: Offset(offset),
        term: Term(1),
        checksum: 9,
    }
}

fn deliveries(count: u64, not_before: u64) -> StreamMessage {
    let deliveries = (0..count)
        .map(|offset| Delivery {
            event: stored(offset, b"hello"),
            group: GroupNo(7),
            term: Term(1),
            attempt: 1,
            ack_timeout_ms: 30_000,
            seal: 0,
        })
        .collect();
    StreamMessage::Deliveries { group: "g".into(), deliveries, not_before }
}

fn subscribe() -> SubscribeRequest {
    SubscribeRequest {
        consumer_group: "g".into(),
        topic: "t".into(),
        start_offset: -1,
        max_buffer_size: 1_000,
        ..SubscribeRequest::default()
    }
}

#[tokio::test]
async fn a_subscription_outlives_the_clients_sending_side() {
    let shard = FakeShard::new(0, |request| panic!("asked for {request:?}"));
    shard.will_stream(vec![deliveries(2, 0), StreamMessage::Opened, deliveries(1, 0)]);
    let node = node(vec![shard.clone()]).await;
    // A stream of one request ends right behind it.
    let requests = tokio_stream::iter([subscribe()]);
    let mut stream = node.events().subscribe(requests).await.expect("open").into_inner();
    for offset in [0, 1, 0] {
        let delivery = stream.message().await.expect("no error").expect("no end");
        let event = delivery.event.expect("one event");
        assert_eq!((event.offset, event.partition_id, delivery.attempt), (offset, 2, 1));
        assert_eq!(event.payload, "hello");
        assert!(delivery.delivery_id.starts_with("g:2:"), "{}", delivery.delivery_id);
        assert!(delivery.batch.is_empty());
    }
    let Some(Request::Subscribe(spec)) = shard.asked().pop() else { panic!("not asked") };
    assert_eq!((spec.start, spec.credit), (Start::Now, 100), "the node's bound on credit holds");
    // The node's stop ends it.
    node.stop.send_replace(true);
    let end = stream.message().await.expect_err("a status");
    assert_eq!(end.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_subscription_is_open_before_its_request_comes() {
    let shard = FakeShard::new(0, |request| panic!("asked for {request:?}"));
    shard.will_stream(vec![StreamMessage::Opened, deliveries(1, 0)]);
    let node = node(vec![shard]).await;
    let (sender, requests) = mpsc::channel(1);
    let mut client = node.events();
    let opened = client.subscribe(ReceiverStream::new(requests)).await;
    let mut stream = opened.expect("open without a request").into_inner();
    sender.send(subscribe()).await.expect("open");
    assert!(stream.message().await.expect("no error").is_some());
}

#[tokio::test]
async fn a_bad_subscription_is_told_why() {
    let node = node(vec![storing(0)]).await;
    for (request, named) in [
        (SubscribeRequest::default(), "consumer_group"),
        (SubscribeRequest { partition_id: -2, ..subscribe() }, "partition_id"),
    ] {
        let requests = tokio_stream::iter([request]);
        let mut stream = node.events().subscribe(requests).await.expect("open").into_inner();
        let status = stream.message().await.expect_err("a status");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(named), "{status}");
    }
    let none = tokio_stream::iter(Vec::<SubscribeRequest>::new());
    let mut stream = node.events().subscribe(none).await.expect("open").into_inner();
    assert_eq!(stream.message().await.expect_err("a status").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn nothing_is_sent_early() {
    let shard = FakeShard::new(0, |request| panic!("asked for {request:?}"));
    let not_before = wall_ms() + 150;
    shard.will_stream(vec![deliveries(1, not_before)]);
    let node = node(vec![shard]).await;
    let requests = tokio_stream::iter([subscribe()]);
    let mut stream = node.events().subscribe(requests).await.expect("open").into_inner();
    assert!(stream.message().await.expect("no error").is_some());
    assert!(wall_ms() >= not_before);
}

#[tokio::test]
async fn a_replay_ends_cleanly() {
    let shard = FakeShard::new(0, |request| panic!("asked for {request:?}"));
    let events = (0..3).map(|index| Replayed { event: stored(index, b"x"), index }).collect();
    shard.will_stream(vec![
        StreamMessage::Replayed { events, not_before: 0 },
        StreamMessage::End(Ok(())),
    ]);
    shard.will_stream(vec![StreamMessage::End(Ok(()))]);
    shard.will_stream(vec![StreamMessage::End(Err(ApiError::new(ErrorCode::DataLoss, "rot")))]);
    let node = node(vec![shard]).await;
    let replay = || ReplayRequest { topic: "t".into(), ..ReplayRequest::default() };
    let mut stream = node.events().replay(replay()).await.expect("open").into_inner();
    for index in 0..3 {
        let replayed = stream.message().await.expect("no error").expect("no end");
        assert_eq!(replayed.replay_offset, index);
    }
    assert!(stream.message().await.expect("a clean end").is_none());
    let mut empty = node.events().replay(replay()).await.expect("open").into_inner();
    assert!(empty.message().await.expect("a clean end").is_none());
    let mut rotten = node.events().replay(replay()).await.expect("open").into_inner();
    assert_eq!(rotten.message().await.expect_err("a status").code(), Code::DataLoss);
    let bad = ReplayRequest { speed: -1.0, ..replay() };
    let mut refused = node.events().replay(bad).await.expect("open").into_inner();
    assert_eq!(refused.message().await.expect_err("a status").code(), Code::InvalidArgument);
}

/// Judges acks by their verdict, and takes its time.
fn judging() -> FakeShard {
    FakeShard::new(0, |request| {
        let Request::Ack(acks) = request else { panic!("asked for {request:?}") };
        let outcomes = acks.into_iter().map(|ack| AckOutcome {
            result: match (&ack.id, ack.verdict) {
                (None, _) => Err(ApiError::new(ErrorCode::NotFound, "unknown delivery_id")),
                (_, Verdict::Ack | Verdict::Nack(_) | Verdict::Extend { .. }) => Ok(()),
            },
            committed_offset: Offset(ack.id.map_or(0, |id| id.position.offset.0 + 1)),
        });
        Ok(Reply::Acked(outcomes.collect()))
    })
}

/// The id of the delivery of this offset, as a subscriber gets it.
fn delivery_id(offset: u64) -> String {
    let StreamMessage::Deliveries { group, deliveries, .. } = deliveries(offset + 1, 0) else {
        panic!("deliveries are deliveries")
    };
    let mut ids = crate::wire::delivery_id::DeliveryIds::of_group(&group);
    String::from_utf8(ids.format(&deliveries[offset as usize]).to_vec()).expect("text")
}

#[tokio::test]
async fn each_ack_has_its_answer_in_order() {
    let shard = judging();
    let node = node(vec![shard.clone()]).await;
    let (sender, requests) = mpsc::channel(10_000);
    let opened = node.events().ack(ReceiverStream::new(requests)).await;
    let mut answers = opened.expect("open before anything is sent").into_inner();

    let count = 9_000_u64;
    for offset in 0..count {
        let id = if offset % 3 == 2 { "nonsense".into() } else { delivery_id(offset % 5) };
        let ack = AckRequest { delivery_id: id, success: true, ..AckRequest::default() };
        sender.send(ack).await.expect("open");
    }
    for offset in 0..count {
        let answer = answers.message().await.expect("no error").expect("no end");
        assert_eq!(answer.success, offset % 3 != 2);
        if answer.success {
            assert_eq!(answer.committed_offset as u64, offset % 5 + 1);
        } else {
            assert_eq!(answer.error, "unknown delivery_id");
        }
    }
    let calls = shard.asked().len() as u64;
    assert!(calls < count / 2, "{count} pipelined acks took {calls} calls");
    drop(sender);
    assert!(answers.message().await.expect("a clean end").is_none());
}

#[tokio::test]
async fn a_shard_that_fails_answers_each_ack() {
    let node = node(vec![failing(|| ApiError::new(ErrorCode::ResourceExhausted, "full"))]).await;
    let acks = [1, 2].map(|n| AckRequest { delivery_id: delivery_id(n), ..AckRequest::default() });
    let (sender, requests) = mpsc::channel(4);
    let mut answers =
        node.events().ack(ReceiverStream::new(requests)).await.expect("open").into_inner();
    for ack in acks {
        sender.send(ack).await.expect("open");
        let answer = answers.message().await.expect("no error").expect("the stream stays open");
        assert_eq!((answer.success, answer.error.as_str()), (false, "full"));
    }
    node.stop.send_replace(true);
    assert_eq!(answers.message().await.expect_err("a status").code(), Code::Unavailable);
}

fn with_partitions() -> FakeShard {
    FakeShard::new(0, |request| {
        let Request::Partitions(one) = request else { panic!("asked for {request:?}") };
        let all = (0..PARTITIONS).map(PartitionId);
        let statuses =
            all.filter(|id| one.is_none_or(|one| one == *id)).map(|partition| PartitionStatus {
                partition,
                shard: ShardId(0),
                term: Term(1),
                high_watermark: Offset(u64::from(partition.0)),
                segment_count: 1,
                disk_usage_bytes: 4096,
                pending: 0,
                ready: 0,
                in_flight: 0,
                read_only: false,
            });
        Ok(Reply::Partitions(statuses.collect()))
    })
}

#[tokio::test]
async fn partitions_are_listed_whether_used_or_not() {
    let node = node(vec![with_partitions()]).await;
    let mut client = PartitionServiceClient::new(node.channel.clone());
    let list = client.list_partitions(ListPartitionsRequest::default()).await.expect("OK");
    let list = list.into_inner().partitions;
    let ids: Vec<_> = list.iter().map(|partition| partition.partition_id).collect();
    assert_eq!(ids, [0, 1, 2, 3]);
    assert_eq!((list[0].last_offset, list[3].last_offset), (-1, 2));
    assert_eq!((list[1].topic.as_str(), list[1].leader_id.as_str()), ("partition-1", "n1"));

    let one = client.get_partition(GetPartitionRequest { partition_id: 3 }).await.expect("OK");
    assert_eq!(one.into_inner().high_watermark, 3);
    for (partition_id, code) in [(4, Code::NotFound), (-1, Code::InvalidArgument)] {
        let asked = client.get_partition(GetPartitionRequest { partition_id }).await;
        assert_eq!(asked.expect_err("a status").code(), code);
    }
}

#[tokio::test]
async fn what_is_not_there_says_why() {
    let node = node(vec![storing(0)]).await;
    let mut client = TransactionServiceClient::new(node.channel.clone());
    let status = client
        .begin_transaction(BeginTransactionRequest::default())
        .await
        .expect_err("never there");
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("on purpose"), "{status}");
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus as Serving};
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let node = node(vec![storing(0)]).await;
    let mut health = HealthClient::new(node.channel.clone());
    for service in ["", "cronos_db.EventService"] {
        let asked = health.check(HealthCheckRequest { service: service.into() }).await;
        assert_eq!(asked.expect("OK").into_inner().status, Serving::Serving as i32);
    }
    let mut reflection = ServerReflectionClient::new(node.channel.clone());
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let asked = reflection.server_reflection_info(tokio_stream::iter([ask])).await;
    let answer = asked.expect("open").into_inner().message().await.expect("no error");
    let Some(MessageResponse::ListServicesResponse(list)) =
        answer.and_then(|answer| answer.message_response)
    else {
        panic!("asked for the list of services")
    };
    let mut names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    names.sort_unstable();
    assert!(names.contains(&"cronos_db.EventService") && names.contains(&"grpc.health.v1.Health"));
    assert!(
        !names.iter().any(|name| name.contains("native") || name.contains("admin")),
        "{names:?}"
    );
}

#[tokio::test]
async fn calls_and_streams_are_counted() {
    let node = node(vec![storing(0)]).await;
    node.events().publish(publish(event("x"))).await.expect("OK");
    let opened = node.events().ack(tokio_stream::iter(Vec::<AckRequest>::new())).await;
    assert!(opened.expect("open").into_inner().message().await.expect("a clean end").is_none());
    let page = node.bridge.metrics.page(Vec::new());
    assert!(page.contains(r#"requests_total{method="Publish",status="OK"} 1"#), "{page}");
    assert!(page.contains(r#"requests_total{method="Ack",status="OK"} 1"#), "{page}");
}

#[tokio::test]
async fn very_many_streams_on_one_connection() {
    let node = node(vec![judging()]).await;
    let mut open = Vec::new();
    for _ in 0..300 {
        let acks = tokio_stream::once(AckRequest::default());
        let acks = tokio_stream::StreamExt::chain(acks, tokio_stream::pending());
        open.push(node.events().ack(acks).await.expect("open").into_inner());
    }
    for stream in &mut open {
        assert!(!stream.message().await.expect("no error").expect("no end").success);
    }
}
