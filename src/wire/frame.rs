//! The native frame: 16 bytes of header, then a protobuf message. Decoder beside encoder.
//!
//! ```text
//! 0       4         5      6       8               16
//! | length | version | kind | flags | correlation id | body ...        all little-endian
//! ```
//! `length` counts what is behind it. The decoder judges a header as soon as its 16 bytes are there
//! and before anyone makes room for the body; it holds no state of its own, so bytes may come in
//! pieces of any size. A fault leaves the buffer as it is: the connection is to be closed.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use super::kind::FrameKind;
use crate::base::error::{ApiError, ErrorCode};
use crate::base::limits;

/// Version of the protocol, in every header.
pub const VERSION: u8 = 1;
/// Bytes in front of a body.
pub const HEADER_BYTES: usize = 16;
/// Bytes of the header that `length` counts.
const COUNTED_BYTES: usize = 12;

/// A header that has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the frame is.
    pub kind: FrameKind,
    /// The client's number for its request.
    pub correlation: u64,
    /// Length of the body, at most `kind.max_body()`.
    pub body_bytes: u32,
}

impl FrameHeader {
    /// Length of the whole frame, header included.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.body_bytes as usize
    }
}

/// A complete frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: FrameKind,
    /// The client's number for its request.
    pub correlation: u64,
    /// One protobuf message; shares the memory it was received in.
    pub body: Bytes,
}

/// Why a header can't be taken. The connection has lost its frames and must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// Shorter than a header.
    Short(u32),
    /// The body is longer than its kind allows.
    Long(FrameKind, u32),
    /// Another version of the protocol, or another protocol.
    Version(u8),
    /// No such kind, or one that only this side sends.
    Kind(u8),
    /// Flags that are not defined.
    Flags(u16),
}

impl FrameFault {
    /// As told to the peer before the connection is closed.
    #[must_use]
    pub fn error(self) -> ApiError {
        let text = match self {
            Self::Short(length) => format!("frame length {length} is shorter than a header"),
            Self::Long(kind, length) => {
                let limit = kind.max_body() + COUNTED_BYTES;
                format!("frame length {length} exceeds {limit} of a {kind:?} frame")
            }
            Self::Version(version) => {
                format!("frame version {version} is not spoken here; use {VERSION}")
            }
            Self::Kind(kind) => format!("frame kind {kind} is not known or not for this side"),
            Self::Flags(flags) => format!("frame flags {flags:#06x} are not known; use 0"),
        };
        ApiError::new(ErrorCode::Protocol, text)
    }
}

/// Which frames a decoder lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameDecoder {
    /// The server's: requests.
    Requests,
    /// The client's: answers, deliveries, stream ends.
    Answers,
}

impl FrameDecoder {
    /// Takes the first frame off the buffer, or nothing while it is incomplete.
    pub fn next(self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameFault> {
        let Some(FrameHeader { kind, correlation, body_bytes }) = self.peek(buffer)? else {
            return Ok(None);
        };
        if buffer.len() - HEADER_BYTES < body_bytes as usize {
            return Ok(None);
        }
        buffer.advance(HEADER_BYTES);
        let body = buffer.split_to(body_bytes as usize).freeze();
        Ok(Some(Frame { kind, correlation, body }))
    }

    /// The header of the first frame once its bytes are there: tells how long the frame is to be,
    /// before its body has come.
    pub fn peek(self, buffer: &[u8]) -> Result<Option<FrameHeader>, FrameFault> {
        let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let mut header = header.as_slice();
        let length = header.get_u32_le();
        let version = header.get_u8();
        let number = header.get_u8();
        let flags = header.get_u16_le();
        let correlation = header.get_u64_le();

        // The version first: of another one, nothing else means what it means here.
        if version != VERSION {
            return Err(FrameFault::Version(version));
        }
        let kind = FrameKind::from_number(number)
            .filter(|kind| kind.is_request() == (self == Self::Requests))
            .ok_or(FrameFault::Kind(number))?;
        if flags != 0 {
            return Err(FrameFault::Flags(flags));
        }
        let body_bytes =
            length.checked_sub(COUNTED_BYTES as u32).ok_or(FrameFault::Short(length))?;
        if body_bytes as usize > kind.max_body() {
            return Err(FrameFault::Long(kind, length));
        }
        Ok(Some(FrameHeader { kind, correlation, body_bytes }))
    }
}

/// Where a begun frame starts in its buffer. Has to be given to [`finish`].
#[derive(Debug)]
#[must_use = "a frame that is not finished has no length"]
pub struct Mark(usize);

/// Begins a frame: reserves its header. What is put into `out` until [`finish`] is its body.
pub fn begin(out: &mut BytesMut, kind: FrameKind, correlation: u64) -> Mark {
    let mark = Mark(out.len());
    out.reserve(HEADER_BYTES);
    out.put_u32_le(0);
    out.put_u8(VERSION);
    out.put_u8(kind as u8);
    out.put_u16_le(0);
    out.put_u64_le(correlation);
    mark
}

/// Completes the frame begun at `mark` by writing its length.
///
/// # Panics
/// If the body is longer than `MESSAGE_BYTES`: who encodes bounds what is encoded.
#[expect(clippy::needless_pass_by_value, reason = "a frame is finished once")]
pub fn finish(out: &mut BytesMut, mark: Mark) {
    let start = mark.0;
    let counted = out.len() - start - 4;
    assert!(counted >= COUNTED_BYTES, "the frame was begun in this buffer");
    assert!(counted <= COUNTED_BYTES + limits::MESSAGE_BYTES, "a frame's body is bounded");
    out[start..start + 4].copy_from_slice(&(counted as u32).to_le_bytes());
}

/// Appends a frame without a body.
pub fn put_empty(out: &mut BytesMut, kind: FrameKind, correlation: u64) {
    let mark = begin(out, kind, correlation);
    finish(out, mark);
}

/// Appends a frame that holds `message`. Refused, with nothing written, if it is longer than its
/// kind allows.
pub fn put_message(
    out: &mut BytesMut,
    kind: FrameKind,
    correlation: u64,
    message: &impl Message,
) -> Result<(), ApiError> {
    let bytes = message.encoded_len();
    if bytes > kind.max_body() {
        return Err(too_long(kind, bytes));
    }
    let mark = begin(out, kind, correlation);
    message.encode_raw(out);
    finish(out, mark);
    Ok(())
}

/// Appends a frame with an encoded body. Refused, with nothing written, if it is longer than its
/// kind allows.
pub fn put_body(
    out: &mut BytesMut,
    kind: FrameKind,
    correlation: u64,
    body: &[u8],
) -> Result<(), ApiError> {
    if body.len() > kind.max_body() {
        return Err(too_long(kind, body.len()));
    }
    let mark = begin(out, kind, correlation);
    out.put_slice(body);
    finish(out, mark);
    Ok(())
}

fn too_long(kind: FrameKind, bytes: usize) -> ApiError {
    let limit = kind.max_body();
    ApiError::invalid(format!("message of {bytes} bytes exceeds {limit} of a {kind:?} frame"))
}

#[cfg(test)]
#[path = "frame_test.rs"]
mod tests;
