//! What a connection's streams have to send and what is not encoded yet.
//!
//! Deliveries share their memory with the log's records until they are encoded, so they are encoded
//! no sooner than the socket takes them: a peer that never reads costs a small buffer and not a
//! copy of everything that waits for it. In order; a stream's end comes behind its messages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::vec::IntoIter;

use super::gate::StreamMessage;
use super::outgoing::{Outgoing, Sent};
use crate::base::api::{Delivery, Replayed, Reply};
use crate::wire::reply;

/// See the module.
#[derive(Default)]
pub(super) struct Backlog(VecDeque<Item>);

struct Item {
    correlation: u64,
    what: What,
}

enum What {
    Deliveries { group: Arc<str>, rest: IntoIter<Delivery>, not_before: u64, sent: Sent },
    Replayed { rest: IntoIter<Replayed>, not_before: u64, sent: Sent },
    End(Reply),
}

impl Backlog {
    /// Whether all is encoded.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes a message of a stream; `sent` is told once its last byte has left.
    pub(super) fn push(&mut self, correlation: u64, message: StreamMessage, sent: Sent) {
        let what = match message {
            StreamMessage::Deliveries { group, deliveries, not_before } => {
                What::Deliveries { group, rest: deliveries.into_iter(), not_before, sent }
            }
            StreamMessage::Replayed { events, not_before } => {
                What::Replayed { rest: events.into_iter(), not_before, sent }
            }
            StreamMessage::Opened | StreamMessage::End(_) => {
                unreachable!("these come as replies")
            }
        };
        self.0.push_back(Item { correlation, what });
    }

    /// Takes the last answer of a stream.
    pub(super) fn push_end(&mut self, correlation: u64, end: Reply) {
        self.0.push_back(Item { correlation, what: What::End(end) });
    }

    /// Encodes as much as there is room for.
    pub(super) fn encode(&mut self, out: &mut Outgoing, node_id: &str) {
        while out.has_room()
            && let Some(Item { correlation, what }) = self.0.front_mut()
        {
            let (correlation, room) = (*correlation, out.room());
            let (done, sent, not_before) = match what {
                What::Deliveries { group, rest, not_before, sent } => {
                    let part = part(rest.as_slice(), room, |delivery| delivery.event.size());
                    reply::put_deliveries(out.frames(), correlation, group, part);
                    let last = part.len() - 1;
                    drop(rest.nth(last));
                    (rest.len() == 0, *sent, *not_before)
                }
                What::Replayed { rest, not_before, sent } => {
                    let part = part(rest.as_slice(), room, |replayed| replayed.event.size());
                    reply::put_replayed(out.frames(), correlation, part);
                    let last = part.len() - 1;
                    drop(rest.nth(last));
                    (rest.len() == 0, *sent, *not_before)
                }
                What::End(end) => {
                    reply::put_reply(out.frames(), correlation, end, node_id);
                    self.0.pop_front();
                    continue;
                }
            };
            out.guard(not_before);
            if done {
                out.mark(sent);
                self.0.pop_front();
            }
        }
    }
}

/// The first of these, as many as it takes to fill the room.
fn part<T>(all: &[T], room: usize, size: impl Fn(&T) -> u64) -> &[T] {
    assert!(!all.is_empty() && room > 0, "there is something and room for it");
    let mut bytes = 0;
    let count = all.iter().take_while(|item| {
        let before = bytes;
        bytes += size(item);
        before < room as u64
    });
    &all[..count.count()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::api::{Span, StoredEvent};
    use crate::base::ids::{Offset, PartitionId, SubscriptionId, Term};
    use crate::base::limits;
    use crate::wire::frame::{Frame, FrameDecoder};
    use crate::wire::kind::FrameKind;
    use crate::wire::native;
    use bytes::{Bytes, BytesMut};
    use prost::Message;

    const PAYLOAD: usize = 10_000;
    const SENT: Sent = Sent { subscription: SubscriptionId(4), bytes: 7, batches: 1 };

    fn replayed(offset: u64) -> Replayed {
        let event = StoredEvent {
            body: vec![7; PAYLOAD].into(),
            message_id: Span { start: 0, len: 4 },
            meta: Span::default(),
            payload: Span { start: 0, len: PAYLOAD as u32 },
            topic: "topic".into(),
            schedule_ts: 1,
            append_ts: 1,
            partition: PartitionId(0),
            offset: Offset(offset),
            term: Term(1),
            checksum: 0,
        };
        Replayed { event, index: 0 }
    }

    fn offsets(frame: &Frame) -> Vec<i64> {
        let events = native::ReplayEvents::decode(Bytes::clone(&frame.body)).expect("valid");
        events.events.into_iter().map(|e| e.event.expect("an event").offset).collect()
    }

    #[test]
    fn encodes_no_more_than_is_taken_and_all_of_it_in_order() {
        let (mut backlog, mut out) = (Backlog::default(), Outgoing::default());
        let events = (0..100).map(replayed).collect();
        backlog.push(9, StreamMessage::Replayed { events, not_before: 77 }, SENT);
        backlog.push_end(9, Reply::StreamEnd(Ok(())));
        let (mut taken, mut told) = (BytesMut::new(), Vec::new());
        while !backlog.is_empty() || !out.is_empty() {
            backlog.encode(&mut out, "n");
            let most = limits::CONNECTION_OUT_BYTES + 2 * PAYLOAD;
            assert!(out.bytes().len() <= most, "{}", out.bytes().len());
            assert!(told.is_empty() || backlog.is_empty(), "told behind its last byte");
            let count = out.bytes().len().min(4_321);
            taken.extend_from_slice(&out.bytes()[..count]);
            out.advance(count, |sent| told.push(sent));
        }
        assert_eq!(told, [SENT]);
        let mut seen = Vec::new();
        while let Some(frame) = FrameDecoder::Answers.next(&mut taken).expect("valid") {
            match frame.kind {
                FrameKind::ReplayEvents => seen.extend(offsets(&frame)),
                FrameKind::StreamEnd => seen.push(-1),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, (0..100).chain([-1]).collect::<Vec<_>>());
    }

    #[test]
    fn every_part_is_held_back_by_the_clock() {
        let (mut backlog, mut out) = (Backlog::default(), Outgoing::default());
        let events = (0..100).map(replayed).collect();
        backlog.push(9, StreamMessage::Replayed { events, not_before: 77 }, SENT);
        let mut parts = 0;
        while !backlog.is_empty() {
            backlog.encode(&mut out, "n");
            assert_eq!(out.leave(|| 76), super::super::outgoing::Leave::From(77));
            out.advance(out.bytes().len(), drop);
            parts += 1;
        }
        assert!(parts > 1);
    }
}
