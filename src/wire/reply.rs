//! Answers, deliveries and replayed events as protobuf, and in native frames.
//!
//! What is sent per event is encoded by hand: a payload is copied once, from the log's bytes into
//! the socket's buffer, and `meta` goes out as it came in. The rest goes by prost. `encode_*`
//! writes a bare message (gRPC sends that), `put_*` writes native frames. Tests decode all of it.
//!
//! What is encoded comes from the engine and is bounded there; no frame exceeds its limit.

use bytes::{BufMut, BytesMut};
use prost::encoding::{encode_varint, encoded_len_varint};

use super::delivery_id::DeliveryIds;
use super::frame::{self, begin, finish};
use super::kind::FrameKind;
use super::{events, native};
use crate::base::api::{
    AckOutcome, Delivery, EventOutcome, PartitionStatus, Placed, Replayed, Reply, StoredEvent,
};
use crate::base::error::{ApiError, ErrorCode};
use crate::base::limits;

/// A frame of deliveries or replayed events is closed once its body has this many bytes, so that
/// the client can begin with them. The next one still may be as large as an event can be.
const STREAM_FRAME_BYTES: usize = 1 << 20;
/// A whole delivery: payload, meta, names, id, and room for the numbers.
const DELIVERY_BYTES: usize = limits::PAYLOAD_BYTES
    + limits::META_BYTES
    + limits::MESSAGE_ID_BYTES
    + limits::NAME_BYTES
    + limits::DELIVERY_ID_BYTES
    + 256;
const _: () = assert!(STREAM_FRAME_BYTES + DELIVERY_BYTES <= limits::MESSAGE_BYTES);
/// Text of a duplicate, fixed by the API.
const DUPLICATE: &str = "duplicate message_id";

// ------------------------------------------------------------------------------ native frames

/// Appends the frame that answers a request. `node_id` names this node in lists of partitions.
pub fn put_reply(out: &mut BytesMut, correlation: u64, reply: &Reply, node_id: &str) {
    match reply {
        Reply::Published { batch, outcomes } => {
            let kind = if *batch { FrameKind::PublishedBatch } else { FrameKind::Published };
            let mark = begin(out, kind, correlation);
            encode_published(out, *batch, outcomes);
            finish(out, mark);
        }
        Reply::Acked(outcomes) => put_acked(out, correlation, outcomes),
        Reply::Subscribed => frame::put_empty(out, FrameKind::Subscribed, correlation),
        Reply::StreamEnd(end) => {
            let (code, text) = match end {
                Ok(()) => (0, String::new()),
                Err(error) => (error.code as i32, error.text.to_string()),
            };
            let end = native::StreamEnd { code, text };
            put_bounded(out, FrameKind::StreamEnd, correlation, &end);
        }
        Reply::Partitions(statuses) => {
            let list = partition_list(statuses, node_id);
            put_bounded(out, FrameKind::PartitionList, correlation, &list);
        }
        Reply::Topic(_) => unreachable!("no frame asks for a topic's settings"),
        Reply::Failed(error) => put_error(out, correlation, error),
    }
}

/// Appends an `Error` frame; with correlation id 0 it is about the connection.
pub fn put_error(out: &mut BytesMut, correlation: u64, error: &ApiError) {
    let error = native::Error { code: error.code as i32, text: error.text.to_string() };
    put_bounded(out, FrameKind::Error, correlation, &error);
}

/// Appends deliveries of a group's stream, as many frames as they need.
pub fn put_deliveries(out: &mut BytesMut, stream: u64, group: &str, deliveries: &[Delivery]) {
    let mut ids = DeliveryIds::of_group(group);
    put_stream(out, FrameKind::Deliveries, stream, deliveries, |out, delivery| {
        let id = ids.format(delivery);
        let event_bytes = event_bytes(&delivery.event);
        let bytes = delivery_bytes(delivery, id, event_bytes);
        out.reserve(nested_bytes(bytes) + WORD_BYTES);
        put_length(out, 1, bytes);
        put_delivery(out, delivery, id, event_bytes);
    });
}

/// Appends events of a replay's stream, as many frames as they need.
pub fn put_replayed(out: &mut BytesMut, stream: u64, events: &[Replayed]) {
    put_stream(out, FrameKind::ReplayEvents, stream, events, |out, replayed| {
        let event_bytes = event_bytes(&replayed.event);
        let bytes = replayed_bytes(replayed, event_bytes);
        out.reserve(nested_bytes(bytes) + WORD_BYTES);
        put_length(out, 1, bytes);
        put_replay_event(out, replayed, event_bytes);
    });
}

fn put_stream<T>(
    out: &mut BytesMut,
    kind: FrameKind,
    stream: u64,
    items: &[T],
    mut put: impl FnMut(&mut BytesMut, &T),
) {
    let mut items = items.iter().peekable();
    while items.peek().is_some() {
        let start = out.len();
        let mark = begin(out, kind, stream);
        while out.len() - start < STREAM_FRAME_BYTES
            && let Some(item) = items.next()
        {
            put(out, item);
        }
        finish(out, mark);
    }
}

/// The form goes by the number of verdicts: the engine's answer does not tell which kind asked.
fn put_acked(out: &mut BytesMut, correlation: u64, outcomes: &[AckOutcome]) {
    if let [outcome] = outcomes {
        let mark = begin(out, FrameKind::Acked, correlation);
        encode_acked(out, outcome);
        finish(out, mark);
        return;
    }
    let mark = begin(out, FrameKind::AckedBatch, correlation);
    for outcome in outcomes {
        put_length(out, 1, acked_bytes(outcome));
        encode_acked(out, outcome);
    }
    finish(out, mark);
}

fn put_bounded(
    out: &mut BytesMut,
    kind: FrameKind,
    correlation: u64,
    message: &impl prost::Message,
) {
    // Only a list of very many partitions on a node with a very long name comes near the limit.
    if let Err(error) = frame::put_message(out, kind, correlation, message) {
        put_error(out, correlation, &error);
    }
}

// ------------------------------------------------------------------------------------ publish

/// Whether a failed publish of one event is a gRPC status (a retry may cure it) rather than
/// `success = false`.
#[must_use]
pub fn is_status(code: ErrorCode) -> bool {
    use ErrorCode as E;
    match code {
        E::Unavailable | E::NotLeader | E::ResourceExhausted | E::NotFound | E::Unimplemented => {
            true
        }
        E::InvalidArgument | E::Malformed | E::Protocol | E::DataLoss | E::Duplicate => false,
    }
}

/// Encodes a `PublishBatchResponse`, or a `PublishResponse` of the one outcome.
///
/// # Panics
/// If there is no outcome for the one event of a `Publish`.
pub fn encode_published(out: &mut BytesMut, batch: bool, outcomes: &[EventOutcome]) {
    if batch {
        return encode_published_batch(out, outcomes);
    }
    let [outcome] = outcomes else {
        panic!("a publish of one event has one outcome, not {}", outcomes.len());
    };
    let (code, text, placed) = parts(outcome);
    let duplicate = matches!(outcome, EventOutcome::Duplicate(_));
    put_varint(out, 1, u64::from(code == 0));
    put_text(out, 2, if duplicate { DUPLICATE } else { text });
    let (offset, partition, schedule_ts) = place(placed);
    put_varint(out, 3, offset);
    put_varint(out, 4, partition);
    put_varint(out, 5, schedule_ts);
    put_varint(out, 100, u64::from(duplicate));
    put_varint(out, 101, code);
}

fn encode_published_batch(out: &mut BytesMut, outcomes: &[EventOutcome]) {
    let (mut published, mut duplicates, mut errors) = (0, 0, 0);
    let (mut first, mut last) = (u64::MAX, 0);
    let mut first_text = "";
    for outcome in outcomes {
        match outcome {
            EventOutcome::Stored(placed) => {
                published += 1;
                first = first.min(placed.offset.0);
                last = last.max(placed.offset.0);
            }
            EventOutcome::Duplicate(_) => duplicates += 1,
            EventOutcome::Failed(error) => {
                if errors == 0 {
                    first_text = &error.text;
                }
                errors += 1;
            }
        }
    }
    put_varint(out, 1, u64::from(errors == 0));
    put_text(out, 2, first_text);
    put_varint(out, 3, published);
    put_varint(out, 4, duplicates);
    put_varint(out, 5, errors);
    put_varint(out, 6, if published == 0 { NONE } else { first });
    put_varint(out, 7, if published == 0 { NONE } else { last });
    for outcome in outcomes {
        let (code, text, placed) = parts(outcome);
        let (offset, partition, schedule_ts) = place(placed);
        let bytes = varint_bytes(1, code)
            + text_bytes(2, text)
            + varint_bytes(3, partition)
            + varint_bytes(4, offset)
            + varint_bytes(5, schedule_ts);
        put_length(out, 100, bytes);
        put_varint(out, 1, code);
        put_text(out, 2, text);
        put_varint(out, 3, partition);
        put_varint(out, 4, offset);
        put_varint(out, 5, schedule_ts);
    }
}

/// Code, text and place of an outcome.
fn parts(outcome: &EventOutcome) -> (u64, &str, Option<&Placed>) {
    match outcome {
        EventOutcome::Stored(placed) => (0, "", Some(placed)),
        EventOutcome::Duplicate(placed) => (ErrorCode::Duplicate as u64, "", Some(placed)),
        EventOutcome::Failed(error) => (error.code as u64, &error.text, None),
    }
}

/// Offset, partition and `schedule_ts` as they are sent.
fn place(placed: Option<&Placed>) -> (u64, u64, u64) {
    placed.map_or((NONE, NONE, 0), |p| (p.offset.0, u64::from(p.partition.0), p.schedule_ts))
}

// ---------------------------------------------------------------------------------------- ack

/// Encodes an `AckResponse`.
pub fn encode_acked(out: &mut BytesMut, outcome: &AckOutcome) {
    let (code, text) = verdict_parts(outcome);
    put_varint(out, 1, u64::from(outcome.result.is_ok()));
    put_text(out, 2, text);
    put_varint(out, 3, outcome.committed_offset.0);
    put_varint(out, 100, code);
}

fn acked_bytes(outcome: &AckOutcome) -> usize {
    let (code, text) = verdict_parts(outcome);
    varint_bytes(1, u64::from(outcome.result.is_ok()))
        + text_bytes(2, text)
        + varint_bytes(3, outcome.committed_offset.0)
        + varint_bytes(100, code)
}

fn verdict_parts(outcome: &AckOutcome) -> (u64, &str) {
    match &outcome.result {
        Ok(()) => (0, ""),
        Err(error) => (error.code as u64, &error.text),
    }
}

// --------------------------------------------------------------------------- deliver and replay

/// Encodes a `Delivery` of one event, for gRPC. Several of one group share `ids`.
pub fn encode_delivery(out: &mut BytesMut, ids: &mut DeliveryIds, delivery: &Delivery) {
    let id = ids.format(delivery);
    let event_bytes = event_bytes(&delivery.event);
    out.reserve(delivery_bytes(delivery, id, event_bytes) + WORD_BYTES);
    put_delivery(out, delivery, id, event_bytes);
}

/// The caller has counted the event's bytes and made room for all of it.
fn put_delivery(out: &mut BytesMut, delivery: &Delivery, id: &[u8], event_bytes: usize) {
    put_length(out, 1, event_bytes);
    put_event(out, &delivery.event);
    put_bytes(out, 2, id);
    put_varint(out, 3, u64::from(delivery.attempt));
    put_varint(out, 4, delivery.ack_timeout_ms);
}

fn delivery_bytes(delivery: &Delivery, id: &[u8], event_bytes: usize) -> usize {
    nested_bytes(event_bytes)
        + bytes_bytes(2, id)
        + varint_bytes(3, u64::from(delivery.attempt))
        + varint_bytes(4, delivery.ack_timeout_ms)
}

/// Encodes a `ReplayEvent`.
pub fn encode_replayed(out: &mut BytesMut, replayed: &Replayed) {
    let event_bytes = event_bytes(&replayed.event);
    out.reserve(replayed_bytes(replayed, event_bytes) + WORD_BYTES);
    put_replay_event(out, replayed, event_bytes);
}

/// The caller has counted the event's bytes and made room for all of it.
fn put_replay_event(out: &mut BytesMut, replayed: &Replayed, event_bytes: usize) {
    put_length(out, 1, event_bytes);
    put_event(out, &replayed.event);
    put_varint(out, 2, replayed.index);
}

fn replayed_bytes(replayed: &Replayed, event_bytes: usize) -> usize {
    nested_bytes(event_bytes) + varint_bytes(2, replayed.index)
}

fn put_event(out: &mut BytesMut, event: &StoredEvent) {
    put_bytes(out, 1, event.message_id.of(&event.body));
    put_varint(out, 2, event.schedule_ts);
    put_bytes(out, 3, event.payload.of(&event.body));
    put_bytes(out, 4, event.topic.as_bytes());
    // Field 5 with tags and lengths, as it was published.
    out.put_slice(event.meta.of(&event.body));
    put_varint(out, 6, event.append_ts);
    put_varint(out, 7, event.offset.0);
    put_varint(out, 8, u64::from(event.partition.0));
    put_varint(out, 9, u64::from(event.checksum));
    put_varint(out, 10, event.term.0);
}

fn event_bytes(event: &StoredEvent) -> usize {
    bytes_bytes(1, event.message_id.of(&event.body))
        + varint_bytes(2, event.schedule_ts)
        + bytes_bytes(3, event.payload.of(&event.body))
        + bytes_bytes(4, event.topic.as_bytes())
        + event.meta.len as usize
        + varint_bytes(6, event.append_ts)
        + varint_bytes(7, event.offset.0)
        + varint_bytes(8, u64::from(event.partition.0))
        + varint_bytes(9, u64::from(event.checksum))
        + varint_bytes(10, event.term.0)
}

// --------------------------------------------------------------------------------- partitions

/// The list of partitions, which all are led by this node.
#[must_use]
pub fn partition_list(
    statuses: &[PartitionStatus],
    node_id: &str,
) -> events::ListPartitionsResponse {
    let partitions = statuses.iter().map(|status| partition_info(status, node_id)).collect();
    events::ListPartitionsResponse { partitions }
}

/// One partition, led by this node.
#[must_use]
pub fn partition_info(status: &PartitionStatus, node_id: &str) -> events::PartitionInfo {
    let high_watermark = status.high_watermark.0 as i64;
    events::PartitionInfo {
        partition_id: i32::from(status.partition.0),
        topic: format!("partition-{}", status.partition),
        leader_id: node_id.to_owned(),
        replica_ids: vec![node_id.to_owned()],
        high_watermark,
        last_offset: high_watermark - 1,
        segment_count: status.segment_count as i32,
        disk_usage_bytes: status.disk_usage_bytes as i64,
        shard: i32::from(status.shard.0),
        term: status.term.0 as i64,
        pending_events: status.pending as i64,
        ready_events: status.ready as i64,
        in_flight: status.in_flight as i64,
        read_only: status.read_only,
    }
}

// ------------------------------------------------------------------------------------- fields

/// -1 as an int32 or int64 is encoded.
const NONE: u64 = u64::MAX;
const VARINT: u32 = 0;
const LENGTH: u32 = 2;
/// A key and a number that fit into a word: it is written whole, and what is not of them cut off.
const WORD_BYTES: usize = 8;
/// The first number that does not: seven bytes of seven bits are beside the key.
const WORD_NUMBER: u64 = 1 << 49;

/// A key and a number. Nearly all fit into a word: put together byte by byte in memory and then
/// copied, the copy waits until the bytes have left the processor's store buffer.
fn put_pair(out: &mut BytesMut, key: u32, number: u64) {
    if key >= 0x80 || number >= WORD_NUMBER {
        encode_varint(u64::from(key), out);
        return encode_varint(number, out);
    }
    let (mut word, mut len, mut rest) = (u64::from(key), 1, number);
    while rest >= 0x80 {
        word |= (rest & 0x7f | 0x80) << (8 * len);
        (len, rest) = (len + 1, rest >> 7);
    }
    word |= rest << (8 * len);
    let end = out.len() + len + 1;
    out.put_u64_le(word);
    out.truncate(end);
}

/// The head of a field of so many bytes.
fn put_length(out: &mut BytesMut, number: u32, bytes: usize) {
    put_pair(out, number << 3 | LENGTH, bytes as u64);
}

fn key_bytes(number: u32) -> usize {
    encoded_len_varint(u64::from(number << 3))
}

/// Zero is the default and is not sent.
fn put_varint(out: &mut BytesMut, number: u32, value: u64) {
    if value != 0 {
        put_pair(out, number << 3 | VARINT, value);
    }
}

fn varint_bytes(number: u32, value: u64) -> usize {
    if value == 0 { 0 } else { key_bytes(number) + encoded_len_varint(value) }
}

/// Empty is the default and is not sent.
fn put_bytes(out: &mut BytesMut, number: u32, value: &[u8]) {
    if !value.is_empty() {
        put_length(out, number, value.len());
        out.put_slice(value);
    }
}

fn bytes_bytes(number: u32, value: &[u8]) -> usize {
    let len = value.len();
    if len == 0 { 0 } else { key_bytes(number) + encoded_len_varint(len as u64) + len }
}

fn put_text(out: &mut BytesMut, number: u32, value: &str) {
    put_bytes(out, number, value.as_bytes());
}

fn text_bytes(number: u32, value: &str) -> usize {
    bytes_bytes(number, value.as_bytes())
}

/// Tag, length and body of a message in field 1.
fn nested_bytes(body: usize) -> usize {
    key_bytes(1) + encoded_len_varint(body as u64) + body
}

#[cfg(test)]
#[path = "reply_test.rs"]
mod tests;
