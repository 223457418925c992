//! What can go wrong for a caller, told apart by what the caller can do about it.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::base::error::{ApiError, ErrorCode};

/// Why an operation failed. Cheap to clone: one lost connection fails many requests.
#[derive(Clone, Debug)]
pub enum ClientError {
    /// No connection to the server came about. Nothing was sent; a retry is safe.
    Connect {
        /// `host:port` that was tried.
        addr: String,
        /// Why.
        cause: Arc<io::Error>,
    },
    /// The other side is no ChronosDB server, or speaks another version. A retry will not help.
    Handshake {
        /// `host:port` that answered.
        addr: String,
        /// What was wrong with the answer.
        reason: String,
    },
    /// The request was not sent, because the connection went away before. A retry is safe.
    NotSent(Arc<str>),
    /// The request was sent and its answer did not come (the connection was lost, or the time was
    /// up): it may have taken effect or not. A publish is safe to repeat with the same
    /// `message_id`, an ack always; a nack that is repeated may answer that it is settled.
    Unknown(Arc<str>),
    /// The server refused. Its code tells whether a retry can help, see
    /// [`ClientError::is_retryable`].
    Refused(ApiError),
    /// The request breaks a rule that was checked here; nothing was sent.
    Invalid(Arc<str>),
    /// The server's answer can't be understood: one of the two has a bug.
    Answer(Arc<str>),
}

impl ClientError {
    /// Whether the same request may succeed later. Of an `Unknown` one this says only that
    /// repeating it is worth the try, not that it did not happen.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::NotSent(_) | Self::Unknown(_) => true,
            Self::Handshake { .. } | Self::Invalid(_) | Self::Answer(_) => false,
            Self::Refused(error) => matches!(
                error.code,
                ErrorCode::ResourceExhausted | ErrorCode::Unavailable | ErrorCode::NotLeader
            ),
        }
    }

    /// Whether the request may have taken effect although it failed.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Unknown(_) => true,
            Self::Refused(error) => error.code == ErrorCode::NotLeader,
            _ => false,
        }
    }

    pub(super) fn connect(addr: &str, cause: io::Error) -> Self {
        Self::Connect { addr: addr.to_owned(), cause: Arc::new(cause) }
    }

    pub(super) fn handshake(addr: &str, reason: impl Into<String>) -> Self {
        Self::Handshake { addr: addr.to_owned(), reason: reason.into() }
    }

    pub(super) fn unknown(reason: impl fmt::Display) -> Self {
        Self::Unknown(reason.to_string().into())
    }

    pub(super) fn answer(what: impl fmt::Display) -> Self {
        Self::Answer(what.to_string().into())
    }

    pub(super) fn invalid(what: impl fmt::Display) -> Self {
        Self::Invalid(what.to_string().into())
    }

    /// The error a server sent, by its number and text.
    pub(super) fn refused(code: i32, text: String) -> Self {
        match u32::try_from(code).ok().and_then(ErrorCode::from_number) {
            Some(code) => Self::Refused(ApiError::new(code, text)),
            None => Self::Answer(format!("error code {code} is not known here: {text}").into()),
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { addr, cause } => write!(f, "no connection to {addr}: {cause}"),
            Self::Handshake { addr, reason } => {
                write!(f, "{addr} does not speak this protocol: {reason}")
            }
            Self::NotSent(why) => write!(f, "not sent, a retry is safe: {why}"),
            Self::Unknown(why) => write!(f, "unknown whether it took effect: {why}"),
            Self::Refused(error) => write!(f, "{error}"),
            Self::Invalid(what) => f.write_str(what),
            Self::Answer(what) => write!(f, "the server's answer can't be understood: {what}"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect { cause, .. } => Some(cause.as_ref()),
            Self::Refused(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_and_doubt_follow_from_the_kind() {
        let lost = ClientError::unknown("connection reset");
        assert!(lost.is_retryable() && lost.may_have_happened());
        let full = ClientError::refused(3, "partition 1 is at capacity".into());
        assert!(full.is_retryable() && !full.may_have_happened());
        let deposed = ClientError::refused(5, "not the leader".into());
        assert!(deposed.is_retryable() && deposed.may_have_happened());
        let bad = ClientError::refused(1, "payload is required".into());
        assert!(!bad.is_retryable() && !bad.may_have_happened());
        assert!(matches!(ClientError::refused(4711, String::new()), ClientError::Answer(_)));
    }
}
