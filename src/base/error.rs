//! Errors with a stable code and a text that says what to do.
//!
//! An [`ApiError`] answers a client; its code is what travels (`proto/native.proto`, `ErrorCode`).
//! A bug is an assert and a broken disk stops the process: neither is an error here.

use std::borrow::Cow;
use std::fmt;

/// Stable over the wire; numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ErrorCode {
    /// A field of the request breaks a rule; the text names it.
    InvalidArgument = 1,
    /// The partition, group or stream does not exist.
    NotFound = 2,
    /// A limit of memory, disk or requests is reached; retry with backoff.
    ResourceExhausted = 3,
    /// This node does not own the partition, or is shutting down.
    Unavailable = 4,
    /// A leadership ended before the request was committed; it may or may not take effect.
    NotLeader = 5,
    /// The server does not do this, on purpose; the text says why.
    Unimplemented = 6,
    /// The message can't be parsed.
    Malformed = 7,
    /// The frame breaks the protocol; the connection is closed.
    Protocol = 8,
    /// Stored data can't be read; nothing wrong was sent.
    DataLoss = 9,
    /// The same `message_id` was published before.
    Duplicate = 10,
}

impl ErrorCode {
    /// The code with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        use ErrorCode as E;
        [
            E::InvalidArgument,
            E::NotFound,
            E::ResourceExhausted,
            E::Unavailable,
            E::NotLeader,
            E::Unimplemented,
            E::Malformed,
            E::Protocol,
            E::DataLoss,
            E::Duplicate,
        ]
        .into_iter()
        .find(|code| *code as u32 == number)
    }
}

/// What a client is told when its request fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// For programs.
    pub code: ErrorCode,
    /// For people: names the field, the limit and the remedy.
    pub text: Cow<'static, str>,
}

impl ApiError {
    /// An error with a text.
    pub fn new(code: ErrorCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: text.into() }
    }

    /// A field breaks a rule.
    pub fn invalid(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidArgument, text)
    }

    /// The text that `wire-compat` fixes for admission control.
    #[must_use]
    pub fn at_capacity(partition: super::ids::PartitionId) -> Self {
        let text = format!("partition {partition} is at capacity; retry with backoff");
        Self::new(ErrorCode::ResourceExhausted, text)
    }

    /// So little of the disk is free that it is kept for what is not a publish.
    #[must_use]
    pub fn disk_full(free_bytes: u64, reserve_bytes: u64) -> Self {
        let [free, reserve, enough] =
            [free_bytes, reserve_bytes, reserve_bytes.saturating_mul(2)].map(|bytes| bytes >> 20);
        let text = format!(
            "the disk is full: {free} MiB are free, below {reserve} MiB publishes are refused; \
             free space on the node's disk and retry with backoff: it goes on by itself when \
             {enough} MiB are free"
        );
        Self::new(ErrorCode::ResourceExhausted, text)
    }

    /// The leadership under which the request was proposed has ended.
    #[must_use]
    pub fn not_leader() -> Self {
        Self::new(ErrorCode::NotLeader, "not the leader")
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ApiError {}
