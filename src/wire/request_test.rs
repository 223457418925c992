//! Requests: their rules, at the limit and one beyond.

use bytes::{BufMut, BytesMut};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::base::ids::{GroupNo, NameHash, Position, Term};
use crate::wire::events::{AckRequest, ReplayRequest, SubscribeRequest};

const BOUNDS: Bounds = Bounds { partitions: 16, max_credit: 40_000 };
const ID: &str = "g:3:2-1000-7-1-4-55";

fn request() -> SubscribeRequest {
    SubscribeRequest { consumer_group: "g".into(), topic: "t".into(), ..Default::default() }
}

fn subscribed(
    change: impl FnOnce(&mut SubscribeRequest),
) -> Result<SubscribeSpec, (ErrorCode, String)> {
    let mut request = request();
    change(&mut request);
    subscribe(&request, &BOUNDS).map_err(told)
}

fn told(error: ApiError) -> (ErrorCode, String) {
    (error.code, error.text.into_owned())
}

fn invalid<T>(text: &str) -> Result<T, (ErrorCode, String)> {
    Err((ErrorCode::InvalidArgument, text.into()))
}

fn these(ids: &[u16]) -> PartitionSet {
    PartitionSet::These(ids.iter().copied().map(PartitionId).collect())
}

#[test]
fn a_subscription_has_defaults() {
    let spec = SubscribeSpec {
        group: "g".into(),
        topic: "t".into(),
        member: "".into(),
        partitions: PartitionSet::All,
        start: Start::Beginning,
        credit: 10_000,
    };
    assert_eq!(subscribed(|_| ()), Ok(spec));
}

#[test]
fn names_have_limits() {
    let long = |bytes: usize| "n".repeat(bytes);
    assert_eq!(subscribed(|r| r.consumer_group.clear()), invalid("consumer_group is required"));
    for (field, change) in [
        ("consumer_group", (|r, v| r.consumer_group = v) as fn(&mut SubscribeRequest, String)),
        ("topic", |r, v| r.topic = v),
        ("subscription_id", |r, v| r.subscription_id = v),
    ] {
        assert!(subscribed(|r| change(r, long(255))).is_ok(), "{field}");
        let text = format!("{field} exceeds 255 characters");
        assert_eq!(subscribed(|r| change(r, long(256))), invalid(&text));
        let text = format!("{field} must not contain control characters");
        assert_eq!(subscribed(|r| change(r, "a\n".into())), invalid(&text));
    }
}

#[test]
fn partitions_are_all_one_or_any_set() {
    let set = |partition_id, partitions: &[i32]| {
        subscribed(|r| (r.partition_id, r.partitions) = (partition_id, partitions.to_vec()))
            .map(|spec| spec.partitions)
    };
    assert_eq!(set(0, &[]), Ok(PartitionSet::All));
    assert_eq!(set(-1, &[]), Ok(PartitionSet::All));
    assert_eq!(set(15, &[]), Ok(these(&[15])));
    assert_eq!(set(0, &[0]), Ok(these(&[0])));
    assert_eq!(set(-1, &[3, 0, 3]), Ok(these(&[0, 3])));
    assert_eq!(set(0, &(0..16).collect::<Vec<_>>()), Ok(these(&(0..16).collect::<Vec<_>>())));
    let unknown = "partition 16 does not exist; there are 16, from 0".to_owned();
    assert_eq!(set(16, &[]), Err((ErrorCode::NotFound, unknown.clone())));
    assert_eq!(set(0, &[1, 16]), Err((ErrorCode::NotFound, unknown)));
    assert_eq!(set(-2, &[]), invalid("partition_id must be -1 or more"));
    assert_eq!(set(0, &[-1]), invalid("partition_id must be 0 or more"));
    assert_eq!(set(2, &[1]), invalid("partition_id and partitions exclude each other"));
    assert_eq!(set(0, &[1; 17]), invalid("partitions names more than there are"));
    assert_eq!(partition(0, &BOUNDS), Ok(PartitionId(0)));
    assert_eq!(partition(65_537, &BOUNDS).expect_err("unknown").code, ErrorCode::NotFound);
    assert_eq!(partition(-1, &BOUNDS).expect_err("bad").code, ErrorCode::InvalidArgument);
}

#[test]
fn a_new_group_starts_where_it_is_told() {
    let start = |start_offset, replay| {
        subscribed(|r| (r.start_offset, r.replay) = (start_offset, replay)).map(|spec| spec.start)
    };
    assert_eq!(start(0, false), Ok(Start::Beginning));
    assert_eq!(start(0, true), Ok(Start::Beginning));
    assert_eq!(start(7, false), Ok(Start::Offset(Offset(7))));
    assert_eq!(start(7, true), Ok(Start::Offset(Offset(7))));
    assert_eq!(start(-1, false), Ok(Start::Now));
    assert_eq!(start(-1, true), Ok(Start::Beginning));
    assert_eq!(start(-2, false), invalid("start_offset must be -1 or more"));
}

#[test]
fn credit_is_bent_into_its_bounds() {
    let credit = |asked, max_credit| {
        let request = SubscribeRequest { max_buffer_size: asked, ..request() };
        subscribe(&request, &Bounds { max_credit, ..BOUNDS }).expect("valid").credit
    };
    assert_eq!(credit(0, 50_000), 10_000);
    assert_eq!(credit(-5, 50_000), 10_000);
    assert_eq!(credit(1, 50_000), 1);
    assert_eq!(credit(50_000, 50_000), 50_000);
    assert_eq!(credit(50_001, u32::MAX), 50_000);
    assert_eq!(credit(0, 9), 9);
    assert_eq!(credit(i32::MAX, 0), 1);
}

#[test]
fn a_replay_is_by_time_or_by_offset() {
    let range = |start_ts, end_ts, start_offset, count| {
        let request =
            ReplayRequest { start_ts, end_ts, start_offset, count, ..ReplayRequest::default() };
        replay(&request, &BOUNDS).expect("valid").range
    };
    let offsets = |start, count| ReplayRange::Offsets { start: Offset(start), count };
    assert_eq!(range(0, 0, 0, 0), offsets(0, 1_000));
    assert_eq!(range(-1, 0, -5, -5), offsets(0, 1_000));
    assert_eq!(range(0, 0, 9, 3), offsets(9, 3));
    assert_eq!(range(5, 0, 9, 1), ReplayRange::Time { start: 5, end: None });
    assert_eq!(range(0, 8, 9, 1), ReplayRange::Time { start: 0, end: Some(8) });
    assert_eq!(range(5, 8, 0, 0), ReplayRange::Time { start: 5, end: Some(8) });
}

#[test]
fn a_replay_is_checked() {
    let checked = |change: fn(&mut ReplayRequest)| {
        let mut request = ReplayRequest::default();
        change(&mut request);
        replay(&request, &BOUNDS).map_err(told)
    };
    assert!(checked(|r| r.speed = 0.5).is_ok());
    assert_eq!(checked(|r| r.speed = -0.1), invalid("speed must be 0 or more"));
    assert_eq!(checked(|r| r.speed = f64::NAN), invalid("speed must be 0 or more"));
    assert_eq!(checked(|r| r.speed = f64::INFINITY), invalid("speed must be 0 or more"));
    assert_eq!(checked(|r| r.topic = "t".repeat(256)), invalid("topic exceeds 255 characters"));
    assert!(checked(|r| r.consumer_group = "g".repeat(256)).is_err());
    assert!(checked(|r| r.subscription_id = "s".repeat(256)).is_err());
    assert_eq!(checked(|r| r.partition_id = 3).map(|spec| spec.partitions), Ok(these(&[3])));
}

// ---------------------------------------------------------------------------------------- ack

fn verdict(change: impl FnOnce(&mut AckRequest)) -> Verdict {
    let mut request = AckRequest { delivery_id: ID.into(), ..AckRequest::default() };
    change(&mut request);
    ack(&request).verdict
}

#[test]
fn an_ack_is_read() {
    let spec = ack(&AckRequest {
        delivery_id: ID.into(),
        success: true,
        next_offset: 8,
        ..AckRequest::default()
    });
    assert_eq!(spec.verdict, Verdict::Ack);
    let id = spec.id.expect("ours");
    let group = NameHash::of("g");
    assert_eq!((id.group, id.partition, id.group_no), (group, PartitionId(3), GroupNo(4)));
    assert_eq!((id.term, id.attempt), (Term(2), 1));
    assert_eq!(id.position, Position::new(1_000, Offset(7)));
    assert_eq!(ack(&AckRequest { delivery_id: "x:y:z".into(), ..Default::default() }).id, None);
}

#[test]
fn delays_and_reasons_are_bent_into_their_bounds() {
    let day = limits::RETRY_DELAY_MAX_MS;
    let nack = |delay_ms| Verdict::Nack(Box::new(Nack { delay_ms, reason: "".into() }));
    assert_eq!(verdict(|_| ()), nack(None));
    assert_eq!(verdict(|r| r.retry_delay_ms = Some(0)), nack(Some(0)));
    assert_eq!(verdict(|r| r.retry_delay_ms = Some(-1)), nack(Some(0)));
    assert_eq!(verdict(|r| r.retry_delay_ms = Some(day as i64)), nack(Some(day)));
    assert_eq!(verdict(|r| r.retry_delay_ms = Some(day as i64 + 1)), nack(Some(day)));
    assert_eq!(verdict(|r| r.extend_ms = -1), nack(None));
    assert_eq!(verdict(|r| r.extend_ms = 5), Verdict::Extend { by_ms: 5 });
    assert_eq!(verdict(|r| r.extend_ms = i64::MAX), Verdict::Extend { by_ms: day });
    let reason = |text: String| match verdict(|r| r.error = text) {
        Verdict::Nack(nack) => nack.reason.len(),
        verdict => panic!("{verdict:?}"),
    };
    assert_eq!(reason("r".repeat(limits::NACK_REASON_BYTES)), limits::NACK_REASON_BYTES);
    assert_eq!(reason("r".repeat(limits::NACK_REASON_BYTES + 1)), limits::NACK_REASON_BYTES);
    assert_eq!(reason("€".repeat(limits::NACK_REASON_BYTES)), 1_023, "cut between characters");
}

fn batch(count: usize) -> Vec<u8> {
    let ack = AckRequest { delivery_id: ID.into(), success: true, ..AckRequest::default() };
    native::AckBatch { acks: vec![ack; count] }.encode_to_vec()
}

#[test]
fn a_batch_of_acks_has_a_limit() {
    assert_eq!(scan_acks(&[]), Ok(vec![]));
    let acks = scan_acks(&batch(limits::ACK_BATCH)).expect("at the limit");
    assert_eq!(acks.len(), limits::ACK_BATCH);
    let over = scan_acks(&batch(limits::ACK_BATCH + 1)).expect_err("over it");
    assert_eq!(over.text, "acks exceeds 4096 per batch");
}

fn any_ack() -> impl Strategy<Value = AckRequest> {
    let id = prop_oneof!["[ab]{1,2}:[0-9]:[1-9]-[0-9]-[0-9]-[1-9]-[0-9]", "\\PC{0,9}"];
    (id, any::<bool>(), "\\PC{0,9}", any::<i64>(), option::of(any::<i64>()), any::<i64>()).prop_map(
        |(delivery_id, success, error, next_offset, retry_delay_ms, extend_ms)| AckRequest {
            delivery_id,
            success,
            error,
            next_offset,
            retry_delay_ms,
            extend_ms,
        },
    )
}

proptest! {
    #[test]
    fn acks_are_read_in_place_as_prost_reads_them(acks in vec(any_ack(), 0..6)) {
        let specs: Vec<_> = acks.iter().map(ack).collect();
        if let [first, ..] = &acks[..] {
            prop_assert_eq!(&scan_ack(&first.encode_to_vec()).expect("parses"), &specs[0]);
        }
        let batch = native::AckBatch { acks }.encode_to_vec();
        prop_assert_eq!(scan_acks(&batch).expect("parses"), specs);
    }

    #[test]
    fn damaged_acks_are_errors_or_read_as_prost_reads_them(
        acks in vec(any_ack(), 1..4),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = native::AckBatch { acks }.encode_to_vec();
        for (at, byte) in damage {
            *at.get_mut(&mut bytes) = byte;
        }
        let prost = native::AckBatch::decode(&bytes[..]).ok();
        let specs = prost.map(|batch| batch.acks.iter().map(ack).collect::<Vec<_>>());
        prop_assert_eq!(scan_acks(&bytes).ok(), specs);
    }

    #[test]
    fn any_body_of_any_kind_is_a_request_or_an_error(
        bytes in vec(prop_oneof![0..16_u8, any::<u8>()], 0..64),
    ) {
        for kind in FrameKind::ALL {
            let request = decode(*kind, Bytes::copy_from_slice(&bytes), &BOUNDS, 1);
            let asked = kind.is_request() && !matches!(kind, FrameKind::Hello | FrameKind::Ping);
            prop_assert!(asked || request.is_err());
        }
        let _ = hello(&bytes);
    }
}

// ------------------------------------------------------------------------------------- frames

#[test]
fn every_request_kind_is_decoded() {
    let decoded = |kind, body: Vec<u8>| decode(kind, body.into(), &BOUNDS, 1).expect("valid");
    let event = events::Event::default().encode_to_vec();
    assert!(matches!(decoded(FrameKind::Publish, event), Request::Publish(p) if !p.batch));
    assert!(matches!(decoded(FrameKind::PublishBatch, vec![]), Request::Publish(p) if p.batch));
    assert!(matches!(decoded(FrameKind::Ack, vec![]), Request::Ack(acks) if acks.len() == 1));
    assert!(matches!(decoded(FrameKind::AckBatch, batch(2)), Request::Ack(a) if a.len() == 2));
    let subscribe = request().encode_to_vec();
    assert!(matches!(decoded(FrameKind::Subscribe, subscribe), Request::Subscribe(_)));
    assert!(matches!(decoded(FrameKind::Replay, vec![]), Request::Replay(_)));
    let close = native::CloseStream { stream: 9 }.encode_to_vec();
    let close = decoded(FrameKind::CloseStream, close);
    assert!(matches!(close, Request::CloseStream { correlation: 9 }));
    assert!(matches!(decoded(FrameKind::Partitions, vec![]), Request::Partitions(None)));
    let one = native::Partitions { partition: Some(0) }.encode_to_vec();
    let one = decoded(FrameKind::Partitions, one);
    assert!(matches!(one, Request::Partitions(Some(PartitionId(0)))));
    let unknown = native::Partitions { partition: Some(u32::MAX) }.encode_to_vec();
    let unknown = decode(FrameKind::Partitions, unknown.into(), &BOUNDS, 1).expect_err("unknown");
    assert_eq!(unknown.code, ErrorCode::NotFound);
}

#[test]
fn a_request_without_events_is_small() {
    let sized = |bytes: usize| {
        let mut body = BytesMut::from(&request().encode_to_vec()[..]);
        let rest = bytes - body.len();
        // An unknown field of `rest` bytes, five of them its tag and its padded length.
        body.put_slice(&[9 << 3 | 2, 0x80 | (rest - 5) as u8, 0x80 | ((rest - 5) >> 7) as u8]);
        body.put_slice(&[0x80 | ((rest - 5) >> 14) as u8, 0]);
        body.put_bytes(0, rest - 5);
        assert_eq!(body.len(), bytes);
        decode(FrameKind::Subscribe, body.freeze(), &BOUNDS, 1)
    };
    assert!(sized(limits::SMALL_REQUEST_BYTES).is_ok());
    let over = sized(limits::SMALL_REQUEST_BYTES + 1).expect_err("over the limit");
    assert_eq!(over.text, "request exceeds 64 KiB");
}

#[test]
fn a_hello_names_a_version_and_a_client() {
    let said = |version, client: &str| {
        let said = native::Hello { version, client: client.into() };
        hello(&said.encode_to_vec()).map_err(told)
    };
    assert!(said(1, "").is_ok());
    assert!(said(7, &"c".repeat(255)).is_ok());
    assert_eq!(said(1, &"c".repeat(256)).map(|_| ()), invalid("client exceeds 255 characters"));
    let none = said(0, "").expect_err("no version");
    assert_eq!(none.0, ErrorCode::Protocol);
    assert_eq!(hello(&[0xff]).expect_err("garbage").code, ErrorCode::Malformed);
}
