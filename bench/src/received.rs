//! Reading answers and deliveries without building messages: a few fields of each.

use bytes::{BufMut, Bytes, BytesMut};
use chronosdb::base::api::DeliveryId;
use chronosdb::wire::delivery_id;
use chronosdb::wire::events::PublishResponse;
use prost::Message;
use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};

/// What became of the events of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Stored by it.
    pub stored: u64,
    /// Published before.
    pub duplicates: u64,
    /// Failed.
    pub failed: u64,
    /// Why the first did.
    pub error: Option<String>,
}

/// One field of a message.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// The next field and its number; `None` at the end.
fn field<'a>(rest: &mut &'a [u8]) -> Result<Option<(u32, Value<'a>)>, String> {
    if rest.is_empty() {
        return Ok(None);
    }
    let bad = |error: prost::DecodeError| error.to_string();
    let key = decode_varint(rest).map_err(bad)?;
    let value = match key & 7 {
        0 => Value::Number(decode_varint(rest).map_err(bad)?),
        2 => {
            let len = usize::try_from(decode_varint(rest).map_err(bad)?).unwrap_or(usize::MAX);
            let (bytes, behind) = rest.split_at_checked(len).ok_or("a field is cut off")?;
            *rest = behind;
            Value::Bytes(bytes)
        }
        width @ (1 | 5) => {
            let len = if width == 1 { 8 } else { 4 };
            *rest = rest.get(len..).ok_or("a field is cut off")?;
            Value::Fixed
        }
        other => return Err(format!("wire type {other} is not known")),
    };
    Ok(Some(((key >> 3) as u32, value)))
}

/// The counts of a `PublishBatchResponse`; its results (field 100) are not looked at.
pub fn batch_counts(body: &[u8]) -> Result<Counts, String> {
    let (mut rest, mut counts) = (body, Counts::default());
    while let Some((number, value)) = field(&mut rest)? {
        match (number, value) {
            (2, Value::Bytes(text)) => {
                counts.error = Some(String::from_utf8_lossy(text).into_owned());
            }
            (3, Value::Number(n)) => counts.stored = n,
            (4, Value::Number(n)) => counts.duplicates = n,
            (5, Value::Number(n)) => counts.failed = n,
            _ => {}
        }
        if number >= 100 {
            break;
        }
    }
    Ok(counts)
}

/// The counts of a `PublishResponse`.
pub fn single_counts(body: Bytes) -> Result<Counts, String> {
    let response = PublishResponse::decode(body).map_err(|error| error.to_string())?;
    Ok(match (response.success, response.duplicate) {
        (true, _) => Counts { stored: 1, ..Counts::default() },
        (false, true) => Counts { duplicates: 1, ..Counts::default() },
        (false, false) => Counts { failed: 1, error: Some(response.error), ..Counts::default() },
    })
}

/// What a consumer needs of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// To be acknowledged.
    pub delivery_id: &'a [u8],
    /// Unix ms.
    pub schedule_ts: u64,
    /// From 1.
    pub attempt: u32,
}

/// Where an event stands in the order of its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The order is one for each partition.
    pub partition: u16,
    /// Its `schedule_ts`, or when it was stored if that was later, Unix ms.
    pub due: u64,
    /// Its offset in the partition.
    pub offset: u64,
}

impl Received<'_> {
    /// Its place, which its id tells.
    pub fn place(&self) -> Result<Place, String> {
        let text = std::str::from_utf8(self.delivery_id).ok();
        let id = text.and_then(delivery_id::parse);
        let bad = || format!("{:?} is no delivery id", String::from_utf8_lossy(self.delivery_id));
        let DeliveryId { partition, position, .. } = id.ok_or_else(bad)?;
        Ok(Place { partition: partition.0, due: position.due, offset: position.offset.0 })
    }
}

/// Walks the deliveries of a `Deliveries` frame.
pub fn deliveries(body: &[u8], mut each: impl FnMut(Received<'_>)) -> Result<(), String> {
    let mut rest = body;
    while let Some((number, value)) = field(&mut rest)? {
        if let (1, Value::Bytes(delivery)) = (number, value) {
            each(received(delivery)?);
        }
    }
    Ok(())
}

/// How many events a `ReplayEvents` frame has.
pub fn replayed(body: &[u8]) -> Result<u64, String> {
    let (mut rest, mut events) = (body, 0);
    while let Some((number, _)) = field(&mut rest)? {
        events += u64::from(number == 1);
    }
    Ok(events)
}

fn received(delivery: &[u8]) -> Result<Received<'_>, String> {
    let mut received = Received { delivery_id: &[], schedule_ts: 0, attempt: 0 };
    let mut rest = delivery;
    while let Some((number, value)) = field(&mut rest)? {
        match (number, value) {
            (1, Value::Bytes(event)) => {
                let mut rest = event;
                while let Some((number, value)) = field(&mut rest)? {
                    if let (2, Value::Number(ts)) = (number, value) {
                        received.schedule_ts = ts;
                        break;
                    }
                }
            }
            (2, Value::Bytes(id)) => received.delivery_id = id,
            (3, Value::Number(attempt)) => received.attempt = attempt as u32,
            _ => {}
        }
    }
    Ok(received)
}

/// Appends an ack to the body of an `AckBatch`.
pub fn put_ack(out: &mut BytesMut, delivery_id: &[u8]) {
    let id = delivery_id.len();
    let len = 1 + encoded_len_varint(id as u64) + id + 2;
    out.put_u8(1 << 3 | 2);
    encode_varint(len as u64, out);
    out.put_u8(2 << 3 | 2);
    encode_varint(id as u64, out);
    out.put_slice(delivery_id);
    out.put_slice(&[3 << 3, 1]);
}

/// How many verdicts of an `AckedBatch` (or one `Acked`) succeeded, and the first failure.
pub fn ack_counts(body: &[u8], batch: bool) -> Result<(u64, Option<String>), String> {
    let (mut confirmed, mut error) = (0, None);
    let mut judge = |response: &[u8]| -> Result<(), String> {
        let (mut rest, mut success) = (response, false);
        let mut text = "the ack was refused".to_owned();
        while let Some((number, value)) = field(&mut rest)? {
            match (number, value) {
                (1, Value::Number(flag)) => success = flag != 0,
                (2, Value::Bytes(bytes)) => text = String::from_utf8_lossy(bytes).into_owned(),
                _ => {}
            }
        }
        if success {
            confirmed += 1;
        } else {
            error.get_or_insert(text);
        }
        Ok(())
    };
    if batch {
        let mut rest = body;
        while let Some((number, value)) = field(&mut rest)? {
            if let (1, Value::Bytes(response)) = (number, value) {
                judge(response)?;
            }
        }
    } else {
        judge(body)?;
    }
    Ok((confirmed, error))
}

#[cfg(test)]
mod tests {
    use chronosdb::wire::events::{
        AckResponse, Delivery, Event, EventResult, PublishBatchResponse,
    };
    use chronosdb::wire::native::{AckBatch, AckedBatch, Deliveries};

    use super::*;

    #[test]
    fn counts_are_those_of_the_message() {
        let response = PublishBatchResponse {
            success: false,
            error: "payload is required".into(),
            published_count: 7,
            duplicate_count: 2,
            error_count: 1,
            first_offset: -1,
            last_offset: 1 << 40,
            results: vec![EventResult::default(); 10],
        };
        let counts = batch_counts(&response.encode_to_vec()).expect("it is sound");
        let error = Some("payload is required".to_owned());
        assert_eq!(counts, Counts { stored: 7, duplicates: 2, failed: 1, error });
        assert!(batch_counts(&[0x0a, 0x05, 0x01]).is_err(), "cut off");
    }

    #[test]
    fn deliveries_are_read_and_acked() {
        let delivery = |n: i64| Delivery {
            event: Some(Event {
                message_id: "id".into(),
                schedule_ts: 1_800_000_000_000 + n,
                payload: vec![0; 256].into(),
                ..Event::default()
            }),
            delivery_id: format!("group:3:1-{n}-7-1-0-9"),
            attempt: 1 + n as i32,
            ack_timeout_ms: 30_000,
            ..Delivery::default()
        };
        let message = Deliveries { deliveries: (0..5).map(delivery).collect() };
        let (mut acks, mut seen) = (BytesMut::new(), 0);
        let walked = deliveries(&message.encode_to_vec(), |received| {
            assert_eq!(received.schedule_ts, 1_800_000_000_000 + seen);
            assert_eq!(u64::from(received.attempt), 1 + seen);
            let place = Place { partition: 3, due: seen, offset: 7 };
            assert_eq!(received.place(), Ok(place));
            put_ack(&mut acks, received.delivery_id);
            seen += 1;
        });
        assert_eq!((walked, seen), (Ok(()), 5));
        let received = Received { delivery_id: b"g:3:1-2", schedule_ts: 0, attempt: 1 };
        assert!(received.place().is_err());
        let batch = AckBatch::decode(acks.freeze()).expect("a batch");
        for (n, ack) in batch.acks.iter().enumerate() {
            assert_eq!(
                (ack.delivery_id.as_str(), ack.success),
                (&*format!("group:3:1-{n}-7-1-0-9"), true)
            );
        }
    }

    #[test]
    fn ack_answers_are_counted() {
        let good = AckResponse { success: true, committed_offset: 9, ..AckResponse::default() };
        let bad = AckResponse { error: "unknown".into(), code: 2, ..AckResponse::default() };
        let batch = AckedBatch { results: vec![good.clone(), bad.clone(), good.clone()] };
        let counted = ack_counts(&batch.encode_to_vec(), true).expect("it is sound");
        assert_eq!(counted, (2, Some("unknown".into())));
        assert_eq!(ack_counts(&good.encode_to_vec(), false), Ok((1, None)));
        assert_eq!(ack_counts(&bad.encode_to_vec(), false), Ok((0, Some("unknown".into()))));
    }
}
