//! How long a peer may take for what is next: its first frame, the rest of a frame, taking what it
//! is sent, hanging up after a fault. All in boot time, ms.

use crate::base::error::{ApiError, ErrorCode};
use crate::base::limits;

/// How long a connection that was told its fault may take to hang up, ms.
const LINGER_MS: u64 = 1_000;

/// What is to be done with a peer that let a limit pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Tell it and close.
    Fault(ApiError),
    /// Close: it takes nothing any more.
    Close,
}

/// Since when a connection waits for its peer, and for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    opened: u64,
    greeted: bool,
    frame_since: Option<u64>,
    blocked_since: Option<u64>,
    faulted_at: Option<u64>,
}

impl Patience {
    /// Of a connection opened now.
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            opened: now_ms,
            greeted: false,
            frame_since: None,
            blocked_since: None,
            faulted_at: None,
        }
    }

    /// The peer has said Hello; `false` if it had before.
    pub(super) fn greet(&mut self) -> bool {
        !std::mem::replace(&mut self.greeted, true)
    }

    /// Whether the peer has said Hello.
    pub(super) fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// No frame is half received, or the connection itself does not read on. Gives back since when
    /// the peer was waited for.
    pub(super) fn frame_rests(&mut self) -> Option<u64> {
        self.frame_since.take()
    }

    /// The rest of a frame is waited for, since then.
    pub(super) fn frame_awaited(&mut self, since_ms: u64) {
        self.frame_since = Some(since_ms);
    }

    /// The socket takes no more, or took a little just now.
    pub(super) fn blocked(&mut self, now_ms: u64) {
        self.blocked_since = Some(now_ms);
    }

    /// All has left.
    pub(super) fn unblocked(&mut self) {
        self.blocked_since = None;
    }

    /// Whether the socket takes no more: the writer task has the output.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked_since.is_some()
    }

    /// The peer was told its fault; `false` if it had been before.
    pub(super) fn faulted(&mut self, now_ms: u64) -> bool {
        self.faulted_at.replace(now_ms).is_none()
    }

    /// Whether a limit has passed.
    pub(super) fn overdue(&self, now_ms: u64) -> Option<Overdue> {
        let passed = |since: Option<u64>, limit_ms: u64| {
            since.is_some_and(|since| now_ms.saturating_sub(since) > limit_ms)
        };
        if passed(self.blocked_since, limits::WRITE_STALL_MS) {
            return Some(Overdue::Close);
        }
        if self.faulted_at.is_some() {
            return passed(self.faulted_at, LINGER_MS).then_some(Overdue::Close);
        }
        let greeting = (!self.greeted).then_some(self.opened);
        let text = if passed(greeting, limits::HANDSHAKE_MS) {
            "no Hello within 5 s"
        } else if passed(self.frame_since, limits::FRAME_PROGRESS_MS) {
            "half a frame for 10 s"
        } else {
            return None;
        };
        Some(Overdue::Fault(ApiError::new(ErrorCode::Protocol, text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_000_000;

    fn greeted() -> Patience {
        let mut patience = Patience::new(START);
        assert!(patience.greet() && !patience.greet());
        patience
    }

    #[test]
    fn a_peer_that_says_nothing_is_told() {
        let patience = Patience::new(START);
        assert_eq!(patience.overdue(START + limits::HANDSHAKE_MS), None);
        let after = patience.overdue(START + limits::HANDSHAKE_MS + 1);
        assert!(matches!(after, Some(Overdue::Fault(error)) if error.text.contains("Hello")));
        assert_eq!(greeted().overdue(START + limits::HANDSHAKE_MS + 1), None);
    }

    #[test]
    fn a_begun_frame_must_be_completed() {
        let mut patience = greeted();
        patience.frame_awaited(START + 500);
        let end = START + 500 + limits::FRAME_PROGRESS_MS;
        assert_eq!(patience.overdue(end), None);
        assert!(matches!(patience.overdue(end + 1), Some(Overdue::Fault(_))));
        assert_eq!(patience.frame_rests(), Some(START + 500));
        assert_eq!(patience.overdue(end + 1), None);
    }

    #[test]
    fn a_peer_that_takes_nothing_is_left() {
        let mut patience = greeted();
        patience.blocked(START);
        patience.blocked(START + 10);
        let end = START + 10 + limits::WRITE_STALL_MS;
        assert_eq!(patience.overdue(end), None);
        assert_eq!(patience.overdue(end + 1), Some(Overdue::Close));
        patience.unblocked();
        assert_eq!(patience.overdue(end + 1), None);
    }

    #[test]
    fn after_a_fault_it_has_a_moment_to_hang_up() {
        let mut patience = Patience::new(START);
        let told = START + limits::HANDSHAKE_MS + 1;
        assert!(patience.faulted(told));
        assert_eq!(patience.overdue(told + LINGER_MS), None);
        assert_eq!(patience.overdue(told + LINGER_MS + 1), Some(Overdue::Close));
    }
}
