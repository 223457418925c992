//! Building events, and which partition they go to.

use bytes::Bytes;

use crate::base::error::ErrorCode;
use crate::base::ids::{Offset, PartitionId};
use crate::wire::events::{Event, EventResult, PublishResponse};

use super::error::ClientError;

/// Key of `meta` whose value routes an event instead of its `message_id`.
pub const PARTITION_KEY: &str = "partition_key";

impl Event {
    /// An event that is due at once (1 ms after the server takes it). `message_id` names it within
    /// its topic: a second publish with the same one is answered with the place of the first.
    pub fn new(
        topic: impl Into<String>,
        message_id: impl Into<String>,
        payload: impl Into<Bytes>,
    ) -> Self {
        Self {
            topic: topic.into(),
            message_id: message_id.into(),
            payload: payload.into(),
            // By the server's clock: this machine's may be ahead, and then "now" would wait.
            delay_ms: 1,
            ..Self::default()
        }
    }

    /// Due at this time, Unix ms.
    #[must_use]
    pub fn at_ms(mut self, schedule_ts: u64) -> Self {
        self.schedule_ts = i64::try_from(schedule_ts).unwrap_or(i64::MAX);
        self.delay_ms = 0;
        self
    }

    /// Due so many ms after the server takes the event, by the server's clock; at least 1.
    #[must_use]
    pub fn after_ms(mut self, delay_ms: u64) -> Self {
        self.delay_ms = i64::try_from(delay_ms.max(1)).unwrap_or(i64::MAX);
        self.schedule_ts = 0;
        self
    }

    /// Events with the same key go to the same partition, in the order published.
    #[must_use]
    pub fn with_key(self, key: impl Into<String>) -> Self {
        self.with_meta(PARTITION_KEY, key)
    }

    /// Adds an entry of `meta`, handed back unchanged.
    #[must_use]
    pub fn with_meta(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.meta.insert(key.into(), value.into());
        self
    }

    /// The bytes that decide the partition.
    #[must_use]
    pub fn routing_key(&self) -> &[u8] {
        match self.meta.get(PARTITION_KEY) {
            Some(key) if !key.is_empty() => key.as_bytes(),
            _ => self.message_id.as_bytes(),
        }
    }
}

/// Where a published event lies. It is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset there.
    pub offset: Offset,
    /// When it is due, absolute Unix ms.
    pub schedule_ts: u64,
    /// The id had been published before: nothing new was stored, and this is the original's place.
    pub duplicate: bool,
}

impl Published {
    pub(super) fn from_response(response: PublishResponse) -> Result<Self, ClientError> {
        let code = match (response.success, response.duplicate) {
            (true, _) => 0,
            (false, true) => ErrorCode::Duplicate as i32,
            // A refusal without a code is still one.
            (false, false) => response.code.max(ErrorCode::InvalidArgument as i32),
        };
        Self::from_result(EventResult {
            code,
            error: response.error,
            partition_id: response.partition_id,
            offset: response.offset,
            schedule_ts: response.schedule_ts,
        })
    }

    pub(super) fn from_result(result: EventResult) -> Result<Self, ClientError> {
        let duplicate = result.code == ErrorCode::Duplicate as i32;
        if result.code != 0 && !duplicate {
            return Err(ClientError::refused(result.code, result.error));
        }
        let partition = u16::try_from(result.partition_id);
        let offset = u64::try_from(result.offset);
        match (partition, offset) {
            (Ok(partition), Ok(offset)) => Ok(Self {
                partition: PartitionId(partition),
                offset: Offset(offset),
                schedule_ts: u64::try_from(result.schedule_ts).unwrap_or(0),
                duplicate,
            }),
            _ => Err(ClientError::answer("a stored event has a partition and an offset")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_routes_before_the_id() {
        let event = Event::new("orders", "id-1", "hello");
        assert_eq!(event.routing_key(), b"id-1");
        assert_eq!(event.clone().with_key("").routing_key(), b"id-1", "an empty key is none");
        assert_eq!(event.with_key("customer-7").routing_key(), b"customer-7");
    }

    #[test]
    fn a_time_and_a_delay_exclude_each_other() {
        let event = Event::new("orders", "id-1", "hello");
        assert_eq!((event.schedule_ts, event.delay_ms), (0, 1));
        let event = event.after_ms(500);
        assert_eq!((event.schedule_ts, event.delay_ms), (0, 500));
        let event = event.at_ms(1_700_000_000_000);
        assert_eq!((event.schedule_ts, event.delay_ms), (1_700_000_000_000, 0));
        let event = event.after_ms(0);
        assert_eq!((event.schedule_ts, event.delay_ms), (0, 1));
    }

    #[test]
    fn a_duplicate_is_a_place_and_a_refusal_is_an_error() {
        let duplicate = PublishResponse {
            error: "duplicate message_id".into(),
            offset: 7,
            partition_id: 3,
            schedule_ts: 99,
            duplicate: true,
            ..PublishResponse::default()
        };
        let placed = Published::from_response(duplicate).expect("a place");
        assert!(placed.duplicate && placed.offset == Offset(7));
        let refused = PublishResponse { error: "payload is required".into(), ..Default::default() };
        let refused = Published::from_response(refused);
        assert!(matches!(refused, Err(ClientError::Refused(_))), "{refused:?}");
        let nowhere = EventResult { offset: -1, partition_id: 1, ..Default::default() };
        assert!(matches!(Published::from_result(nowhere), Err(ClientError::Answer(_))));
    }
}
