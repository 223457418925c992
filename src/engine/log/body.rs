//! The body of an entry: one FlatBuffers table, verified once, then read in place.
//!
//! [`Body::verify`] runs the FlatBuffers verifier and checks every span and number that a row
//! carries; what it returns holds the bytes and where each vector lies in them. From then on every
//! access is a bounded copy of fixed-size rows or a slice at a checked span: nothing is verified
//! again and nothing can fail. Bodies of this replica pass the same gate, which is cheap: vectors
//! of structs are verified in one comparison each.

use std::fmt;

use bytes::Bytes;
use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::batch::{self, PublishView};
use super::generated::record as fb;
use super::settle::{self, GroupsView, SettleView};
use super::state::{self, StateView};
use super::topics::{self, TopicsView};
use crate::base::api::Span;
use crate::base::ids::TopicNo;
use crate::base::limits::ENTRY_BODY_BYTES;

/// A verified body. Clones share the bytes.
#[derive(Clone)]
pub struct Body {
    bytes: Bytes,
    crc: u32,
    layout: Layout,
}

/// Where the vectors of each kind of body lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    NoOp,
    Publish(batch::Layout),
    Settle(settle::SettleLayout),
    Groups(settle::GroupsLayout),
    State(state::Layout),
    Topics(topics::Layout),
}

/// What a body holds.
#[derive(Clone, Copy)]
pub enum Content<'a> {
    /// Nothing: the body of a no-op.
    NoOp,
    /// Published events.
    Publish(PublishView<'a>),
    /// Settled deliveries.
    Settle(SettleView<'a>),
    /// New groups.
    Groups(GroupsView<'a>),
    /// A part of a snapshot of the applied state.
    State(StateView<'a>),
    /// Settings of topics.
    Topics(TopicsView<'a>),
}

/// Why bytes are no body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// More bytes than [`ENTRY_BODY_BYTES`].
    TooLarge,
    /// The FlatBuffers verifier refuses them; its own words.
    Flatbuffer(String),
    /// A table of a kind that this version does not know.
    UnknownContent,
    /// A span reaches beyond its vector, or a name is not UTF-8.
    Span,
    /// A number that stands for nothing: kind, reason, flag or part.
    Number,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => f.write_str("body over its limit"),
            Self::Flatbuffer(text) => write!(f, "not a valid table: {text}"),
            Self::UnknownContent => f.write_str("unknown kind of body"),
            Self::Span => f.write_str("a span reaches beyond the body"),
            Self::Number => f.write_str("an unknown number in the body"),
        }
    }
}

impl std::error::Error for BodyError {}

impl Body {
    /// The body of a no-op entry: no bytes.
    #[must_use]
    pub fn no_op() -> Self {
        Self { bytes: Bytes::new(), crc: crc32fast::hash(&[]), layout: Layout::NoOp }
    }

    /// Verifies bytes from anywhere. The only way to make a body.
    pub fn verify(bytes: Bytes) -> Result<Self, BodyError> {
        let crc = crc32fast::hash(&bytes);
        Self::verify_with_crc(bytes, crc)
    }

    /// As [`Body::verify`] for bytes whose CRC was just computed.
    pub(super) fn verify_with_crc(bytes: Bytes, crc: u32) -> Result<Self, BodyError> {
        if bytes.is_empty() {
            return Ok(Self { bytes, crc, layout: Layout::NoOp });
        }
        if bytes.len() > ENTRY_BODY_BYTES {
            return Err(BodyError::TooLarge);
        }
        let layout = Layout::read(&bytes)?;
        Ok(Self { bytes, crc, layout })
    }

    /// The bytes that go to the disk and to other replicas.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The same body, whose users are counted apart from those of this one: where they are many,
    /// and on other cores, these would take the count from each other.
    #[must_use]
    pub fn counted_apart(&self) -> Self {
        Self { bytes: Bytes::from_owner(self.bytes.clone()), ..self.clone() }
    }

    /// CRC32 (IEEE) of the bytes.
    #[must_use]
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// Records in it: the `count` of its entry's header.
    #[must_use]
    pub fn records(&self) -> u32 {
        if let Layout::Publish(layout) = self.layout { layout.records() } else { 0 }
    }

    /// Bytes of the entry on disk, head and padding included.
    #[must_use]
    pub fn entry_len(&self) -> u64 {
        super::envelope::entry_len(self.bytes.len())
    }

    /// A body of its own allocation: for one that is kept although it was sliced from a larger
    /// read, which it would otherwise keep alive.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self { bytes: Bytes::copy_from_slice(&self.bytes), ..*self }
    }

    /// What it holds.
    #[must_use]
    pub fn content(&self) -> Content<'_> {
        match self.layout {
            Layout::NoOp => Content::NoOp,
            Layout::Publish(layout) => Content::Publish(PublishView::new(&self.bytes, layout)),
            Layout::Settle(layout) => Content::Settle(SettleView::new(&self.bytes, layout)),
            Layout::Groups(layout) => Content::Groups(GroupsView::new(&self.bytes, layout)),
            Layout::State(layout) => Content::State(StateView::new(&self.bytes, layout)),
            Layout::Topics(layout) => Content::Topics(TopicsView::new(&self.bytes, layout)),
        }
    }

    /// The events of a body that has some.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn published(&self) -> PublishView<'_> {
        let Layout::Publish(layout) = self.layout else {
            unreachable!("only a body with records is asked for them");
        };
        PublishView::new(&self.bytes, layout)
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Body {}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes, {:?})", self.bytes.len(), self.layout)
    }
}

impl Layout {
    fn read(bytes: &[u8]) -> Result<Self, BodyError> {
        let entry = flatbuffers::root::<fb::Entry<'_>>(bytes)
            .map_err(|error| BodyError::Flatbuffer(error.to_string()))?;
        if let Some(table) = entry.content_as_publish() {
            batch::Layout::read(bytes, table).map(Self::Publish)
        } else if let Some(table) = entry.content_as_settle() {
            settle::SettleLayout::read(bytes, table).map(Self::Settle)
        } else if let Some(table) = entry.content_as_groups() {
            settle::GroupsLayout::read(bytes, table).map(Self::Groups)
        } else if let Some(table) = entry.content_as_state() {
            state::Layout::read(bytes, table).map(Self::State)
        } else if let Some(table) = entry.content_as_topics() {
            topics::Layout::read(bytes, table).map(Self::Topics)
        } else {
            Err(BodyError::UnknownContent)
        }
    }
}

// ------------------------------------------------------------------- for the kinds of bodies

/// Where `part`, a slice of `bytes`, lies in it. `None` (an absent vector) is an empty span.
pub(super) fn place_of(bytes: &[u8], part: Option<&[u8]>) -> Span {
    let Some(part) = part else { return Span::default() };
    let start = part.as_ptr().addr() - bytes.as_ptr().addr();
    assert!(start + part.len() <= bytes.len(), "the verifier keeps vectors inside the body");
    Span { start: start as u32, len: part.len() as u32 }
}

/// Row `i` of the vector of `N`-byte structs at `rows`.
pub(super) fn row<const N: usize>(bytes: &[u8], rows: Span, i: u32) -> [u8; N] {
    assert!(i < row_count::<N>(rows), "row {i} is in its vector");
    let start = rows.start as usize + i as usize * N;
    bytes[start..start + N].try_into().expect("N bytes were sliced")
}

/// Rows of the vector of `N`-byte structs at `rows`.
pub(super) fn row_count<const N: usize>(rows: Span) -> u32 {
    rows.len / N as u32
}

/// Span of the body for `len` bytes from `start` of the byte vector at `blob`.
pub(super) fn span_in(blob: Span, start: u32, len: u64) -> Result<Span, BodyError> {
    if u64::from(start) + len > u64::from(blob.len) {
        return Err(BodyError::Span);
    }
    Ok(Span { start: blob.start + start, len: len as u32 })
}

/// As [`span_in`], and the bytes are UTF-8.
pub(super) fn text_in(bytes: &[u8], blob: Span, start: u32, len: u32) -> Result<Span, BodyError> {
    let span = span_in(blob, start, u64::from(len))?;
    std::str::from_utf8(span.of(bytes)).map_err(|_| BodyError::Span)?;
    Ok(span)
}

/// The text at a span that [`text_in`] has checked.
pub(super) fn text_at(bytes: &[u8], blob: Span, start: u32, len: u32) -> &str {
    let span = Span { start: blob.start + start, len };
    std::str::from_utf8(span.of(bytes)).expect("checked when the body was verified")
}

const TOPIC_BYTES: usize = size_of::<fb::Topic>();

/// Checks the topic definitions at `topics`, whose names lie in `blob`.
pub(super) fn check_topics(bytes: &[u8], topics: Span, blob: Span) -> Result<(), BodyError> {
    for i in 0..row_count::<TOPIC_BYTES>(topics) {
        let topic = fb::Topic(row(bytes, topics, i));
        text_in(bytes, blob, topic.name_start(), topic.name_len())?;
    }
    Ok(())
}

/// The topic definitions that [`check_topics`] has checked.
pub(super) fn topics(
    bytes: &[u8],
    topics: Span,
    blob: Span,
) -> impl ExactSizeIterator<Item = (TopicNo, &str)> {
    (0..row_count::<TOPIC_BYTES>(topics)).map(move |i| {
        let topic = fb::Topic(row(bytes, topics, i));
        (TopicNo(topic.no()), text_at(bytes, blob, topic.name_start(), topic.name_len()))
    })
}

/// Appends a text and says where it begins.
pub(super) fn push_text(blob: &mut Vec<u8>, text: &str) -> u32 {
    let start = blob.len();
    blob.extend_from_slice(text.as_bytes());
    u32::try_from(start).expect("a body is below 4 GiB")
}

/// Writes a byte vector by one memcpy (a byte string is a byte vector with a zero behind it;
/// `create_vector` would copy byte by byte).
pub(super) fn byte_vector<'f>(
    builder: &mut FlatBufferBuilder<'f>,
    bytes: &[u8],
) -> WIPOffset<flatbuffers::Vector<'f, u8>> {
    WIPOffset::new(builder.create_byte_string(bytes).value())
}

/// Wraps a table into an entry's root and takes the bytes without copying them.
pub(super) fn seal(
    mut builder: FlatBufferBuilder<'_>,
    kind: fb::Content,
    content: WIPOffset<flatbuffers::UnionWIPOffset>,
) -> Body {
    let args = fb::EntryArgs { content_type: kind, content: Some(content) };
    let root = fb::Entry::create(&mut builder, &args);
    builder.finish_minimal(root);
    let (buffer, start) = builder.collapse();
    Body::verify(Bytes::from(buffer).slice(start..)).expect("what our builders make verifies")
}

/// Room for the tables of a body beside its vectors, bytes.
pub(super) const TABLE_BYTES: usize = 256;

#[cfg(test)]
#[path = "body_test.rs"]
mod tests;
