//! The publish scanner: walks `PublishRequest` and `PublishBatchRequest` into spans.
//!
//! Prost would allocate some strings and a map for each event; this reads the message in place and
//! checks every rule on the way. It takes exactly what prost takes, and reads the same from it
//! (the last of repeated fields, merged `event`s, absent keys), which the tests compare. A message
//! that can't be parsed or holds too many events fails as a whole, a rule that an event breaks is
//! that event's `fault`.
//!
//! Spans must be contiguous. The only field that may not be is `meta`, if an encoder puts other
//! fields between its entries: then the message is copied once and those entries are gathered
//! behind it.

use bytes::{Bytes, BytesMut};

use super::field::{Key, Malformed, Reader, has_control};
use crate::base::api::{EventFault, EventSpan, PublishMessage, Span};
use crate::base::error::ApiError;
use crate::base::limits;

/// Field numbers: `event` of `PublishRequest` and `events` of `PublishBatchRequest` are the same.
const EVENT: u32 = 1;
const ALLOW_DUPLICATE: u32 = 2;
const META: u32 = 5;

/// Takes a publish message apart. `batch` tells which of the two it is; `wall_ms` is the server's
/// clock (Unix ms), from which `schedule_ts` may be 100 years away.
///
/// Fails if the message is too long, can't be parsed or has more than `BATCH_EVENTS` events.
pub fn scan(message: Bytes, batch: bool, wall_ms: u64) -> Result<PublishMessage, ApiError> {
    if message.len() > limits::MESSAGE_BYTES {
        return Err(ApiError::invalid("message exceeds 16 MiB"));
    }
    let mut scan = Scan { wall_ms, ..Scan::default() };
    if batch {
        scan.batch(&message)?;
    } else {
        scan.single(&message)?;
    }
    let Scan { events, scattered, allow_duplicate, .. } = scan;
    let mut publish = PublishMessage { bytes: message, events, allow_duplicate, batch };
    if !scattered.is_empty() {
        gather(&mut publish, &scattered)?;
    }
    Ok(publish)
}

#[derive(Default)]
struct Scan {
    wall_ms: u64,
    events: Vec<EventSpan>,
    /// Places of the events whose `meta` is not contiguous.
    scattered: Vec<u32>,
    allow_duplicate: bool,
}

impl Scan {
    fn batch(&mut self, message: &[u8]) -> Result<(), ApiError> {
        let mut reader = Reader::new(message);
        while let Some(key) = reader.key()? {
            match key.number() {
                EVENT => {
                    let span = reader.span(key)?;
                    if self.events.len() == limits::BATCH_EVENTS {
                        let limit = limits::BATCH_EVENTS;
                        return Err(ApiError::invalid(format!("events exceeds {limit} per batch")));
                    }
                    if self.events.is_empty() {
                        // Events of a batch tend to be of one size; a wrong guess costs a copy.
                        let guess = 1 + reader.rest() / (span.len as usize + 2);
                        self.events.reserve(guess.min(limits::BATCH_EVENTS));
                    }
                    let mut event = EventScan::default();
                    event.read(message, reader.nested(span))?;
                    self.push(message, event);
                }
                ALLOW_DUPLICATE => self.allow_duplicate = reader.varint(key)? != 0,
                _ => reader.skip(key)?,
            }
        }
        Ok(())
    }

    fn single(&mut self, message: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        // A message field that comes again is merged into the one before.
        let mut event = EventScan::default();
        while let Some(key) = reader.key()? {
            match key.number() {
                EVENT => {
                    let span = reader.span(key)?;
                    event.read(message, reader.nested(span))?;
                }
                ALLOW_DUPLICATE => self.allow_duplicate = reader.varint(key)? != 0,
                _ => reader.skip(key)?,
            }
        }
        self.push(message, event);
        Ok(())
    }

    #[inline]
    fn push(&mut self, message: &[u8], mut event: EventScan) {
        event.span.fault = event.judge(message, self.wall_ms);
        if event.scattered && event.span.fault.is_none() {
            self.scattered.push(self.events.len() as u32);
        }
        self.events.push(event.span);
    }
}

/// One event while its fields come in, in any order and number.
#[derive(Default)]
struct EventScan {
    span: EventSpan,
    schedule_ts: i64,
    delay_ms: i64,
    meta_entries: usize,
    meta_bytes: usize,
    /// The entries of `meta` do not lie side by side.
    scattered: bool,
}

impl EventScan {
    #[inline]
    fn read(&mut self, message: &[u8], mut reader: Reader<'_>) -> Result<(), Malformed> {
        loop {
            let start = reader.at();
            let Some(key) = reader.key()? else {
                return Ok(());
            };
            match key.number() {
                1 => self.span.message_id = reader.text(key)?,
                2 => self.schedule_ts = reader.varint(key)? as i64,
                3 => self.span.payload = reader.span(key)?,
                4 => self.span.topic = reader.text(key)?,
                META => {
                    self.read_meta(message, &mut reader, key)?;
                    self.extend_meta(start, reader.at());
                }
                // Set by the server; what a client puts there is not looked at.
                6..=10 => {
                    reader.varint(key)?;
                }
                100 => self.delay_ms = reader.varint(key)? as i64,
                _ => reader.skip(key)?,
            }
        }
    }

    fn read_meta(
        &mut self,
        message: &[u8],
        reader: &mut Reader<'_>,
        key: Key,
    ) -> Result<(), Malformed> {
        let span = reader.span(key)?;
        let mut entry = reader.nested(span);
        let (mut name, mut value) = (Span::default(), Span::default());
        while let Some(key) = entry.key()? {
            match key.number() {
                1 => name = entry.text(key)?,
                2 => value = entry.text(key)?,
                _ => entry.skip(key)?,
            }
        }
        match name.of(message) {
            b"partition_key" => self.span.partition_key = value,
            b"cronos.durable_ack" => self.span.durable_ack = value.of(message) == b"true",
            _ => {}
        }
        Ok(())
    }

    /// Takes the bytes of one more entry, tag and length included.
    fn extend_meta(&mut self, start: usize, end: usize) {
        let meta = &mut self.span.meta;
        if self.meta_entries == 0 {
            meta.start = start as u32;
        } else {
            self.scattered |= (meta.start + meta.len) as usize != start;
        }
        meta.len = end as u32 - meta.start;
        self.meta_entries += 1;
        self.meta_bytes += end - start;
    }

    /// The first rule that the event breaks, in the order in which clients know them. Fills in what
    /// depends on several fields.
    fn judge(&mut self, message: &[u8], wall_ms: u64) -> Option<EventFault> {
        let EventSpan { message_id, topic, payload, .. } = self.span;
        if message_id.is_empty() {
            return Some(EventFault::MessageIdMissing);
        }
        if message_id.len as usize > limits::MESSAGE_ID_BYTES {
            return Some(EventFault::MessageIdTooLong);
        }
        if topic.len as usize > limits::NAME_BYTES {
            return Some(EventFault::TopicTooLong);
        }
        if payload.len as usize > limits::PAYLOAD_BYTES {
            return Some(EventFault::PayloadTooLarge);
        }
        if let Some(fault) = self.judge_time(wall_ms) {
            return Some(fault);
        }
        if payload.is_empty() {
            return Some(EventFault::PayloadMissing);
        }
        if has_control(message_id.of(message)) || has_control(topic.of(message)) {
            return Some(EventFault::ControlCharacter);
        }
        if self.meta_entries > limits::META_ENTRIES || self.meta_bytes > limits::META_BYTES {
            return Some(EventFault::MetaTooLarge);
        }
        None
    }

    fn judge_time(&mut self, wall_ms: u64) -> Option<EventFault> {
        let (schedule_ts, delay_ms) = (self.schedule_ts, self.delay_ms);
        if schedule_ts < 0 || delay_ms < 0 || (schedule_ts == 0 && delay_ms == 0) {
            return Some(EventFault::ScheduleMissing);
        }
        if schedule_ts > 0 && delay_ms > 0 {
            return Some(EventFault::ScheduleTwice);
        }
        let (schedule_ts, delay_ms) = (schedule_ts as u64, delay_ms as u64);
        let away = if delay_ms > 0 { delay_ms } else { schedule_ts.abs_diff(wall_ms) };
        if away > limits::SCHEDULE_HORIZON_MS {
            return Some(EventFault::ScheduleTooFar);
        }
        self.span.schedule_ts = schedule_ts;
        self.span.delay_ms = (delay_ms > 0).then_some(delay_ms);
        None
    }
}

/// Puts copies of scattered `meta` entries behind the message, side by side. The events are valid,
/// so their entries are few; all spans together still are no longer than the message was.
fn gather(publish: &mut PublishMessage, scattered: &[u32]) -> Result<(), Malformed> {
    let message = publish.bytes.clone();
    let mut bytes = BytesMut::with_capacity(message.len() + message.len() / 4);
    bytes.extend_from_slice(&message);
    for place in scattered {
        publish.events[*place as usize].meta = Span::default();
    }
    let mut wanted = scattered.iter().copied().peekable();
    let mut place = 0;
    let mut reader = Reader::new(&message);
    while let Some(key) = reader.key()? {
        if key.number() != EVENT {
            reader.skip(key)?;
            continue;
        }
        let span = reader.span(key)?;
        if wanted.peek() == Some(&place) {
            let start = bytes.len();
            copy_meta(&message, reader.nested(span), &mut bytes)?;
            let meta = &mut publish.events[place as usize].meta;
            if meta.is_empty() {
                meta.start = start as u32;
            }
            meta.len += (bytes.len() - start) as u32;
        }
        // A single message may hold its one event in several pieces.
        if publish.batch {
            wanted.next_if_eq(&place);
            place += 1;
        }
    }
    publish.bytes = bytes.freeze();
    Ok(())
}

fn copy_meta(message: &[u8], mut event: Reader<'_>, out: &mut BytesMut) -> Result<(), Malformed> {
    loop {
        let start = event.at();
        let Some(key) = event.key()? else {
            return Ok(());
        };
        event.skip(key)?;
        if key.number() == META {
            out.extend_from_slice(&message[start..event.at()]);
        }
    }
}

#[cfg(test)]
#[path = "publish_test.rs"]
mod tests;
