//! Records of a run and their order.

use crate::base::ids::{Position, Term, TopicNo};
use crate::base::limits::{MESSAGE_ID_BYTES, META_BYTES, PAYLOAD_BYTES};

use super::part::{RunHead, RunKind};

/// Where a record belongs in a run: by topic, then due, then offset. No two records of a run have
/// the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey {
    /// Its topic.
    pub topic: TopicNo,
    /// Its place on the due-time axis.
    pub position: Position,
}

impl RunKey {
    /// The key of the topic's event at this position.
    #[must_use]
    pub fn new(topic: TopicNo, position: Position) -> Self {
        Self { topic, position }
    }
}

/// An event as it lies in a run.
///
/// In a due index, and where it is a tombstone, everything behind `tombstone` is zero or empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunRecord<'a> {
    /// Its place.
    pub key: RunKey,
    /// Unix ms; at most `key.position.due`.
    pub schedule_ts: u64,
    /// Published without dedup.
    pub allow_duplicate: bool,
    /// There is no such event any more: it was cancelled, or moved to another due. Hides the
    /// record of the same key in older runs.
    pub tombstone: bool,
    /// Log time of the append, Unix ms.
    pub append_ts: u64,
    /// Term of its entry.
    pub term: Term,
    /// CRC32 (IEEE) of the payload, taken when it was received.
    pub checksum: u32,
    /// At most `MESSAGE_ID_BYTES`.
    pub message_id: &'a [u8],
    /// Encoded field-5 entries, at most `META_BYTES`.
    pub meta: &'a [u8],
    /// At most `PAYLOAD_BYTES`.
    pub payload: &'a [u8],
}

impl RunRecord<'_> {
    /// A record of a due index.
    #[must_use]
    pub fn key_only(key: RunKey, schedule_ts: u64) -> Self {
        Self {
            key,
            schedule_ts,
            allow_duplicate: false,
            tombstone: false,
            append_ts: 0,
            term: Term(0),
            checksum: 0,
            message_id: &[],
            meta: &[],
            payload: &[],
        }
    }

    /// A tombstone, for either kind of run.
    #[must_use]
    pub fn tombstone(key: RunKey) -> Self {
        Self { tombstone: true, ..Self::key_only(key, key.position.due) }
    }

    /// Whether it may lie in the run `head`. Asserted by the writer, checked by the reader.
    pub(super) fn is_valid(&self, head: &RunHead) -> bool {
        let offset = self.key.position.offset;
        let in_range = offset < head.end_offset && (self.tombstone || head.contains(offset));
        let bounded = self.message_id.len() <= MESSAGE_ID_BYTES
            && self.meta.len() <= META_BYTES
            && self.payload.len() <= PAYLOAD_BYTES;
        let carries = head.kind == RunKind::Carried && !self.tombstone;
        in_range
            && bounded
            && self.schedule_ts <= self.key.position.due
            && (carries || self.is_key_only())
    }

    /// Bytes of varying length.
    pub(super) fn blob_bytes(&self) -> usize {
        self.message_id.len() + self.meta.len() + self.payload.len()
    }

    fn is_key_only(&self) -> bool {
        self.append_ts == 0 && self.term == Term(0) && self.checksum == 0 && self.blob_bytes() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Offset;

    #[test]
    fn keys_are_ordered_by_topic_then_due_then_offset() {
        let key =
            |topic, due, offset| RunKey::new(TopicNo(topic), Position::new(due, Offset(offset)));
        let sorted = [key(0, 9, 9), key(1, 0, 9), key(1, 5, 1), key(1, 5, 2), key(1, 6, 0)];
        assert!(sorted.is_sorted());
        assert!(sorted[2] < sorted[3]);
    }
}
