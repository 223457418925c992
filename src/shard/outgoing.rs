//! The bytes on their way to one client, and what the engine is to hear when they have left.
//!
//! Frames are appended whole and leave in order. Behind the bytes of each delivery effect lies a
//! mark; when the socket has taken the bytes up to it, the effect counts as sent. Bytes do not
//! leave before the wall clock reads what their guard says ("never early"); that holds them back
//! only after the clock was stepped back.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};

use crate::base::ids::SubscriptionId;
use crate::base::limits;

/// How long bytes wait for a wall clock that was stepped back; then their connection is closed, and
/// its deliveries come again when they are due, ms.
const CLOCK_HOLD_MS: u64 = 1_000;
/// Capacity that an empty buffer keeps at a clean-up, bytes.
const KEPT: usize = 16 << 10;

/// What `Input::Sent` says of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) subscription: SubscriptionId,
    /// Sum of the effects' `bytes`.
    pub(super) bytes: u64,
    /// How many effects.
    pub(super) batches: u32,
}

/// Whether bytes may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// At once.
    Now,
    /// When the wall clock reads this, Unix ms.
    From(u64),
    /// The clock went back too far to wait for it.
    Never,
}

/// What became of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// All has left, or the writer task goes on with it.
    Done,
    /// Nothing may leave before the wall clock reads this, Unix ms.
    Held(u64),
}

/// A connection's output.
#[derive(Default)]
pub(super) struct Outgoing {
    /// Bytes that have not left.
    buffer: BytesMut,
    /// Bytes that have.
    base: u64,
    /// Position behind the bytes of an effect, and the effect; ascending.
    marks: VecDeque<(u64, Sent)>,
    /// Highest guard of the bytes in the buffer, Unix ms.
    guard: u64,
}

impl Outgoing {
    /// Where frames are appended.
    pub(super) fn frames(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Lets nothing of what was appended leave before `not_before` (Unix ms).
    pub(super) fn guard(&mut self, not_before: u64) {
        self.guard = self.guard.max(not_before);
    }

    /// The frames appended last are the end of one effect: `sent` is told once they have left.
    pub(super) fn mark(&mut self, sent: Sent) {
        let end = self.base + self.buffer.len() as u64;
        match self.marks.back_mut() {
            // Of one stream and right behind each other: told together.
            Some((at, last)) if last.subscription == sent.subscription => {
                *at = end;
                last.bytes += sent.bytes;
                last.batches += sent.batches;
            }
            _ => self.marks.push_back((end, sent)),
        }
    }

    /// Bytes that may be appended.
    pub(super) fn room(&self) -> usize {
        limits::CONNECTION_OUT_BYTES.saturating_sub(self.buffer.len())
    }

    /// Whether more may be appended.
    pub(super) fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// Whether so little is left that more is worth encoding behind it: what is left moves then.
    pub(super) fn is_low(&self) -> bool {
        self.buffer.len() <= limits::CONNECTION_OUT_BYTES / 4
    }

    /// Whether all have left.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// What is to leave next.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Whether the bytes may leave, by the wall clock (Unix ms). It is read only if it matters.
    pub(super) fn leave(&self, wall_ms: impl FnOnce() -> u64) -> Leave {
        if self.guard == 0 {
            return Leave::Now;
        }
        match self.guard.saturating_sub(wall_ms()) {
            0 => Leave::Now,
            1..=CLOCK_HOLD_MS => Leave::From(self.guard),
            _ => Leave::Never,
        }
    }

    /// The socket has taken so many bytes; `tell` gets each effect that is gone with them.
    pub(super) fn advance(&mut self, bytes: usize, mut tell: impl FnMut(Sent)) {
        assert!(bytes <= self.buffer.len(), "only what was offered can leave");
        // Memory of what has left is used again: a buffer that is never empty must not grow.
        self.buffer.advance(bytes);
        self.base += bytes as u64;
        let gone = self.base;
        while let Some((_, sent)) = self.marks.pop_front_if(|(end, _)| *end <= gone) {
            tell(sent);
        }
        if self.is_empty() {
            assert!(self.marks.is_empty(), "marks lie within the bytes");
            self.guard = 0;
        }
    }

    /// Gives up memory that was needed once.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() && self.buffer.capacity() > KEPT {
            self.buffer = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(subscription: u64, bytes: u64) -> Sent {
        Sent { subscription: SubscriptionId(subscription), bytes, batches: 1 }
    }

    fn advance(out: &mut Outgoing, bytes: usize) -> Vec<Sent> {
        let mut told = Vec::new();
        out.advance(bytes, |sent| told.push(sent));
        told
    }

    #[test]
    fn effects_are_told_when_their_last_byte_has_left() {
        let mut out = Outgoing::default();
        out.frames().extend_from_slice(b"reply");
        out.frames().extend_from_slice(b"first");
        out.guard(5);
        out.mark(sent(1, 10));
        out.frames().extend_from_slice(b"second");
        out.guard(3);
        out.mark(sent(2, 20));
        assert_eq!(out.leave(|| 5), Leave::Now);
        assert_eq!(out.leave(|| 4), Leave::From(5));
        assert_eq!(advance(&mut out, 9), []);
        assert_eq!(out.bytes(), b"tsecond");
        assert_eq!(advance(&mut out, 2), [sent(1, 10)]);
        out.frames().extend_from_slice(b"third");
        out.mark(sent(1, 30));
        assert_eq!(advance(&mut out, 10), [sent(2, 20), sent(1, 30)]);
        assert!(out.is_empty());
        assert_eq!(out.leave(|| panic!("no clock is needed")), Leave::Now);
        out.guard(10_000);
        out.mark(sent(1, 1));
        assert_eq!(out.leave(|| 9_000), Leave::From(10_000));
        assert_eq!(out.leave(|| 8_999), Leave::Never);
    }

    #[test]
    fn a_buffer_that_is_never_empty_does_not_grow() {
        let mut out = Outgoing::default();
        out.frames().extend_from_slice(&[1; 1_000]);
        let mut capacity = 0;
        for round in 0..10_000_u64 {
            out.frames().extend_from_slice(&[2; 1_000]);
            out.mark(sent(round, 1));
            let told = advance(&mut out, 1_000);
            assert_eq!(told.len(), usize::from(round > 0));
            assert_eq!(out.bytes().len(), 1_000);
            capacity = capacity.max(out.buffer.capacity());
        }
        assert!(capacity <= 8_000, "{capacity} bytes for 1000");
    }

    #[test]
    fn effects_of_one_stream_are_told_together() {
        let mut out = Outgoing::default();
        for bytes in [1, 2, 3] {
            out.frames().extend_from_slice(b"x");
            out.mark(sent(1, bytes));
        }
        let together = Sent { bytes: 6, batches: 3, ..sent(1, 0) };
        assert_eq!(advance(&mut out, 2), []);
        assert_eq!(advance(&mut out, 1), [together]);
        out.shrink();
        assert!(out.is_empty());
    }
}
