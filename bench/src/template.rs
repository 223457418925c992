//! Events, encoded once and then copied: only id and time change.
//!
//! ```text
//! 0a <len> | 0a <len> prefix-counter | 10 <6 bytes> | 22 <len> topic | 2a meta | 1a <len> payload
//!  event      id, ends in 12 hex       schedule_ts                      (fixed)
//! ```
//! The same bytes are field 1 of a `PublishRequest` and of a `PublishBatchRequest`.

use bytes::{BufMut, Bytes, BytesMut};
use chronosdb::base::route;
use prost::encoding::{encode_varint, encoded_len_varint};

/// Hex digits of the counter that ends an id.
const DIGITS: usize = 12;
/// Bytes of a time between 2004 and 2109 as a varint.
const TIME_BYTES: usize = 6;
const TIME_MIN: u64 = 1 << 35;
const TIME_MAX: u64 = (1 << 42) - 1;

/// What events are like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Topic of all of them.
    pub topic: String,
    /// Payload, bytes.
    pub payload: usize,
    /// Beginning of the ids; no other maker in the world has the same.
    pub prefix: String,
    /// A partition key for all of them.
    pub key: Option<String>,
}

/// Which ids are used: those whose partition belongs to the connection's shard.
#[derive(Clone, Debug)]
pub struct Owned {
    /// For each partition, whether it is one of them.
    pub partitions: Vec<bool>,
}

/// Makes events.
#[derive(Clone, Debug)]
pub struct EventMaker {
    /// One event with its tag and length.
    bytes: Vec<u8>,
    /// Where the counter of the id ends.
    id_end: usize,
    /// Hash of the id up to the counter.
    prefix_hash: u64,
    time_at: usize,
    owned: Option<Owned>,
    counter: u64,
}

impl EventMaker {
    /// Encodes the template. With `owned`, ids are passed over until one belongs there.
    pub fn new(shape: &Shape, owned: Option<Owned>) -> Self {
        let owned = owned.filter(|_| shape.key.is_none());
        if let Some(owned) = &owned {
            assert!(owned.partitions.contains(&true), "some partition is owned");
        }
        let id = format!("{}{:0DIGITS$x}", shape.prefix, 0);
        let mut event = Vec::with_capacity(shape.payload + 256);
        put_field(&mut event, 1, id.as_bytes());
        let id_end = event.len();
        event.push(2 << 3);
        let time_from_start = event.len();
        encode_varint(TIME_MIN, &mut event);
        assert_eq!(event.len() - time_from_start, TIME_BYTES, "the place of a time");
        put_field(&mut event, 4, shape.topic.as_bytes());
        if let Some(key) = &shape.key {
            let mut entry = Vec::new();
            put_field(&mut entry, 1, b"partition_key");
            put_field(&mut entry, 2, key.as_bytes());
            put_field(&mut event, 5, &entry);
        }
        put_field(&mut event, 3, &noise(shape.payload));

        let header = 1 + encoded_len_varint(event.len() as u64);
        let mut bytes = Vec::with_capacity(header + event.len());
        put_field(&mut bytes, 1, &event);
        assert_eq!(bytes.len(), header + event.len(), "tag, length, event");
        Self {
            bytes,
            id_end: header + id_end,
            prefix_hash: route::fnv1a_64(shape.prefix.as_bytes()),
            time_at: header + time_from_start,
            owned,
            counter: 0,
        }
    }

    /// Bytes of one event as it is put.
    pub fn event_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the next event, due at `schedule_ts` (Unix ms).
    pub fn put(&mut self, schedule_ts: u64, out: &mut BytesMut) {
        loop {
            self.counter += 1;
            let digits = &mut self.bytes[self.id_end - DIGITS..self.id_end];
            put_hex(self.counter, digits);
            let Some(owned) = &self.owned else { break };
            let hash = route::fnv1a_64_continued(self.prefix_hash, digits);
            if owned.partitions[(hash % owned.partitions.len() as u64) as usize] {
                break;
            }
        }
        put_time(schedule_ts, &mut self.bytes[self.time_at..self.time_at + TIME_BYTES]);
        out.put_slice(&self.bytes);
    }
}

impl EventMaker {
    /// The next `count` events as the body of a request; `due` tells when each is due (Unix ms).
    pub fn fill(&mut self, count: u16, due: impl Fn(u16) -> u64) -> Bytes {
        let mut out = BytesMut::with_capacity(usize::from(count) * self.event_bytes());
        (0..count).for_each(|n| self.put(due(n), &mut out));
        out.freeze()
    }
}

fn put_field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_hex(mut number: u64, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

fn put_time(schedule_ts: u64, place: &mut [u8]) {
    let mut rest = schedule_ts.clamp(TIME_MIN, TIME_MAX);
    let last = place.len() - 1;
    for (i, byte) in place.iter_mut().enumerate() {
        *byte = (rest & 0x7f) as u8 | if i == last { 0 } else { 0x80 };
        rest >>= 7;
    }
}

/// Bytes that no compression would shrink; the same in each run.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chronosdb::wire::events::{PublishBatchRequest, PublishRequest};
    use prost::Message;

    use super::*;

    fn shape(key: Option<&str>) -> Shape {
        Shape {
            topic: "load".into(),
            payload: 256,
            prefix: "b-00c0ffee-".into(),
            key: key.map(Into::into),
        }
    }

    #[test]
    fn events_decode_to_what_was_meant() {
        let mut maker = EventMaker::new(&shape(Some("k-1")), None);
        let mut out = BytesMut::new();
        for number in 0..100 {
            maker.put(1_800_000_000_000 + number, &mut out);
        }
        assert_eq!(out.len(), 100 * maker.event_bytes());
        let batch = PublishBatchRequest::decode(&out[..]).expect("a batch");
        let ids: BTreeSet<_> = batch.events.iter().map(|event| &event.message_id).collect();
        assert_eq!(ids.len(), 100);
        for (number, event) in batch.events.iter().enumerate() {
            assert_eq!(event.schedule_ts, 1_800_000_000_000 + number as i64);
            assert_eq!((event.topic.as_str(), event.payload.len()), ("load", 256));
            assert_eq!(event.meta["partition_key"], "k-1");
        }
        let single = PublishRequest::decode(&out[..maker.event_bytes()]).expect("a request");
        assert_eq!(single.event.as_ref(), batch.events.first());
    }

    #[test]
    fn only_owned_partitions_are_used() {
        let owned = Owned { partitions: (0..16).map(|partition| partition % 2 == 1).collect() };
        let mut maker = EventMaker::new(&shape(None), Some(owned));
        let mut out = BytesMut::new();
        for _ in 0..1_000 {
            maker.put(1_800_000_000_000, &mut out);
        }
        let batch = PublishBatchRequest::decode(&out[..]).expect("a batch");
        let partition = |id: &str| route::partition_of(id.as_bytes(), 16).0;
        let used: BTreeSet<_> = batch.events.iter().map(|e| partition(&e.message_id)).collect();
        assert_eq!(used, (0..16).filter(|partition| partition % 2 == 1).collect());
    }

    #[test]
    fn times_outside_the_place_are_moved_into_it() {
        for (given, expected) in [(0, TIME_MIN), (u64::MAX, TIME_MAX), (1 << 40, 1 << 40)] {
            let mut place = [0; TIME_BYTES];
            put_time(given, &mut place);
            let read = prost::encoding::decode_varint(&mut &place[..]).expect("a varint");
            assert_eq!(read, expected);
        }
    }
}
