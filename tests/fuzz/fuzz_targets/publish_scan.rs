//! The scanner of publishes beside prost: what it takes, prost takes and reads alike; what only
//! prost takes has too many events.

#![no_main]

use bytes::Bytes;
use chronosdb::base::api::{PublishMessage, Span};
use chronosdb::base::limits;
use chronosdb::wire::events::{Event, PublishBatchRequest, PublishRequest};
use chronosdb::wire::publish::scan;
use libfuzzer_sys::fuzz_target;
use prost::Message;

const WALL_MS: u64 = 1_800_000_000_000;

fn compare(ours: &PublishMessage, events: &[Event]) {
    assert_eq!(ours.events.len(), events.len());
    for (span, event) in ours.events.iter().zip(events) {
        if span.fault.is_some() {
            continue;
        }
        let of = |span: Span| span.of(&ours.bytes);
        assert_eq!(of(span.message_id), event.message_id.as_bytes());
        assert_eq!(of(span.topic), event.topic.as_bytes());
        assert_eq!(of(span.payload), &event.payload[..]);
        assert_eq!(span.schedule_ts, event.schedule_ts as u64);
        assert_eq!(span.delay_ms.unwrap_or(0), event.delay_ms as u64);
        let meta = Event::decode(of(span.meta)).expect("meta is a part of an event");
        assert_eq!(meta, Event { meta: event.meta.clone(), ..Event::default() });
        let value = |key: &str| event.meta.get(key).map_or("", String::as_str);
        assert_eq!(of(span.partition_key), value("partition_key").as_bytes());
    }
}

fuzz_target!(|data: &[u8]| {
    for batch in [false, true] {
        let ours = scan(Bytes::copy_from_slice(data), batch, WALL_MS);
        let prost = if batch {
            PublishBatchRequest::decode(data).map(|r| (r.events, r.allow_duplicate))
        } else {
            PublishRequest::decode(data)
                .map(|r| (vec![r.event.unwrap_or_default()], r.allow_duplicate))
        };
        match (ours, prost) {
            (Ok(ours), Ok((events, allow_duplicate))) => {
                assert_eq!(ours.allow_duplicate, allow_duplicate);
                compare(&ours, &events);
            }
            (Err(_), Err(_)) => {}
            (Err(error), Ok((events, _))) => {
                assert!(events.len() > limits::BATCH_EVENTS, "prost takes it: {error}");
            }
            (Ok(_), Err(error)) => panic!("prost refuses it: {error}"),
        }
    }
});
