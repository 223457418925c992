//! The bytes on their way to one client, and what the engine is to hear when they have left.
//!
//! Frames are appended whole and leave in order. Behind the bytes of each delivery effect lies a
//! mark; when the socket has taken the bytes up to it, the effect counts as sent. Bytes do not
//! leave before the wall clock reads what their guard says ("never early"); that holds them back
//! only after the clock was stepped back.

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::base::ids::SubscriptionId;

/// Capacity that an empty buffer keeps at a clean-up, bytes.
const KEPT: usize = 64 << 10;

/// What `Input::Sent` says of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) subscription: SubscriptionId,
    /// Sum of the effects' `bytes`.
    pub(super) bytes: u64,
    /// How many effects.
    pub(super) batches: u32,
}

/// A connection's output.
#[derive(Default)]
pub(super) struct Outgoing {
    buffer: BytesMut,
    /// Bytes of `buffer` that have left.
    left: usize,
    /// Bytes that had left before `buffer` was last emptied.
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

    /// The frames appended last are those of one effect: tell `sent` once they have left, and let
    /// them leave no earlier than `not_before` (Unix ms).
    pub(super) fn mark(&mut self, sent: Sent, not_before: u64) {
        let end = self.base + self.buffer.len() as u64;
        self.guard = self.guard.max(not_before);
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

    /// Bytes that have not left.
    pub(super) fn len(&self) -> usize {
        self.buffer.len() - self.left
    }

    /// Whether all have left.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is to leave next.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.left..]
    }

    /// Unix ms before which nothing may leave; 0 for at once.
    pub(super) fn guard(&self) -> u64 {
        self.guard
    }

    /// The socket has taken so many bytes; `tell` gets each effect that is gone with them.
    pub(super) fn advance(&mut self, bytes: usize, mut tell: impl FnMut(Sent)) {
        assert!(bytes <= self.len(), "only what was offered can leave");
        self.left += bytes;
        let gone = self.base + self.left as u64;
        while let Some((_, sent)) = self.marks.pop_front_if(|(end, _)| *end <= gone) {
            tell(sent);
        }
        if self.is_empty() {
            assert!(self.marks.is_empty(), "marks lie within the bytes");
            self.base += self.left as u64;
            self.left = 0;
            self.guard = 0;
            self.buffer.clear();
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
        out.mark(sent(1, 10), 5);
        out.frames().extend_from_slice(b"second");
        out.mark(sent(2, 20), 3);
        assert_eq!(out.guard(), 5);
        assert_eq!(advance(&mut out, 9), []);
        assert_eq!(out.bytes(), b"tsecond");
        assert_eq!(advance(&mut out, 2), [sent(1, 10)]);
        out.frames().extend_from_slice(b"third");
        out.mark(sent(1, 30), 0);
        assert_eq!(advance(&mut out, 10), [sent(2, 20), sent(1, 30)]);
        assert!(out.is_empty());
        assert_eq!(out.guard(), 0);
    }

    #[test]
    fn effects_of_one_stream_are_told_together() {
        let mut out = Outgoing::default();
        for bytes in [1, 2, 3] {
            out.frames().extend_from_slice(b"x");
            out.mark(sent(1, bytes), 0);
        }
        let together = Sent { bytes: 6, batches: 3, ..sent(1, 0) };
        assert_eq!(advance(&mut out, 2), []);
        assert_eq!(advance(&mut out, 1), [together]);
        out.shrink();
        assert!(out.is_empty());
    }
}
