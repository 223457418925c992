//! What producers send: every event carries its own number in its payload, so whatever comes out of
//! the engine names the very attempt that went in, and can be compared with it byte by byte.

use std::sync::Arc;

use bytes::Bytes;
use chronosdb::base::api::{EventFault, EventSpan, PublishMessage, Span, StoredEvent};
use chronosdb::base::ids::PartitionId;
use chronosdb::base::route;

use super::rng::mix;

/// When an event is to become due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Unix ms.
    At(u64),
    /// Milliseconds from the moment the server takes it.
    Delay(u64),
}

/// An event as a producer made it. Sent again, it is the same bytes.
#[derive(Clone, Debug)]
pub struct Content {
    /// Its place in the list of all contents.
    pub number: u32,
    pub topic: Arc<str>,
    pub message_id: String,
    pub partition_key: Option<String>,
    pub when: When,
    pub payload_len: usize,
    pub meta_len: usize,
    pub allow_duplicate: bool,
    pub durable_ack: bool,
    /// Breaks a rule: must be refused.
    pub fault: Option<EventFault>,
}

/// Smallest payload: it has to hold the number.
pub const PAYLOAD_MIN: usize = 8;

impl Content {
    pub fn partition(&self, partitions: u16) -> PartitionId {
        let key = self.partition_key.as_deref().unwrap_or(&self.message_id);
        route::partition_of(key.as_bytes(), partitions)
    }

    pub fn payload(&self) -> Vec<u8> {
        filler(self.number, 0, self.payload_len)
    }

    pub fn meta(&self) -> Vec<u8> {
        filler(self.number, 1, self.meta_len)
    }

    /// Whether a stored event is this one, as far as it does not depend on the server.
    pub fn matches(&self, event: &StoredEvent) -> bool {
        event.topic == self.topic
            && event.message_id.of(&event.body) == self.message_id.as_bytes()
            && event.payload.of(&event.body) == self.payload()
            && event.meta.of(&event.body) == self.meta()
            && event.checksum == crc32fast::hash(event.payload.of(&event.body))
    }
}

/// The number a payload carries.
pub fn number_of(event: &StoredEvent) -> Option<u32> {
    let payload = event.payload.of(&event.body);
    payload.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes))
}

/// A publish message of these events.
pub fn message(contents: &[&Content], batch: bool) -> PublishMessage {
    let mut bytes = Vec::new();
    let mut put = |data: &[u8]| {
        let start = bytes.len() as u32;
        bytes.extend_from_slice(data);
        Span { start, len: data.len() as u32 }
    };
    let events = contents.iter().map(|content| EventSpan {
        message_id: put(content.message_id.as_bytes()),
        topic: put(content.topic.as_bytes()),
        payload: put(&content.payload()),
        meta: put(&content.meta()),
        partition_key: put(content.partition_key.as_deref().unwrap_or("").as_bytes()),
        schedule_ts: if let When::At(ts) = content.when { ts } else { 0 },
        delay_ms: if let When::Delay(ms) = content.when { Some(ms) } else { None },
        durable_ack: content.durable_ack,
        fault: content.fault,
    });
    let events = events.collect();
    let allow_duplicate = contents.first().is_some_and(|content| content.allow_duplicate);
    PublishMessage { bytes: Bytes::from(bytes), events, allow_duplicate, batch }
}

fn filler(number: u32, salt: u64, len: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(len + 8);
    data.extend_from_slice(&number.to_le_bytes());
    let mut x = mix(u64::from(number) << 8 | salt);
    while data.len() < len {
        data.extend_from_slice(&x.to_le_bytes());
        x = mix(x.wrapping_add(0x9e37_79b9));
    }
    data.truncate(len);
    data
}

#[test]
fn a_message_holds_its_events() {
    let content = Content {
        number: 3,
        topic: "t".into(),
        message_id: "id".into(),
        partition_key: None,
        when: When::Delay(5),
        payload_len: 20,
        meta_len: 7,
        allow_duplicate: false,
        durable_ack: false,
        fault: None,
    };
    let message = message(&[&content, &content], true);
    assert_eq!(message.events.len(), 2);
    assert_eq!(message.events[1].payload.of(&message.bytes), content.payload());
    assert_eq!(message.events[1].meta.of(&message.bytes).len(), 7);
    assert_eq!(message.events[0].routing_key(&message.bytes), b"id");
}
