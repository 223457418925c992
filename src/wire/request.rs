//! Requests other than publishes: protobuf to `base::api`, with every field checked.
//!
//! What breaks a rule is refused with the field's name. Only where the API says so is a value
//! bent instead: credit above its maximum, delays of a verdict, a long reason of a nack.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::field::{Malformed, Reader, has_control};
use super::kind::FrameKind;
use super::{delivery_id, events, native, publish};
use crate::base::api::{
    AckSpec, Nack, PartitionSet, ReplayRange, ReplaySpec, Request, Start, SubscribeSpec, Verdict,
};
use crate::base::error::{ApiError, ErrorCode};
use crate::base::ids::{Offset, PartitionId};
use crate::base::limits;

/// What requests are compared with, beside the fixed limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Partitions of the data directory.
    pub partitions: u16,
    /// Upper bound on the credit of one subscription.
    pub max_credit: u32,
}

/// Decodes the body of a native request frame. `wall_ms` is the server's clock (Unix ms), for the
/// horizon of `schedule_ts`.
///
/// `Hello` and `Ping` are the session's own business, and kinds that a server sends are no
/// requests: they fail with `Protocol`.
pub fn decode(
    kind: FrameKind,
    body: Bytes,
    bounds: &Bounds,
    wall_ms: u64,
) -> Result<Request, ApiError> {
    match kind {
        FrameKind::Publish => publish::scan(body, false, wall_ms).map(Request::Publish),
        FrameKind::PublishBatch => publish::scan(body, true, wall_ms).map(Request::Publish),
        FrameKind::Ack => Ok(Request::Ack(vec![scan_ack(&body)?])),
        FrameKind::AckBatch => scan_acks(&body).map(Request::Ack),
        FrameKind::Subscribe => subscribe(&message(&body)?, bounds).map(Request::Subscribe),
        FrameKind::Replay => replay(&message(&body)?, bounds).map(Request::Replay),
        FrameKind::Partitions => {
            let native::Partitions { partition } = message(&body)?;
            let partition =
                partition.map(|id| known(i64::from(id), bounds.partitions)).transpose()?;
            Ok(Request::Partitions(partition))
        }
        FrameKind::CloseStream => {
            let native::CloseStream { stream } = message(&body)?;
            Ok(Request::CloseStream { correlation: stream })
        }
        kind => Err(ApiError::new(ErrorCode::Protocol, format!("{kind:?} is no request"))),
    }
}

/// Decodes and checks the body of the first frame of a connection.
pub fn hello(body: &[u8]) -> Result<native::Hello, ApiError> {
    let hello: native::Hello = message(body)?;
    if hello.version == 0 {
        return Err(ApiError::new(ErrorCode::Protocol, "version is required in Hello"));
    }
    name("client", &hello.client)?;
    Ok(hello)
}

/// Checks a subscription.
pub fn subscribe(
    request: &events::SubscribeRequest,
    bounds: &Bounds,
) -> Result<SubscribeSpec, ApiError> {
    if request.consumer_group.is_empty() {
        return Err(ApiError::invalid("consumer_group is required"));
    }
    let start = match request.start_offset {
        0 => Start::Beginning,
        -1 if request.replay => Start::Beginning,
        -1 => Start::Now,
        offset if offset > 0 => Start::Offset(Offset(offset as u64)),
        _ => return Err(ApiError::invalid("start_offset must be -1 or more")),
    };
    let max_credit = bounds.max_credit.clamp(1, limits::CREDIT_MAX);
    let credit = match request.max_buffer_size {
        ..=0 => limits::CREDIT_DEFAULT,
        asked => asked as u32,
    };
    Ok(SubscribeSpec {
        group: name("consumer_group", &request.consumer_group)?,
        topic: name("topic", &request.topic)?,
        member: name("subscription_id", &request.subscription_id)?,
        partitions: partition_set(request.partition_id, &request.partitions, bounds.partitions)?,
        start,
        credit: credit.min(max_credit),
    })
}

/// Checks a replay.
pub fn replay(request: &events::ReplayRequest, bounds: &Bounds) -> Result<ReplaySpec, ApiError> {
    let range = if request.start_ts > 0 || request.end_ts > 0 {
        let end = (request.end_ts > 0).then_some(request.end_ts as u64);
        ReplayRange::Time { start: request.start_ts.max(0) as u64, end }
    } else {
        let count = match request.count {
            ..=0 => limits::REPLAY_COUNT_DEFAULT,
            count => count as u64,
        };
        ReplayRange::Offsets { start: Offset(request.start_offset.max(0) as u64), count }
    };
    if !request.speed.is_finite() || request.speed < 0.0 {
        return Err(ApiError::invalid("speed must be 0 or more"));
    }
    name("consumer_group", &request.consumer_group)?;
    name("subscription_id", &request.subscription_id)?;
    Ok(ReplaySpec {
        topic: name("topic", &request.topic)?,
        partitions: partition_set(request.partition_id, &request.partitions, bounds.partitions)?,
        range,
        speed: request.speed,
    })
}

/// Checks the number of one partition, as in `GetPartitionRequest`.
pub fn partition(partition_id: i32, bounds: &Bounds) -> Result<PartitionId, ApiError> {
    known(i64::from(partition_id), bounds.partitions)
}

fn known(id: i64, count: u16) -> Result<PartitionId, ApiError> {
    if id < 0 {
        return Err(ApiError::invalid("partition_id must be 0 or more"));
    }
    match u16::try_from(id) {
        Ok(id) if id < count => Ok(PartitionId(id)),
        _ => {
            let text = format!("partition {id} does not exist; there are {count}, from 0");
            Err(ApiError::new(ErrorCode::NotFound, text))
        }
    }
}

/// `partition_id` of streams: -1, 0 and absent mean all, unless `partitions` names some.
fn partition_set(id: i32, these: &[i32], count: u16) -> Result<PartitionSet, ApiError> {
    if id < -1 {
        return Err(ApiError::invalid("partition_id must be -1 or more"));
    }
    if these.is_empty() {
        return match id {
            ..=0 => Ok(PartitionSet::All),
            id => Ok(PartitionSet::These(vec![known(i64::from(id), count)?])),
        };
    }
    if id > 0 {
        return Err(ApiError::invalid("partition_id and partitions exclude each other"));
    }
    if these.len() > usize::from(count) {
        return Err(ApiError::invalid("partitions names more than there are"));
    }
    let set: Result<Vec<_>, _> = these.iter().map(|id| known(i64::from(*id), count)).collect();
    let mut set = set?;
    set.sort_unstable();
    set.dedup();
    Ok(PartitionSet::These(set))
}

/// A name of at most `NAME_BYTES` bytes without control characters.
fn name(field: &str, value: &str) -> Result<Arc<str>, ApiError> {
    if value.len() > limits::NAME_BYTES {
        let limit = limits::NAME_BYTES;
        return Err(ApiError::invalid(format!("{field} exceeds {limit} characters")));
    }
    if has_control(value.as_bytes()) {
        return Err(ApiError::invalid(format!("{field} must not contain control characters")));
    }
    Ok(Arc::from(value))
}

fn message<T: Message + Default>(body: &[u8]) -> Result<T, ApiError> {
    if body.len() > limits::SMALL_REQUEST_BYTES {
        return Err(ApiError::invalid("request exceeds 64 KiB"));
    }
    T::decode(body)
        .map_err(|e| ApiError::new(ErrorCode::Malformed, format!("message can't be parsed: {e}")))
}

// ---------------------------------------------------------------------------------------- ack

/// Reads an ack that prost has decoded.
#[must_use]
pub fn ack(request: &events::AckRequest) -> AckSpec {
    let fields = AckFields {
        delivery_id: &request.delivery_id,
        success: request.success,
        error: &request.error,
        retry_delay_ms: request.retry_delay_ms,
        extend_ms: request.extend_ms,
    };
    fields.spec()
}

/// Reads an `AckRequest` in place.
pub fn scan_ack(body: &[u8]) -> Result<AckSpec, ApiError> {
    bounded(body)?;
    Ok(AckFields::read(Reader::new(body))?.spec())
}

/// Reads an `AckBatch` in place; more than `ACK_BATCH` verdicts are refused.
pub fn scan_acks(body: &[u8]) -> Result<Vec<AckSpec>, ApiError> {
    bounded(body)?;
    let mut acks = Vec::new();
    let mut reader = Reader::new(body);
    while let Some(key) = reader.key()? {
        if key.number() != 1 {
            reader.skip(key)?;
            continue;
        }
        let span = reader.span(key)?;
        if acks.len() == limits::ACK_BATCH {
            let limit = limits::ACK_BATCH;
            return Err(ApiError::invalid(format!("acks exceeds {limit} per batch")));
        }
        if acks.is_empty() {
            let guess = 1 + reader.rest() / (span.len as usize + 2);
            acks.reserve(guess.min(limits::ACK_BATCH));
        }
        acks.push(AckFields::read(reader.nested(span))?.spec());
    }
    Ok(acks)
}

fn bounded(body: &[u8]) -> Result<(), ApiError> {
    if body.len() > limits::MESSAGE_BYTES {
        return Err(ApiError::invalid("message exceeds 16 MiB"));
    }
    Ok(())
}

/// The fields of an `AckRequest` that mean something. `next_offset` does not: it commits nothing.
#[derive(Debug, Default)]
struct AckFields<'a> {
    delivery_id: &'a str,
    success: bool,
    error: &'a str,
    retry_delay_ms: Option<i64>,
    extend_ms: i64,
}

impl<'a> AckFields<'a> {
    fn read(mut reader: Reader<'a>) -> Result<Self, Malformed> {
        let mut fields = Self::default();
        while let Some(key) = reader.key()? {
            match key.number() {
                2 => fields.delivery_id = reader.str(key)?,
                3 => fields.success = reader.varint(key)? != 0,
                4 => fields.error = reader.str(key)?,
                5 => {
                    reader.varint(key)?;
                }
                100 => fields.retry_delay_ms = Some(reader.varint(key)? as i64),
                101 => fields.extend_ms = reader.varint(key)? as i64,
                _ => reader.skip(key)?,
            }
        }
        Ok(fields)
    }

    fn spec(&self) -> AckSpec {
        let bent = |ms: i64| (ms.max(0) as u64).min(limits::RETRY_DELAY_MAX_MS);
        let verdict = if self.extend_ms > 0 {
            Verdict::Extend { by_ms: bent(self.extend_ms) }
        } else if self.success {
            Verdict::Ack
        } else {
            let cut = self.error.floor_char_boundary(limits::NACK_REASON_BYTES);
            let reason = Arc::from(&self.error[..cut]);
            Verdict::Nack(Box::new(Nack { delay_ms: self.retry_delay_ms.map(bent), reason }))
        };
        AckSpec { id: delivery_id::parse(self.delivery_id), verdict }
    }
}

#[cfg(test)]
#[path = "request_test.rs"]
mod tests;
