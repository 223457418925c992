//! For the tests of this folder, and of those who read logs: a maker of entries, a disk in memory,
//! and a log written to it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::batch::{NewRecord, PublishBuilder};
use super::body::Body;
use super::entry::{EntryHeader, EntryKind};
use super::envelope::Ids;
use super::fill::Ahead;
use super::salvage::{Salvage, Salvaged};
use super::scan::{Known, ReadRequest, Scan, ScanOutcome, Scanned};
use super::segment::{Place, SegmentFile};
use super::tail::{Planned, Tail};
use crate::base::api::Span;
use crate::base::ids::{Index, Offset, PartitionId, Term, TopicNo};
use crate::base::limits::FILL_STEP_MAX;

pub(crate) const IDS: Ids = Ids { cluster: 0xc1u64 << 32 | 0x5eed, partition: PartitionId(3) };

/// The disk has room.
pub(crate) const AHEAD: Ahead = Ahead::UpTo(FILL_STEP_MAX);

/// An event with bytes of its own, as no message brings them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loose<'a> {
    pub(crate) message_id: &'a [u8],
    pub(crate) meta: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) topic: TopicNo,
    pub(crate) schedule_ts: u64,
    pub(crate) checksum: u32,
    pub(crate) allow_duplicate: bool,
}

impl Loose<'_> {
    /// Adds it in a message of its own.
    pub(crate) fn push_to(self, builder: &mut PublishBuilder) {
        let Self { topic, schedule_ts, checksum, allow_duplicate, .. } = self;
        let mut message = Vec::new();
        let [message_id, meta, payload] = [self.message_id, self.meta, self.payload].map(|part| {
            let start = message.len() as u32;
            message.extend_from_slice(part);
            Span { start, len: part.len() as u32 }
        });
        let record =
            NewRecord { message_id, meta, payload, topic, schedule_ts, checksum, allow_duplicate };
        builder.push(&Bytes::from(message), record);
    }
}

/// Makes the entries of a log, one behind the other.
#[derive(Clone, Debug)]
pub(super) struct Maker {
    pub(super) last: Option<(EntryHeader, u32)>,
    pub(super) term: Term,
}

impl Maker {
    pub(super) fn new() -> Self {
        Self { last: None, term: Term(1) }
    }

    /// An entry of one record with a payload of `bytes` bytes; a no-op for 0.
    pub(super) fn next(&mut self, bytes: usize) -> (EntryHeader, Body) {
        let index = self.last.map_or(Index(1), |(last, _)| last.index.next());
        let body = if bytes == 0 { Body::no_op() } else { record(index, bytes) };
        let header = EntryHeader {
            kind: if bytes == 0 { EntryKind::NoOp } else { EntryKind::Normal },
            term: self.term,
            index,
            chain: self.last.map_or(0, |(last, crc)| last.next_chain(crc)),
            base_offset: self.last.map_or(Offset(0), |(last, _)| last.end_offset()),
            count: body.records(),
            append_ts: 1_000 + index.0,
        };
        self.last = Some((header, body.crc()));
        (header, body)
    }
}

/// Bytes that differ from entry to entry and never hold a magic.
fn record(index: Index, bytes: usize) -> Body {
    let payload: Vec<u8> = (0..bytes).map(|i| (i as u64 * 7 + index.0) as u8 | 0x80).collect();
    let mut builder = PublishBuilder::new();
    let message_id = format!("id-{index}");
    let event = Loose {
        message_id: message_id.as_bytes(),
        meta: b"",
        payload: &payload,
        topic: TopicNo(0),
        schedule_ts: 5_000,
        checksum: crc32fast::hash(&payload),
        allow_duplicate: false,
    };
    event.push_to(&mut builder);
    builder.finish()
}

/// The files of one log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) files: BTreeMap<Index, Vec<u8>>,
}

impl Disk {
    /// Puts bytes into a file, which grows with them.
    pub(super) fn put(&mut self, segment: Index, position: u64, bytes: &[u8]) {
        let file = self.files.get_mut(&segment).expect("the file was created");
        let end = position as usize + bytes.len();
        file.resize(file.len().max(end), 0);
        file[position as usize..end].copy_from_slice(bytes);
    }

    /// The files as a mount lists them.
    fn segments(&self) -> Vec<SegmentFile> {
        let files = self.files.iter();
        files.map(|(first, file)| SegmentFile { first: *first, len: file.len() as u64 }).collect()
    }

    fn read(&self, request: ReadRequest) -> Bytes {
        let file = &self.files[&request.segment];
        let from = (request.position as usize).min(file.len());
        let to = (from + request.len as usize).min(file.len());
        Bytes::copy_from_slice(&file[from..to])
    }

    /// Recovers: reads what the scan asks for until it asks for no more.
    pub(super) fn scan(&self, scan: impl FnOnce(Scan) -> Scan) -> (ScanOutcome, Vec<Scanned>) {
        self.run(scan(Scan::new(IDS, self.segments())))
    }

    /// Recovers with all that is known of a whole log.
    pub(super) fn recover(&self, known: Known) -> (ScanOutcome, Vec<Scanned>) {
        self.run(Scan::recover(IDS, self.segments(), known))
    }

    fn run(&self, mut scan: Scan) -> (ScanOutcome, Vec<Scanned>) {
        let mut found = Vec::new();
        while let Some(request) = scan.next_read() {
            scan.feed(&self.read(request));
            found.extend(scan.take_entries());
        }
        (scan.finish(), found)
    }

    /// What lies behind the rot that a recovery has found.
    pub(super) fn salvage(&self, outcome: &ScanOutcome) -> Vec<Salvaged> {
        let rot = outcome.rot.as_ref().expect("rot");
        let mut salvage = Salvage::new(IDS, self.segments(), rot, outcome.last);
        let mut found = Vec::new();
        while let Some(request) = salvage.next_read() {
            salvage.feed(&self.read(request));
            found.extend(salvage.take());
        }
        found.extend(salvage.take());
        found
    }
}

/// Size of a segment of [`log`].
pub(crate) const SEGMENT: u64 = 1 << 20;
/// Entries of a segment of [`log`].
pub(crate) const PER_SEGMENT: u64 = 10;

/// A log of `segments` segments of ten entries, each entry a write of its own that was synced
/// before the next. Entry sizes vary; places and lengths come with it.
pub(crate) fn log(segments: u64) -> (Disk, Vec<(Place, u64)>) {
    let mut disk = Disk::default();
    disk.files.insert(Index(1), Vec::new());
    let mut tail = Tail::new(IDS, SEGMENT, Place::new(Index(1), 0), &[], 0);
    let mut maker = Maker::new();
    let mut synced = Index(0);
    let mut places = Vec::new();
    for i in 0..segments * PER_SEGMENT {
        if i > 0 && i.is_multiple_of(PER_SEGMENT) {
            tail.start_segment(synced.next(), synced);
            disk.files.insert(synced.next(), Vec::new());
        }
        fill_all(&mut tail, &mut disk);
        let (header, body) = maker.next([300, 5_000, 0, 40, 9_000][i as usize % 5]);
        let len = body.entry_len();
        tail.push(header, body);
        let planned = tail.plan(synced).expect("a write");
        let bytes = filled(&mut tail, &planned);
        disk.put(planned.segment, planned.position, &bytes);
        places.push((planned.places[0], len));
        synced = tail.done(planned.write).expect("in order");
    }
    (disk, places)
}

/// A segment of three entries in three writes that were in flight together: none vouches for
/// another. Their places and lengths come with it.
pub(super) fn in_flight_together() -> (Disk, Vec<(Place, u64)>) {
    let mut disk = Disk::default();
    disk.files.insert(Index(1), Vec::new());
    let mut tail = Tail::new(IDS, SEGMENT, Place::new(Index(1), 0), &[], 0);
    fill_all(&mut tail, &mut disk);
    let mut maker = Maker::new();
    let mut places = Vec::new();
    for bytes in [100, 200, 300] {
        let (header, body) = maker.next(bytes);
        let len = body.entry_len();
        tail.push(header, body);
        let planned = tail.plan(Index(0)).expect("a write");
        let bytes = filled(&mut tail, &planned);
        disk.put(Index(1), planned.position, &bytes);
        places.push((planned.places[0], len));
    }
    (disk, places)
}

/// The bytes of a planned write.
pub(super) fn filled(tail: &mut Tail, planned: &Planned) -> Vec<u8> {
    let mut buffer = vec![0xee; planned.len as usize];
    tail.fill_write(planned.write, &mut buffer);
    buffer
}

/// Fills as much as the tail wants.
pub(super) fn fill_all(tail: &mut Tail, disk: &mut Disk) {
    while let Some((from, to)) = tail.wants_fill(AHEAD) {
        let segment = tail.end().segment;
        disk.put(segment, from, &vec![0; (to - from) as usize]);
        tail.filled(segment, to);
    }
}
