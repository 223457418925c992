//! For the tests of this folder: a maker of entries, and a disk in memory.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::batch::{NewRecord, PublishBuilder};
use super::body::Body;
use super::entry::{EntryHeader, EntryKind};
use super::envelope::Ids;
use super::scan::{Scan, ScanOutcome, Scanned};
use super::segment::SegmentFile;
use super::tail::{Planned, Tail};
use crate::base::ids::{Index, Offset, PartitionId, Term, TopicNo};

pub(super) const IDS: Ids = Ids { cluster: 0xc1u64 << 32 | 0x5eed, partition: PartitionId(3) };

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
    builder.push(NewRecord {
        message_id: format!("id-{index}").as_bytes(),
        meta: b"",
        payload: &payload,
        topic: TopicNo(0),
        schedule_ts: 5_000,
        checksum: crc32fast::hash(&payload),
        allow_duplicate: false,
    });
    builder.finish()
}

/// The files of one log.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) files: BTreeMap<Index, Vec<u8>>,
}

impl Disk {
    /// Puts bytes into a file, which grows with them.
    pub(super) fn put(&mut self, segment: Index, position: u64, bytes: &[u8]) {
        let file = self.files.get_mut(&segment).expect("the file was created");
        let end = position as usize + bytes.len();
        file.resize(file.len().max(end), 0);
        file[position as usize..end].copy_from_slice(bytes);
    }

    /// Recovers: reads what the scan asks for until it asks for no more.
    pub(super) fn scan(&self, scan: impl FnOnce(Scan) -> Scan) -> (ScanOutcome, Vec<Scanned>) {
        let files = self.files.iter();
        let segments: Vec<_> = files
            .map(|(first, file)| SegmentFile { first: *first, len: file.len() as u64 })
            .collect();
        let mut scan = scan(Scan::new(IDS, segments));
        let mut found = Vec::new();
        while let Some(request) = scan.next_read() {
            let file = &self.files[&request.segment];
            let from = (request.position as usize).min(file.len());
            let to = (from + request.len as usize).min(file.len());
            scan.feed(&Bytes::copy_from_slice(&file[from..to]));
            found.extend(scan.take_entries());
        }
        (scan.finish(), found)
    }
}

/// The bytes of a planned write.
pub(super) fn filled(tail: &mut Tail, planned: &Planned) -> Vec<u8> {
    let mut buffer = vec![0; planned.len as usize];
    tail.fill_write(planned.write, &mut buffer);
    buffer
}

/// Fills as much as the tail wants.
pub(super) fn fill_all(tail: &mut Tail, disk: &mut Disk) {
    while let Some((from, to)) = tail.wants_fill() {
        let segment = tail.end().segment;
        disk.put(segment, from, &vec![0; (to - from) as usize]);
        tail.filled(segment, to);
    }
}
