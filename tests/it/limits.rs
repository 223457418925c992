//! Every limit on what clients send, at the limit and one beyond it, over both transports.
//!
//! At the limit it works. Beyond it the answer names the field, nothing is written, and the
//! connection goes on (unless the frame itself is too long).

use bytes::Bytes;
use chronosdb::base::{limits, time};
use chronosdb::client::{
    Client, ClientError, Connection, ConnectionOptions, Event, SubscribeOptions,
};
use chronosdb::wire::events::{
    PublishBatchRequest, PublishBatchResponse, PublishRequest, PublishResponse, SubscribeRequest,
};
use chronosdb::wire::kind::FrameKind;
use chronosdb::wire::native;
use prost::Message;

use crate::http;
use crate::load::GrpcEvents;
use crate::raw::{Raw, header};
use crate::server::{Server, Setup, place};
use crate::wait::{for_the, until};

/// A way in. Nothing in it knows the limits.
enum Way {
    Native(Connection),
    Grpc(Box<GrpcEvents>),
}

/// What a publish says: how many are stored, or the text of the refusal.
type Said = Result<usize, String>;

impl Way {
    async fn both(server: &Server) -> [Self; 2] {
        let native = server.native.to_string();
        let native = Connection::connect(&native, &ConnectionOptions::default()).await;
        [Self::Native(native.expect("it serves")), Self::Grpc(Box::new(server.events().await))]
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Native(_) => "native",
            Self::Grpc(_) => "gRPC",
        }
    }

    async fn publish(&mut self, event: Event) -> Said {
        let request = PublishRequest { event: Some(event), allow_duplicate: false };
        let answer = match self {
            Self::Native(connection) => {
                let frame = connection.call_message(FrameKind::Publish, &request).await;
                let body = frame.map_err(|error| error.to_string())?.body;
                PublishResponse::decode(body).expect("an answer")
            }
            Self::Grpc(client) => {
                let answer = client.publish(request).await;
                answer.map_err(|status| status.message().to_owned())?.into_inner()
            }
        };
        if answer.success { Ok(1) } else { Err(answer.error) }
    }

    async fn publish_batch(&mut self, events: Vec<Event>) -> Said {
        let request = PublishBatchRequest { events, allow_duplicate: false };
        let answer = match self {
            Self::Native(connection) => {
                let frame = connection.call_message(FrameKind::PublishBatch, &request).await;
                let body = frame.map_err(|error| error.to_string())?.body;
                PublishBatchResponse::decode(body).expect("an answer")
            }
            Self::Grpc(client) => {
                let answer = client.publish_batch(request).await;
                answer.map_err(|status| status.message().to_owned())?.into_inner()
            }
        };
        if answer.success { Ok(answer.published_count as usize) } else { Err(answer.error) }
    }

    /// Opens a subscription; its refusal.
    async fn subscribe(&mut self, request: SubscribeRequest) -> Result<(), String> {
        match self {
            Self::Native(connection) => {
                let stream = connection.open_stream(FrameKind::Subscribe, &request);
                let mut stream = stream.map_err(|error| error.to_string())?;
                let first = for_the("answer", stream.next()).await.expect("not the end");
                first.map(|_subscribed| ()).map_err(|error| error.to_string())
            }
            Self::Grpc(client) => {
                // A stream that waits says nothing: something has to come on it.
                let topic = request.topic.clone();
                let refused = |status: tonic::Status| status.message().to_owned();
                let requests = tokio_stream::once(request);
                let mut stream = client.subscribe(requests).await.map_err(refused)?.into_inner();
                if topic.len() <= limits::NAME_BYTES {
                    let id = format!("wake-{}", time::Now::read().boot_us);
                    client.publish(publish(Event::new(topic, id, "x"))).await.expect("stored");
                }
                let first = for_the("delivery", stream.message()).await;
                first.map(|_delivery| ()).map_err(refused)
            }
        }
    }
}

fn publish(event: Event) -> PublishRequest {
    PublishRequest { event: Some(event), allow_duplicate: false }
}

async fn stored(client: &Client) -> i64 {
    let partitions = client.partitions().await.expect("it serves");
    partitions.iter().map(|partition| partition.high_watermark).sum()
}

fn event(id: &str) -> Event {
    Event::new("limits", id, "payload")
}

/// An event whose `meta` takes so many bytes, in one entry.
fn with_meta_bytes(id: &str, bytes: usize) -> Event {
    let of = |value: usize| event(id).with_meta("k", "v".repeat(value));
    let size = |event: &Event| Event { meta: event.meta.clone(), ..Event::default() }.encoded_len();
    let value = (bytes - 32..bytes).find(|value| size(&of(*value)) == bytes);
    of(value.expect("some value has this size"))
}

fn with_meta_entries(id: &str, entries: usize) -> Event {
    (0..entries).fold(event(id), |event, n| event.with_meta(format!("k{n}"), "v"))
}

/// A case: the word in the refusal, and the events of it for an id; none if always refused.
type Case = (&'static str, Option<fn(&str) -> Event>, fn(&str) -> Event);

/// An id padded to so many bytes.
fn long(id: &str, bytes: usize) -> String {
    format!("{id}{}", "i".repeat(bytes - id.len()))
}

fn cases() -> Vec<Case> {
    vec![
        ("message_id", Some(|id| event(&long(id, limits::MESSAGE_ID_BYTES))), |id| {
            event(&long(id, limits::MESSAGE_ID_BYTES + 1))
        }),
        ("message_id", None, |_| event("")),
        ("topic", Some(|id| Event::new("t".repeat(limits::NAME_BYTES), id, "x")), |id| {
            Event::new("t".repeat(limits::NAME_BYTES + 1), id, "x")
        }),
        ("control characters", None, |id| Event::new("a\nb", id, "x")),
        ("payload", Some(|id| Event::new("limits", id, vec![1; limits::PAYLOAD_BYTES])), |id| {
            Event::new("limits", id, vec![1; limits::PAYLOAD_BYTES + 1])
        }),
        ("payload", Some(|id| Event::new("limits", id, "x")), |id| Event::new("limits", id, "")),
        ("meta", Some(|id| with_meta_entries(id, limits::META_ENTRIES)), |id| {
            with_meta_entries(id, limits::META_ENTRIES + 1)
        }),
        ("meta", Some(|id| with_meta_bytes(id, limits::META_BYTES)), |id| {
            with_meta_bytes(id, limits::META_BYTES + 1)
        }),
        ("schedule_ts", Some(|id| event(id).after_ms(limits::SCHEDULE_HORIZON_MS)), |id| {
            event(id).after_ms(limits::SCHEDULE_HORIZON_MS + 1)
        }),
        (
            "schedule_ts",
            // The server's clock has gone on meanwhile: that is on the safe side.
            Some(|id| event(id).at_ms(time::wall_ms() + limits::SCHEDULE_HORIZON_MS)),
            |id| event(id).at_ms(time::wall_ms() + limits::SCHEDULE_HORIZON_MS + 3_600_000),
        ),
        ("schedule_ts", Some(|id| event(id).at_ms(1)), |id| event(id).at_ms(0)),
        ("schedule_ts", None, |id| Event { schedule_ts: -1, delay_ms: 0, ..event(id) }),
        ("schedule_ts", None, |id| Event { schedule_ts: 5, delay_ms: 5, ..event(id) }),
    ]
}

#[tokio::test]
async fn what_an_event_may_be() {
    let place = place();
    let server = Setup::new(&place.path().join("data")).start();
    let client = server.client().await;
    for mut way in Way::both(&server).await {
        for (n, (word, at, beyond)) in cases().into_iter().enumerate() {
            let id = |what: &str| format!("{}-{n}-{what}-", way.name());
            let (good, bad, beside) = (id("good"), id("bad"), id("beside"));
            let before = stored(&client).await;
            if let Some(at) = at {
                let said = way.publish(at(&good)).await;
                assert_eq!(said, Ok(1), "{} {word} at its limit", way.name());
                assert_eq!(stored(&client).await, before + 1);
            }
            let before = stored(&client).await;
            let said = way.publish(beyond(&bad)).await.expect_err("beyond its limit");
            assert!(said.contains(word), "{} {word}: {said}", way.name());
            assert_eq!(stored(&client).await, before, "{} {word}: nothing is written", way.name());
            // In a batch it is that event's fault alone.
            let batch = vec![beyond(&bad), event(&beside)];
            let said = way.publish_batch(batch).await.expect_err("one is beyond its limit");
            assert!(said.contains(word), "{} {word}: {said}", way.name());
            assert_eq!(stored(&client).await, before + 1, "{} {word} in a batch", way.name());
            let again = client.publish(event(&beside)).await.expect("a place");
            assert!(again.duplicate, "the other one is stored");
        }
    }
    server.stop();
}

#[tokio::test]
async fn how_many_events_a_batch_may_have() {
    let place = place();
    let server = Setup::new(&place.path().join("data")).start();
    let client = server.client().await;
    for mut way in Way::both(&server).await {
        let name = way.name();
        let batch = |stem: &str, count: usize| -> Vec<Event> {
            (0..count).map(|n| event(&format!("{name}-{stem}-{n}"))).collect()
        };
        let before = stored(&client).await;
        let said = way.publish_batch(batch("good", limits::BATCH_EVENTS)).await;
        assert_eq!(said, Ok(limits::BATCH_EVENTS), "{name}");
        let said = way.publish_batch(batch("bad", limits::BATCH_EVENTS + 1)).await;
        let said = said.expect_err("one too many");
        assert!(said.contains("events") && said.contains("4096"), "{name}: {said}");
        assert_eq!(stored(&client).await, before + limits::BATCH_EVENTS as i64, "{name}");
    }
    server.stop();
}

/// A batch whose message has exactly this size.
fn message_of(stem: &str, bytes: usize) -> PublishBatchRequest {
    let events = |last: usize| {
        let sizes = [limits::PAYLOAD_BYTES, limits::PAYLOAD_BYTES, limits::PAYLOAD_BYTES, last];
        let event =
            |(n, size): (usize, usize)| Event::new("limits", format!("{stem}-{n}"), vec![2; size]);
        let events = sizes.into_iter().enumerate().map(event).collect();
        PublishBatchRequest { events, allow_duplicate: false }
    };
    let rest = bytes - events(1).encoded_len();
    // The length of the last payload has up to three bytes more, and that of its event.
    let fit = (rest - 16..=rest + 1).map(events).find(|message| message.encoded_len() == bytes);
    fit.expect("some payload fits")
}

#[tokio::test]
async fn how_long_a_message_may_be() {
    let place = place();
    let server = Setup::new(&place.path().join("data")).start();
    let client = server.client().await;
    for mut way in Way::both(&server).await {
        let name = way.name();
        let before = stored(&client).await;
        let message = message_of(&format!("{name}-good"), limits::MESSAGE_BYTES);
        assert_eq!(way.publish_batch(message.events).await, Ok(4), "{name}");
        assert_eq!(stored(&client).await, before + 4);
        let message = message_of(&format!("{name}-bad"), limits::MESSAGE_BYTES + 1);
        let said = way.publish_batch(message.events).await.expect_err("one byte too many");
        assert!(said.contains("message") || said.contains("length"), "{name}: {said}");
        assert_eq!(stored(&client).await, before + 4, "{name}: nothing is written");
    }
    // A client that does not look at the limit itself is refused at the header.
    let mut raw = Raw::greeted(server.native);
    let kind = FrameKind::PublishBatch as u8;
    raw.write(&header(12 + limits::MESSAGE_BYTES as u32 + 1, 1, kind, 0, 2));
    let error = raw.closed().expect("it says why");
    assert!(error.text.contains("length"), "{error:?}");
    // Requests that carry no events are small.
    let mut raw = Raw::greeted(server.native);
    let kind = FrameKind::Subscribe as u8;
    raw.write(&header(12 + limits::SMALL_REQUEST_BYTES as u32 + 1, 1, kind, 0, 2));
    let error = raw.closed().expect("it says why");
    assert!(error.text.contains("length"), "{error:?}");
    server.stop();
}

#[tokio::test]
async fn what_is_no_text_is_refused() {
    let place = place();
    let server = Setup::new(&place.path().join("data")).start();
    let client = server.client().await;
    // message_id of one byte that is no UTF-8, in an event of four bytes.
    let body = Bytes::from_static(&[0x0a, 0x03, 0x0a, 0x01, 0xff]);
    let mut raw = Raw::greeted(server.native);
    raw.send(FrameKind::Publish, 2, &body);
    let error = raw.error(2);
    assert!(error.code == 7 && !error.text.is_empty(), "{error:?}");
    raw.send(FrameKind::Ping, 3, &[]);
    raw.expect(FrameKind::Pong, 3);
    assert_eq!(stored(&client).await, 0);
    server.stop();
}

#[tokio::test]
async fn what_a_subscription_may_be() {
    let place = place();
    let server = Setup::new(&place.path().join("data")).start();
    let client = server.client().await;
    let name = |bytes: usize| "n".repeat(bytes);
    let base =
        || SubscribeRequest { consumer_group: "g".into(), topic: "t".into(), ..Default::default() };
    let (most, more) = (limits::NAME_BYTES, limits::NAME_BYTES + 1);
    for mut way in Way::both(&server).await {
        for good in [
            SubscribeRequest { consumer_group: name(most), ..base() },
            SubscribeRequest { topic: name(most), ..base() },
            SubscribeRequest { subscription_id: name(most), ..base() },
            SubscribeRequest { partitions: vec![0, 1, 2, 3], ..base() },
            SubscribeRequest { max_buffer_size: i32::MAX, ..base() },
        ] {
            let said = way.subscribe(good.clone()).await;
            assert_eq!(said, Ok(()), "{} {good:?}", way.name());
        }
        let groups = http::get(server.http, "/metrics").text;
        for (word, bad) in [
            ("consumer_group", SubscribeRequest { consumer_group: name(more), ..base() }),
            ("consumer_group", SubscribeRequest { consumer_group: String::new(), ..base() }),
            ("topic", SubscribeRequest { topic: name(more), ..base() }),
            ("subscription_id", SubscribeRequest { subscription_id: name(more), ..base() }),
            ("partition 4", SubscribeRequest { partition_id: 4, ..base() }),
            ("partition 4", SubscribeRequest { partitions: vec![4], ..base() }),
            ("start_offset", SubscribeRequest { start_offset: -2, ..base() }),
        ] {
            let bad = SubscribeRequest { max_buffer_size: 1, ..bad };
            let said = way.subscribe(bad).await.expect_err("beyond its limit");
            assert!(said.contains(word), "{} {word}: {said}", way.name());
        }
        assert!(!groups.contains(&name(more)), "no group is made");
    }
    assert!(client.ping().await.is_ok());
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_much_credit_a_subscription_gets() {
    let place = place();
    let server = Setup::new(&place.path().join("data")).start();
    let client = server.client().await;
    let most = limits::CREDIT_MAX as usize;
    let events = (0..most + 100).map(|n| Event::new("t", format!("m{n}"), "x"));
    assert!(client.publish_batch(events.collect()).await.iter().all(Result::is_ok));
    let in_flight =
        || http::get(server.http, "/metrics").sum("cronos_deliveries_in_flight") as usize;

    let request = |group: &str| SubscribeRequest {
        consumer_group: group.into(),
        topic: "t".into(),
        max_buffer_size: limits::CREDIT_MAX as i32 + 1,
        ..Default::default()
    };
    let [Way::Native(connection), Way::Grpc(mut grpc)] = Way::both(&server).await else {
        unreachable!("in this order")
    };
    let mut stream =
        connection.open_stream(FrameKind::Subscribe, &request("native")).expect("sent");
    let mut came = 0;
    while came < most {
        let frame = for_the("next frame", stream.next()).await.expect("endless").expect("a frame");
        if frame.kind == FrameKind::Deliveries {
            came += native::Deliveries::decode(frame.body).expect("deliveries").deliveries.len();
        }
    }
    assert_eq!((came, in_flight()), (most, most), "native");
    drop(stream);
    drop(connection);
    until("the first subscription to be over", || (in_flight() == 0).then_some(()));

    let requests = tokio_stream::once(request("grpc"));
    let mut stream = grpc.subscribe(requests).await.expect("it serves").into_inner();
    let mut last = None;
    for _ in 0..most {
        last = for_the("next delivery", stream.message()).await.expect("well");
    }
    assert_eq!(in_flight(), most, "gRPC");
    // An ack gives one back, and just one more comes.
    let delivery_id = last.expect("a delivery").delivery_id;
    let ack =
        chronosdb::wire::events::AckRequest { delivery_id, success: true, ..Default::default() };
    let mut acks = grpc.ack(tokio_stream::once(ack)).await.expect("it serves").into_inner();
    assert!(acks.message().await.expect("well").expect("an answer").success);
    for_the("one more", stream.message()).await.expect("well").expect("a delivery");
    assert_eq!(in_flight(), most, "gRPC");
    server.stop();
}

#[tokio::test]
async fn how_many_verdicts_and_streams_a_native_client_may_send() {
    let place = place();
    let server = Setup::new(&place.path().join("data")).start();
    let mut raw = Raw::greeted(server.native);
    let verdicts = |count: usize| {
        let ack = chronosdb::wire::events::AckRequest {
            delivery_id: "x:0:1".into(),
            ..Default::default()
        };
        native::AckBatch { acks: vec![ack; count] }.encode_to_vec()
    };
    raw.send(FrameKind::AckBatch, 2, &verdicts(limits::ACK_BATCH));
    let answers =
        native::AckedBatch::decode(raw.expect(FrameKind::AckedBatch, 2)).expect("answers");
    assert_eq!(answers.results.len(), limits::ACK_BATCH);
    assert!(answers.results.iter().all(|answer| !answer.success && !answer.error.is_empty()));
    raw.send(FrameKind::AckBatch, 3, &verdicts(limits::ACK_BATCH + 1));
    let error = raw.error(3);
    assert!(error.text.contains("acks") && error.text.contains("4096"), "{error:?}");

    let streams = limits::SESSION_STREAMS as u64;
    for n in 0..=streams {
        let request = SubscribeRequest {
            consumer_group: format!("g{n}"),
            topic: "t".into(),
            ..Default::default()
        };
        raw.send(FrameKind::Subscribe, 10 + n, &request.encode_to_vec());
    }
    let mut open = 0;
    for _ in 0..=streams {
        let frame = raw.next().expect("an answer");
        match frame.kind {
            FrameKind::Subscribed => open += 1,
            FrameKind::Error => {
                let error = native::Error::decode(frame.body).expect("an error");
                assert_eq!(frame.correlation, 10 + streams, "the last one is too many");
                assert!(error.text.contains("streams"), "{error:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(open, streams);
    server.stop();
}

#[tokio::test]
async fn the_client_cuts_what_is_too_much_for_one_request() {
    let place = place();
    let server = Setup::new(&place.path().join("data")).start();
    let client = server.client().await;
    let events = (0..=3 * limits::BATCH_EVENTS).map(|n| event(&format!("m{n}")));
    assert!(client.publish_batch(events.collect()).await.iter().all(Result::is_ok));
    let large =
        (0..12).map(|n| Event::new("limits", format!("large-{n}"), vec![5; limits::PAYLOAD_BYTES]));
    assert!(client.publish_batch(large.collect()).await.iter().all(Result::is_ok));
    let long = Event::new("limits", "long", vec![5; limits::PAYLOAD_BYTES + 1]);
    let results = client.publish_batch(vec![event("short"), long]).await;
    assert!(results[0].is_ok());
    assert!(
        matches!(&results[1], Err(ClientError::Refused(error)) if error.text.contains("payload"))
    );
    let mut all = client.subscribe(SubscribeOptions::new("limits", "g")).await.expect("it serves");
    for _ in 0..3 * limits::BATCH_EVENTS + 14 {
        let next = for_the("next delivery", all.next()).await.expect("endless");
        all.ack_later(&next.expect("a delivery")).await.expect("queued");
    }
    assert_eq!(all.settled().await.failed, 0);
    server.stop();
}
