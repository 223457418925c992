//! The bytes of a publish body, from front to back.
//!
//! The builder of `flatbuffers` writes from back to front and takes each vector in one piece: for
//! it, payloads would have to be gathered first, to be copied once more. Here the tables are laid
//! out by arithmetic, and then everything is appended once, to memory of exactly its length.
//!
//! ```text
//!  root | Entry's vtable, Entry | Publish's vtable, Publish | events | topics | blobs
//! ```
//! Must hold: the bytes are those that `flatbuffers` makes (the tests compare them), so that format
//! v1 has one form.

use super::generated::record as fb;

/// Bytes before the vectors, however many there are.
const TABLES: usize = 52;
/// What the vectors of structs are aligned to.
const ALIGN: usize = 8;
const LENGTH: usize = size_of::<u32>();

/// Appends a body: these structs, and the blobs that `put_blobs` appends.
///
/// # Panics
/// If `put_blobs` appends other than `blobs` bytes.
pub(super) fn write(
    out: &mut Vec<u8>,
    events: &[fb::Event],
    topics: &[fb::Topic],
    blobs: usize,
    put_blobs: impl FnOnce(&mut Vec<u8>),
) {
    let layout = Layout::new(events.len(), topics.len(), blobs);
    let tables = layout.tables();
    out.reserve_exact(layout.events + TABLES);
    out.extend_from_slice(&tables);
    put_length(out, events.len());
    for event in events {
        out.extend_from_slice(&event.0);
    }
    put_zeros(out, layout.events_pad);
    if !topics.is_empty() {
        put_length(out, topics.len());
        for topic in topics {
            out.extend_from_slice(&topic.0);
        }
    }
    put_length(out, blobs);
    let start = out.len();
    put_blobs(out);
    assert_eq!(out.len() - start, blobs, "the table says how many bytes there are");
    put_zeros(out, layout.blobs_pad);
}

fn put_length(out: &mut Vec<u8>, items: usize) {
    let items = u32::try_from(items).expect("a body is below 4 GiB");
    out.extend_from_slice(&items.to_le_bytes());
}

fn put_zeros(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&[0; ALIGN][..count]);
}

/// Where the vectors lie, in bytes from the end, which is where alignment counts from.
struct Layout {
    events: usize,
    topics: Option<usize>,
    blobs: usize,
    /// Zeros behind the events.
    events_pad: usize,
    /// Zeros behind the blobs: one that ends them, and those that align them.
    blobs_pad: usize,
}

impl Layout {
    fn new(events: usize, topics: usize, blobs: usize) -> Self {
        let blobs_pad = 1 + pad(blobs + 1, LENGTH);
        let blobs = blobs_pad + blobs + LENGTH;
        let topics = (topics > 0).then_some(blobs + topics * size_of::<fb::Topic>() + LENGTH);
        let behind = topics.unwrap_or(blobs);
        let rows = events * size_of::<fb::Event>();
        let events_pad = pad(behind + rows, ALIGN);
        let events = behind + events_pad + rows + LENGTH;
        Self { events, topics, blobs, events_pad, blobs_pad }
    }

    fn tables(&self) -> [u8; TABLES] {
        let mut tables = Tables { bytes: [0; TABLES], start: TABLES, vectors: self.events };
        let tail = tables.used();
        let blobs = tables.reference(self.blobs);
        let topics = self.topics.map(|topics| tables.reference(topics));
        let events = tables.reference(self.events);
        let publish = tables.table(tail, [Some(events), topics, Some(blobs)]);
        let tail = tables.used();
        let content = tables.reference(publish);
        let kind = tables.put([fb::Content::Publish.0]);
        let entry = tables.table(tail, [Some(kind), Some(content)]);
        tables.zeros(pad(tables.used() + LENGTH, ALIGN));
        tables.reference(entry);
        assert_eq!(tables.start, 0, "all tables are there");
        tables.bytes
    }
}

/// Zeros that make `bytes` a multiple of `align`.
fn pad(bytes: usize, align: usize) -> usize {
    bytes.next_multiple_of(align) - bytes
}

/// The tables, written from back to front. Places count from the end of the body.
struct Tables {
    bytes: [u8; TABLES],
    start: usize,
    /// Bytes behind them.
    vectors: usize,
}

impl Tables {
    fn used(&self) -> usize {
        self.vectors + TABLES - self.start
    }

    fn zeros(&mut self, count: usize) {
        self.start -= count;
    }

    /// Puts a field before the others, aligned to its size; where it lies.
    fn put<const N: usize>(&mut self, field: [u8; N]) -> usize {
        self.zeros(pad(self.used(), N) + N);
        self.bytes[self.start..self.start + N].copy_from_slice(&field);
        self.used()
    }

    /// Puts the distance to what lies at `place`.
    fn reference(&mut self, place: usize) -> usize {
        self.zeros(pad(self.used(), LENGTH));
        let distance = u32::try_from(self.used() + LENGTH - place).expect("a body is below 4 GiB");
        self.put(distance.to_le_bytes())
    }

    /// Ends a table whose fields lie before `tail`: its distance to its vtable, and the vtable, in
    /// which a field that is not there is 0.
    fn table<const N: usize>(&mut self, tail: usize, fields: [Option<usize>; N]) -> usize {
        let vtable_bytes = 2 * (2 + N);
        let table = self.put((vtable_bytes as u32).to_le_bytes());
        for field in fields.iter().rev() {
            self.put(field.map_or(0, |field| (table - field) as u16).to_le_bytes());
        }
        self.put(((table - tail) as u16).to_le_bytes());
        self.put((vtable_bytes as u16).to_le_bytes());
        table
    }
}

#[cfg(test)]
mod tests {
    use flatbuffers::FlatBufferBuilder;
    use proptest::prelude::*;

    use super::*;

    /// What `flatbuffers` makes of it.
    fn made(events: &[fb::Event], topics: &[fb::Topic], blobs: &[u8]) -> Vec<u8> {
        let mut builder = FlatBufferBuilder::new();
        let args = fb::PublishArgs {
            blobs: Some(super::super::body::byte_vector(&mut builder, blobs)),
            topics: (!topics.is_empty()).then(|| builder.create_vector(topics)),
            events: Some(builder.create_vector(events)),
        };
        let content = Some(fb::Publish::create(&mut builder, &args).as_union_value());
        let args = fb::EntryArgs { content_type: fb::Content::Publish, content };
        let root = fb::Entry::create(&mut builder, &args);
        builder.finish_minimal(root);
        builder.finished_data().to_vec()
    }

    proptest! {
        #[test]
        fn bytes_are_those_of_the_library(
            events in proptest::collection::vec(any::<[u8; 32]>(), 1..20),
            topics in proptest::collection::vec(any::<[u8; 12]>(), 0..4),
            blobs in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let events: Vec<_> = events.into_iter().map(fb::Event).collect();
            let topics: Vec<_> = topics.into_iter().map(fb::Topic).collect();
            let mut out = Vec::new();
            write(&mut out, &events, &topics, blobs.len(), |out| out.extend_from_slice(&blobs));
            prop_assert_eq!(out.capacity(), out.len(), "memory of exactly its length");
            prop_assert_eq!(out, made(&events, &topics, &blobs));
        }
    }

    #[test]
    #[should_panic(expected = "the table says how many bytes there are")]
    fn blobs_of_another_length_are_refused() {
        write(&mut Vec::new(), &[fb::Event::default()], &[], 2, |out| out.push(0));
    }
}
