//! Everything encoded is decoded by prost and compared.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::base::api::Span;
use crate::base::ids::{GroupNo, Offset, PartitionId, ShardId, Term};
use crate::wire::frame::{Frame, FrameDecoder};

fn frames(mut out: BytesMut) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(frame) = FrameDecoder::Answers.next(&mut out).expect("valid") {
        frames.push(frame);
    }
    assert!(out.is_empty());
    frames
}

fn one(out: BytesMut) -> Frame {
    let mut frames = frames(out);
    assert_eq!(frames.len(), 1);
    frames.remove(0)
}

fn body<T: Message + Default>(frame: Frame) -> T {
    T::decode(frame.body).expect("decodes")
}

fn stored(event: &events::Event) -> StoredEvent {
    let mut body = BytesMut::from(&b"before"[..]);
    let mut put = |bytes: &[u8]| {
        let start = body.len() as u32;
        body.extend_from_slice(bytes);
        Span { start, len: bytes.len() as u32 }
    };
    let message_id = put(event.message_id.as_bytes());
    let payload = put(&event.payload);
    let meta = events::Event { meta: event.meta.clone(), ..events::Event::default() };
    let meta = put(&meta.encode_to_vec());
    StoredEvent {
        message_id,
        meta,
        payload,
        body: body.freeze(),
        topic: event.topic.as_str().into(),
        schedule_ts: event.schedule_ts as u64,
        append_ts: event.created_ts as u64,
        partition: PartitionId(event.partition_id as u16),
        offset: Offset(event.offset as u64),
        term: Term(event.term as u64),
        checksum: event.checksum,
    }
}

fn any_event() -> impl Strategy<Value = events::Event> {
    let texts = ("[a-zß]{1,20}", "\\PC{0,20}", btree_map("[a-z]{0,4}", "\\PC{0,9}", 0..4));
    let numbers = (0..i64::MAX, 0..i64::MAX, 0..i64::MAX, 0..i64::MAX);
    (texts, numbers, vec(any::<u8>(), 0..300), any::<(u16, u32)>()).prop_map(
        |((message_id, topic, meta), (schedule_ts, created_ts, offset, term), payload, rest)| {
            events::Event {
                message_id,
                schedule_ts,
                payload: payload.into(),
                topic,
                meta,
                created_ts,
                offset,
                partition_id: i32::from(rest.0),
                checksum: rest.1,
                term,
                delay_ms: 0,
            }
        },
    )
}

fn delivery(event: &events::Event, attempt: u32) -> Delivery {
    let event = stored(event);
    let (group, term) = (GroupNo(4), Term(9));
    Delivery { event, group, term, attempt, ack_timeout_ms: 30_000, seal: 3 }
}

fn id_of(group: &str, delivery: &Delivery) -> String {
    String::from_utf8(DeliveryIds::of_group(group).format(delivery).to_vec()).expect("text")
}

proptest! {
    #[test]
    fn deliveries_are_decoded_as_encoded(
        list in vec((any_event(), 1..9_u32), 1..8), group in "[a-z:%]{1,9}",
    ) {
        let deliveries: Vec<_> = list.iter().map(|(e, attempt)| delivery(e, *attempt)).collect();
        let expected: Vec<_> = list.iter().zip(&deliveries).map(|((event, attempt), delivery)| {
            events::Delivery {
                event: Some(event.clone()),
                delivery_id: id_of(&group, delivery),
                attempt: *attempt as i32,
                ack_timeout_ms: 30_000,
                batch: vec![],
            }
        }).collect();

        let mut out = BytesMut::new();
        put_deliveries(&mut out, 77, &group, &deliveries);
        let frame = one(out);
        prop_assert_eq!((frame.kind, frame.correlation), (FrameKind::Deliveries, 77));
        prop_assert_eq!(&body::<native::Deliveries>(frame).deliveries, &expected);

        let mut ids = DeliveryIds::of_group(&group);
        for (delivery, expected) in deliveries.iter().zip(&expected) {
            let mut out = BytesMut::new();
            encode_delivery(&mut out, &mut ids, delivery);
            // Prost writes the same bytes: fields in order, defaults left out.
            prop_assert_eq!(&out[..], &expected.encode_to_vec()[..]);
        }
    }

    #[test]
    fn replayed_events_are_decoded_as_encoded(list in vec((any_event(), 0..99_u64), 1..8)) {
        let replayed: Vec<_> =
            list.iter().map(|(e, index)| Replayed { event: stored(e), index: *index }).collect();
        let expected: Vec<_> = list.iter().map(|(event, index)| {
            events::ReplayEvent { event: Some(event.clone()), replay_offset: *index as i64 }
        }).collect();
        let mut out = BytesMut::new();
        put_replayed(&mut out, 78, &replayed);
        let frame = one(out);
        prop_assert_eq!((frame.kind, frame.correlation), (FrameKind::ReplayEvents, 78));
        prop_assert_eq!(&body::<native::ReplayEvents>(frame).events, &expected);
        let mut out = BytesMut::new();
        encode_replayed(&mut out, &replayed[0]);
        prop_assert_eq!(&out[..], &expected[0].encode_to_vec()[..]);
    }
}

#[test]
fn long_streams_are_cut_into_frames() {
    let event = events::Event {
        message_id: "m".repeat(limits::MESSAGE_ID_BYTES),
        topic: "t".repeat(limits::NAME_BYTES),
        payload: vec![1; limits::PAYLOAD_BYTES].into(),
        meta: BTreeMap::from([("k".into(), "v".repeat(limits::META_BYTES - 9))]),
        ..events::Event::default()
    };
    let small = events::Event { payload: Bytes::from_static(b"x"), ..event.clone() };
    let list: Vec<_> = [&small, &event, &small, &event].map(|e| delivery(e, 1)).into();
    let mut out = BytesMut::new();
    put_deliveries(&mut out, 1, &":".repeat(limits::NAME_BYTES), &list);
    let counts: Vec<_> = frames(out)
        .into_iter()
        .map(|frame| body::<native::Deliveries>(frame).deliveries.len())
        .collect();
    assert_eq!(counts, [2, 2]);
    let mut ids = DeliveryIds::of_group(&":".repeat(limits::NAME_BYTES));
    let mut out = BytesMut::new();
    encode_delivery(&mut out, &mut ids, &list[1]);
    assert!(out.len() <= DELIVERY_BYTES);
    let mut out = BytesMut::new();
    put_deliveries(&mut out, 1, "g", &[]);
    assert!(out.is_empty());
}

// ------------------------------------------------------------------------------------ publish

fn placed(partition: u16, offset: u64) -> Placed {
    Placed {
        partition: PartitionId(partition),
        offset: Offset(offset),
        schedule_ts: 1_000 + offset,
    }
}

fn failed(error: ApiError) -> EventOutcome {
    EventOutcome::Failed(Box::new(error))
}

fn published(batch: bool, outcomes: Vec<EventOutcome>) -> Frame {
    let mut out = BytesMut::new();
    put_reply(&mut out, 5, &Reply::Published { batch, outcomes }, "n");
    one(out)
}

#[test]
fn a_publish_is_answered_by_its_outcome() {
    let answer = |outcome| {
        let frame = published(false, vec![outcome]);
        assert_eq!(frame.kind, FrameKind::Published);
        body::<events::PublishResponse>(frame)
    };
    let full = events::PublishResponse {
        success: true,
        offset: 7,
        partition_id: 3,
        schedule_ts: 1_007,
        ..events::PublishResponse::default()
    };
    assert_eq!(answer(EventOutcome::Stored(placed(3, 7))), full);
    let duplicate = events::PublishResponse {
        success: false,
        error: "duplicate message_id".into(),
        duplicate: true,
        code: events::ErrorCode::Duplicate as i32,
        ..full
    };
    assert_eq!(answer(EventOutcome::Duplicate(placed(3, 7))), duplicate);
    let refused = events::PublishResponse {
        error: "payload is required".into(),
        offset: -1,
        partition_id: -1,
        code: events::ErrorCode::InvalidArgument as i32,
        ..events::PublishResponse::default()
    };
    assert_eq!(answer(failed(ApiError::invalid("payload is required"))), refused);
}

#[test]
fn a_batch_is_answered_with_counts_bounds_and_results() {
    let outcomes = vec![
        EventOutcome::Stored(placed(2, 9)),
        EventOutcome::Duplicate(placed(1, 1)),
        failed(ApiError::at_capacity(PartitionId(6))),
        EventOutcome::Stored(placed(0, 4)),
        failed(ApiError::not_leader()),
    ];
    let frame = published(true, outcomes);
    assert_eq!(frame.kind, FrameKind::PublishedBatch);
    let answer: events::PublishBatchResponse = body(frame);
    assert!(!answer.success);
    assert_eq!(answer.error, "partition 6 is at capacity; retry with backoff");
    assert_eq!((answer.published_count, answer.duplicate_count, answer.error_count), (2, 1, 2));
    assert_eq!((answer.first_offset, answer.last_offset), (4, 9));
    let results: Vec<_> = answer
        .results
        .iter()
        .map(|r| (r.code, r.error.as_str(), r.partition_id, r.offset, r.schedule_ts))
        .collect();
    let full = "partition 6 is at capacity; retry with backoff";
    let expected = [
        (0, "", 2, 9, 1_009),
        (10, "", 1, 1, 1_001),
        (3, full, -1, -1, 0),
        (0, "", 0, 4, 1_004),
        (5, "not the leader", -1, -1, 0),
    ];
    assert_eq!(results, expected);
}

#[test]
fn a_batch_of_nothing_or_duplicates_is_a_success() {
    for outcomes in [vec![], vec![EventOutcome::Duplicate(placed(1, 1))]] {
        let duplicates = outcomes.len() as i32;
        let answer: events::PublishBatchResponse = body(published(true, outcomes));
        assert!(answer.success && answer.error.is_empty());
        assert_eq!((answer.published_count, answer.duplicate_count), (0, duplicates));
        assert_eq!((answer.first_offset, answer.last_offset), (-1, -1));
    }
}

#[test]
fn the_largest_batch_that_fails_fits_a_frame() {
    let outcomes = vec![failed(ApiError::invalid("x".repeat(1_000))); limits::BATCH_EVENTS];
    let answer: events::PublishBatchResponse = body(published(true, outcomes));
    assert_eq!(answer.results.len(), limits::BATCH_EVENTS);
}

// ----------------------------------------------------------------------------------- the rest

fn answer(reply: &Reply) -> Frame {
    let mut out = BytesMut::new();
    put_reply(&mut out, 5, reply, "node-1");
    let frame = one(out);
    assert_eq!(frame.correlation, 5);
    frame
}

#[test]
fn verdicts_are_answered_by_their_number() {
    let good = AckOutcome { result: Ok(()), committed_offset: Offset(12) };
    let unknown = ApiError::new(ErrorCode::NotFound, "unknown delivery_id");
    let bad = AckOutcome { result: Err(unknown), committed_offset: Offset(0) };
    let expected = [
        events::AckResponse { success: true, committed_offset: 12, ..Default::default() },
        events::AckResponse { error: "unknown delivery_id".into(), code: 2, ..Default::default() },
    ];
    for (outcome, expected) in [&good, &bad].into_iter().zip(&expected) {
        let frame = answer(&Reply::Acked(vec![outcome.clone()]));
        assert_eq!(frame.kind, FrameKind::Acked);
        assert_eq!(&body::<events::AckResponse>(frame), expected);
    }
    let frame = answer(&Reply::Acked(vec![good, bad]));
    assert_eq!(frame.kind, FrameKind::AckedBatch);
    assert_eq!(body::<native::AckedBatch>(frame).results, expected);
    let frame = answer(&Reply::Acked(vec![]));
    assert_eq!((frame.kind, frame.body.len()), (FrameKind::AckedBatch, 0));
}

#[test]
fn streams_begin_and_end() {
    let frame = answer(&Reply::Subscribed);
    assert_eq!((frame.kind, frame.body.len()), (FrameKind::Subscribed, 0));
    let frame = answer(&Reply::StreamEnd(Ok(())));
    assert_eq!(frame.kind, FrameKind::StreamEnd);
    assert_eq!(body::<native::StreamEnd>(frame), native::StreamEnd::default());
    let frame = answer(&Reply::StreamEnd(Err(ApiError::not_leader())));
    let end = native::StreamEnd { code: 5, text: "not the leader".into() };
    assert_eq!(body::<native::StreamEnd>(frame), end);
    let frame = answer(&Reply::Failed(ApiError::invalid("topic")));
    assert_eq!(frame.kind, FrameKind::Error);
    assert_eq!(body::<native::Error>(frame), native::Error { code: 1, text: "topic".into() });
}

#[test]
fn partitions_are_listed() {
    let status = PartitionStatus {
        partition: PartitionId(3),
        shard: ShardId(1),
        term: Term(2),
        high_watermark: Offset(0),
        segment_count: 1,
        disk_usage_bytes: 4096,
        pending: 5,
        ready: 6,
        in_flight: 7,
        read_only: true,
    };
    let frame = answer(&Reply::Partitions(vec![status]));
    assert_eq!(frame.kind, FrameKind::PartitionList);
    let info = events::PartitionInfo {
        partition_id: 3,
        topic: "partition-3".into(),
        leader_id: "node-1".into(),
        replica_ids: vec!["node-1".into()],
        high_watermark: 0,
        last_offset: -1,
        segment_count: 1,
        disk_usage_bytes: 4096,
        shard: 1,
        term: 2,
        pending_events: 5,
        ready_events: 6,
        in_flight: 7,
        read_only: true,
    };
    assert_eq!(body::<events::ListPartitionsResponse>(frame).partitions, [info]);
}

#[test]
fn a_list_that_is_too_long_is_an_error() {
    let status = PartitionStatus {
        partition: PartitionId(0),
        shard: ShardId(0),
        term: Term(1),
        high_watermark: Offset(0),
        segment_count: 1,
        disk_usage_bytes: 0,
        pending: 0,
        ready: 0,
        in_flight: 0,
        read_only: false,
    };
    let mut out = BytesMut::new();
    let reply = Reply::Partitions(vec![status; 20_000]);
    put_reply(&mut out, 5, &reply, &"n".repeat(1_000));
    assert_eq!(one(out).kind, FrameKind::Error);
}

#[test]
fn codes_are_those_of_the_schema() {
    for number in 1..=u32::from(u8::MAX) {
        let ours = ErrorCode::from_number(number).map(|code| format!("{code:?}"));
        let schema = events::ErrorCode::try_from(number as i32).ok().map(|c| format!("{c:?}"));
        assert_eq!(ours, schema);
    }
}

/// Both ways to write a field agree with prost, where they meet and at every length.
#[test]
fn a_number_is_a_varint_of_any_length() {
    let numbers = (0..64).flat_map(|bit| {
        let power = 1_u64 << bit;
        [power - 1, power, power | 1]
    });
    for number in numbers.chain([u64::MAX]) {
        for key in [0, 1 << 3, 15 << 3 | LENGTH, 0x7f, 0x80, 101 << 3, u32::MAX] {
            let (mut ours, mut theirs) = (BytesMut::from("x"), BytesMut::from("x"));
            put_pair(&mut ours, key, number);
            encode_varint(u64::from(key), &mut theirs);
            encode_varint(number, &mut theirs);
            assert_eq!(ours, theirs, "{key} {number}");
        }
    }
}
