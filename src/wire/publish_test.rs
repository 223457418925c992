//! The scanner against prost, and its limits.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::*;
use crate::base::error::ErrorCode;
use crate::wire::events::{Event, PublishBatchRequest, PublishRequest};

const WALL_MS: u64 = 1_800_000_000_000;

fn event() -> Event {
    Event {
        message_id: "order-1".into(),
        schedule_ts: WALL_MS as i64 + 5,
        payload: Bytes::from_static(b"hello"),
        topic: "orders".into(),
        ..Event::default()
    }
}

fn scan_one(event: Event) -> (PublishMessage, Option<EventFault>) {
    let request = PublishRequest { event: Some(event), allow_duplicate: false };
    let message = scan(request.encode_to_vec().into(), false, WALL_MS).expect("parses");
    let fault = message.events[0].fault;
    (message, fault)
}

fn fault_of(change: impl FnOnce(&mut Event)) -> Option<EventFault> {
    let mut event = event();
    change(&mut event);
    scan_one(event).1
}

/// What must come of an event, from prost's reading of it.
fn judge(event: &Event) -> Option<EventFault> {
    use EventFault as F;
    let horizon = limits::SCHEDULE_HORIZON_MS as i128;
    let away = (i128::from(event.schedule_ts) - i128::from(WALL_MS)).abs();
    let controls = |text: &str| text.chars().any(char::is_control);
    let rules = [
        (event.message_id.is_empty(), F::MessageIdMissing),
        (event.message_id.len() > limits::MESSAGE_ID_BYTES, F::MessageIdTooLong),
        (event.topic.len() > limits::NAME_BYTES, F::TopicTooLong),
        (event.payload.len() > limits::PAYLOAD_BYTES, F::PayloadTooLarge),
        (event.schedule_ts < 0 || event.delay_ms < 0, F::ScheduleMissing),
        (event.schedule_ts == 0 && event.delay_ms == 0, F::ScheduleMissing),
        (event.schedule_ts > 0 && event.delay_ms > 0, F::ScheduleTwice),
        (event.schedule_ts > 0 && away > horizon, F::ScheduleTooFar),
        (i128::from(event.delay_ms) > horizon, F::ScheduleTooFar),
        (event.payload.is_empty(), F::PayloadMissing),
        (controls(&event.message_id) || controls(&event.topic), F::ControlCharacter),
    ];
    rules.into_iter().find_map(|(broken, fault)| broken.then_some(fault))
}

fn compare(ours: &PublishMessage, events: &[Event], allow_duplicate: bool) {
    assert_eq!(ours.allow_duplicate, allow_duplicate);
    assert_eq!(ours.events.len(), events.len());
    for (span, event) in ours.events.iter().zip(events) {
        assert_eq!(span.fault, judge(event));
        if span.fault.is_some() {
            continue;
        }
        let of = |span: Span| span.of(&ours.bytes);
        assert_eq!(of(span.message_id), event.message_id.as_bytes());
        assert_eq!(of(span.topic), event.topic.as_bytes());
        assert_eq!(of(span.payload), &event.payload[..]);
        assert_eq!(span.schedule_ts, event.schedule_ts as u64);
        assert_eq!(span.delay_ms.unwrap_or(0), event.delay_ms as u64);
        // The bytes of meta alone are an event with that meta: they can be sent again as they are.
        let meta = Event::decode(of(span.meta)).expect("meta is a part of an event");
        assert_eq!(meta, Event { meta: event.meta.clone(), ..Event::default() });
        let value = |key: &str| event.meta.get(key).map_or("", String::as_str);
        assert_eq!(of(span.partition_key), value("partition_key").as_bytes());
        assert_eq!(span.durable_ack, value("cronos.durable_ack") == "true");
    }
}

/// Reads `bytes` with both; returns whether prost takes them. What the scanner takes, prost must
/// take and read alike.
fn check(bytes: &[u8], batch: bool) -> (bool, bool) {
    let ours = scan(Bytes::copy_from_slice(bytes), batch, WALL_MS);
    let prost = if batch {
        PublishBatchRequest::decode(bytes).map(|r| (r.events, r.allow_duplicate))
    } else {
        PublishRequest::decode(bytes)
            .map(|r| (vec![r.event.unwrap_or_default()], r.allow_duplicate))
    };
    if let Ok(ours) = &ours {
        let (events, allow_duplicate) = prost.as_ref().expect("the scanner takes no more");
        compare(ours, events, *allow_duplicate);
    }
    (ours.is_ok(), prost.is_ok())
}

// ------------------------------------------------------------------- messages of any encoding

fn varint(number: u32, value: u64) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode_key(number, WireType::Varint, &mut out);
    encode_varint(value, &mut out);
    out.to_vec()
}

fn length(number: u32, value: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode_key(number, WireType::LengthDelimited, &mut out);
    encode_varint(value.len() as u64, &mut out);
    out.put_slice(value);
    out.to_vec()
}

/// A field of this number and any wire type: for unknown numbers all are right.
fn any_type(number: impl Strategy<Value = u32> + Clone + 'static) -> BoxedStrategy<Vec<u8>> {
    let fixed = |wire, len| {
        move |number| {
            let mut out = BytesMut::new();
            encode_key(number, wire, &mut out);
            out.put_bytes(7, len);
            out.to_vec()
        }
    };
    let group = (number.clone(), vec(1..9_u32, 0..3)).prop_map(|(number, inner)| {
        let mut out = BytesMut::new();
        encode_key(number, WireType::StartGroup, &mut out);
        out.extend(inner.into_iter().flat_map(|number| length(number, b"x")));
        encode_key(number, WireType::EndGroup, &mut out);
        out.to_vec()
    });
    prop_oneof![
        (number.clone(), any::<u64>()).prop_map(|(number, value)| varint(number, value)),
        (number.clone(), vec(any::<u8>(), 0..9)).prop_map(|(number, v)| length(number, &v)),
        number.clone().prop_map(fixed(WireType::ThirtyTwoBit, 4)),
        number.prop_map(fixed(WireType::SixtyFourBit, 8)),
        group,
    ]
    .boxed()
}

fn joined(fields: impl Strategy<Value = Vec<Vec<u8>>>) -> impl Strategy<Value = Vec<u8>> {
    fields.prop_map(|fields| fields.concat())
}

fn meta_entry() -> impl Strategy<Value = Vec<u8>> {
    let key = select(vec!["partition_key", "cronos.durable_ack", "a", "", "ключ"]);
    let value = select(vec!["true", "", "v", "значение"]);
    joined(vec(
        prop_oneof![
            6 => key.prop_map(|key| length(1, key.as_bytes())),
            6 => value.prop_map(|value| length(2, value.as_bytes())),
            1 => any_type(3..20_u32),
        ],
        0..4,
    ))
}

fn raw_event(faulty: u32) -> impl Strategy<Value = Vec<u8>> {
    let now = WALL_MS;
    let times = prop_oneof![Just(now), now - 9..now + 9, 0..3_u64, any::<u64>()];
    let text = "[a-zA-Zéß]{0,12}|[\\x00-\\x7f]{0,4}|[a-z]{120,140}|[a-z]{250,260}";
    let fields = prop_oneof![
        20 => text.prop_map(|text| length(1, text.as_bytes())),
        20 => times.prop_map(|time| varint(2, time)),
        20 => vec(any::<u8>(), 0..20).prop_map(|payload| length(3, &payload)),
        10 => text.prop_map(|text| length(4, text.as_bytes())),
        30 => meta_entry().prop_map(|entry| length(5, &entry)),
        5 => (6..=10_u32, any::<u64>()).prop_map(|(number, value)| varint(number, value)),
        2 => (0..50_u64).prop_map(|delay| varint(100, delay)),
        10 => any_type(prop_oneof![11..100_u32, 101..3_000_u32]),
        faulty => any_type(select(vec![1_u32, 2, 3, 4, 6, 7, 8, 9, 10, 100])),
    ];
    joined(vec(fields, 0..14))
}

fn raw_message(faulty: u32) -> impl Strategy<Value = Vec<u8>> {
    joined(vec(
        prop_oneof![
            20 => raw_event(faulty).prop_map(|event| length(1, &event)),
            2 => (0..3_u64).prop_map(|value| varint(2, value)),
            2 => any_type(3..200_u32),
            faulty => any_type(1..3_u32),
        ],
        0..6,
    ))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_encoding_is_read_as_prost_reads_it(bytes in raw_message(0), batch in any::<bool>()) {
        prop_assert_eq!(check(&bytes, batch), (true, true));
    }

    #[test]
    fn wrong_types_and_texts_are_refused_as_prost_refuses_them(
        bytes in raw_message(3), batch in any::<bool>(),
    ) {
        let (ours, prost) = check(&bytes, batch);
        prop_assert_eq!(ours, prost);
    }

    #[test]
    fn damaged_messages_are_errors_or_read_as_prost_reads_them(
        bytes in raw_message(0),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        batch in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if !bytes.is_empty() {
            for (at, byte) in damage {
                *at.get_mut(&mut bytes) = byte;
            }
            check(&bytes, batch);
            bytes.truncate(cut.index(bytes.len()));
        }
        // Prost takes a meta of any wire type, which is the one thing that we refuse and it does
        // not; so only one direction holds here.
        check(&bytes, batch);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(
        bytes in vec(prop_oneof![0..16_u8, any::<u8>()], 0..64), batch in any::<bool>(),
    ) {
        check(&bytes, batch);
    }
}

#[test]
fn an_ordinary_message_is_not_copied() {
    let mut two = event();
    two.meta = BTreeMap::from([("a".into(), "b".into()), ("partition_key".into(), "k".into())]);
    let request = PublishBatchRequest { events: vec![event(), two], allow_duplicate: true };
    let bytes = Bytes::from(request.encode_to_vec());
    let message = scan(bytes.clone(), true, WALL_MS).expect("parses");
    assert_eq!(message.bytes.as_ptr(), bytes.as_ptr());
    compare(&message, &request.events, true);
    assert_eq!(message.events[0].routing_key(&bytes), b"order-1");
    assert_eq!(message.events[1].routing_key(&bytes), b"k");
}

#[test]
fn scattered_meta_is_gathered() {
    let entry = |key: &str, value: &str| {
        let inner = [length(1, key.as_bytes()), length(2, value.as_bytes())].concat();
        length(5, &inner)
    };
    let mut whole = event().encode_to_vec();
    whole.extend(entry("partition_key", "k"));
    whole.extend(varint(6, 1));
    whole.extend(entry("b", "2"));
    let plain = event().encode_to_vec();
    let batch = [length(1, &plain), length(1, &whole), length(1, &whole)].concat();
    assert_eq!(check(&batch, true), (true, true));
    // One event in two pieces, each with meta.
    let merged = [length(1, &whole), varint(2, 1), length(1, &entry("c", "3"))].concat();
    assert_eq!(check(&merged, false), (true, true));
    let message = scan(merged.into(), false, WALL_MS).expect("parses");
    assert!(message.allow_duplicate);
    assert_eq!(message.events[0].routing_key(&message.bytes), b"k");
}

#[test]
fn a_request_without_an_event_lacks_its_id() {
    let message = scan(Bytes::new(), false, WALL_MS).expect("parses");
    assert_eq!(message.events.len(), 1);
    assert_eq!(message.events[0].fault, Some(EventFault::MessageIdMissing));
    assert!(scan(Bytes::new(), true, WALL_MS).expect("parses").events.is_empty());
}

// ------------------------------------------------------------------------------------- limits

#[test]
fn texts_and_payload_have_limits() {
    use EventFault as F;
    assert_eq!(fault_of(|_| ()), None);
    assert_eq!(fault_of(|e| e.message_id.clear()), Some(F::MessageIdMissing));
    assert_eq!(fault_of(|e| e.message_id = "é".repeat(64)), None);
    assert_eq!(fault_of(|e| e.message_id = "m".repeat(129)), Some(F::MessageIdTooLong));
    assert_eq!(fault_of(|e| e.topic.clear()), None);
    assert_eq!(fault_of(|e| e.topic = "t".repeat(255)), None);
    assert_eq!(fault_of(|e| e.topic = "t".repeat(256)), Some(F::TopicTooLong));
    assert_eq!(fault_of(|e| e.topic = "a\nb".into()), Some(F::ControlCharacter));
    assert_eq!(fault_of(|e| e.message_id = "a\u{85}".into()), Some(F::ControlCharacter));
    assert_eq!(fault_of(|e| e.payload.clear()), Some(F::PayloadMissing));
    let payload = Bytes::from(vec![7; limits::PAYLOAD_BYTES + 1]);
    assert_eq!(fault_of(|e| e.payload = payload.slice(1..)), None);
    assert_eq!(fault_of(|e| e.payload = payload), Some(F::PayloadTooLarge));
}

#[test]
fn times_have_limits() {
    use EventFault as F;
    let at =
        |schedule_ts, delay_ms| fault_of(|e| (e.schedule_ts, e.delay_ms) = (schedule_ts, delay_ms));
    let (now, horizon) = (WALL_MS as i64, limits::SCHEDULE_HORIZON_MS as i64);
    assert_eq!(at(0, 0), Some(F::ScheduleMissing));
    assert_eq!(at(-1, 0), Some(F::ScheduleMissing));
    assert_eq!(at(0, -1), Some(F::ScheduleMissing));
    assert_eq!(at(1, 0), None);
    assert_eq!(at(0, 1), None);
    assert_eq!(at(now, 1), Some(F::ScheduleTwice));
    assert_eq!(at(now + horizon, 0), None);
    assert_eq!(at(now + horizon + 1, 0), Some(F::ScheduleTooFar));
    assert_eq!(at(0, horizon), None);
    assert_eq!(at(0, horizon + 1), Some(F::ScheduleTooFar));
    assert_eq!(at(i64::MAX, 0), Some(F::ScheduleTooFar));
}

#[test]
fn meta_has_limits() {
    let entries = |count: usize| (0..count).map(|i| (format!("k{i}"), String::new())).collect();
    assert_eq!(fault_of(|e| e.meta = entries(64)), None);
    assert_eq!(fault_of(|e| e.meta = entries(65)), Some(EventFault::MetaTooLarge));
    let sized = |bytes: usize| {
        // Tags and lengths of the entry, its key and its value: 3 + 3 + 3 bytes.
        let value = "v".repeat(bytes - 9);
        fault_of(|e| e.meta = BTreeMap::from([("k".into(), value)]))
    };
    assert_eq!(sized(limits::META_BYTES), None);
    assert_eq!(sized(limits::META_BYTES + 1), Some(EventFault::MetaTooLarge));
    // Empty entries name one key, but are 65 entries to be carried.
    let mut raw = event().encode_to_vec();
    (0..65).for_each(|_| raw.extend(length(5, b"")));
    let message = scan(length(1, &raw).into(), true, WALL_MS).expect("parses");
    assert_eq!(message.events[0].fault, Some(EventFault::MetaTooLarge));
}

#[test]
fn messages_have_limits() {
    let batch = |count| length(1, &event().encode_to_vec()).repeat(count);
    let message = scan(batch(limits::BATCH_EVENTS).into(), true, WALL_MS).expect("at the limit");
    assert_eq!(message.events.len(), limits::BATCH_EVENTS);
    assert!(message.events.iter().all(|event| event.fault.is_none()));
    let over = scan(batch(limits::BATCH_EVENTS + 1).into(), true, WALL_MS).expect_err("over it");
    assert_eq!(over.text, "events exceeds 4096 per batch");

    let sized = |bytes: usize| {
        // An unknown field of that many bytes, five of them its tag and length.
        scan(length(9, &vec![0; bytes - 5]).into(), true, WALL_MS)
    };
    assert!(sized(limits::MESSAGE_BYTES).is_ok());
    let over = sized(limits::MESSAGE_BYTES + 1).expect_err("over the limit");
    assert_eq!(over.code, ErrorCode::InvalidArgument);
}
