//! Reading from any spot of the sparse index, in reads of any size, across segments.

use bytes::Bytes;

use super::index::SparseIndex;
use super::model::{Disk, IDS, Maker, fill_all, filled};
use super::reader::{Parsed, Reader};
use super::segment::Place;
use super::tail::Tail;
use crate::base::ids::{Index, Offset};
use crate::base::size::BLOCK;

/// A log of 60 entries in segments of 64 KiB, with gaps (two writes at a time), and its index.
fn log() -> (Disk, SparseIndex) {
    let mut disk = Disk::default();
    disk.files.insert(Index(1), Vec::new());
    let mut tail = Tail::new(IDS, 16 * BLOCK, Place::new(Index(1), 0), &[], 0);
    let mut index = SparseIndex::new(6_000);
    let mut maker = Maker::new();
    let mut synced = Index(0);
    while synced < Index(60) {
        let mut writes = Vec::new();
        for size in [200, 6_500] {
            let before = maker.clone();
            let (header, body) = maker.next(size);
            if !tail.fits(body.entry_len()) {
                maker = before;
                break;
            }
            let len = body.entry_len();
            tail.push(header, body);
            fill_all(&mut tail, &mut disk);
            let planned = tail.plan(synced).expect("a write");
            index.note(planned.places[0], &header, len);
            let bytes = filled(&mut tail, &planned);
            disk.put(planned.segment, planned.position, &bytes);
            writes.push(planned.write);
        }
        if writes.is_empty() {
            tail.start_segment(synced.next(), synced);
            disk.files.insert(synced.next(), Vec::new());
        }
        for write in writes {
            synced = tail.done(write).expect("in order");
        }
    }
    (disk, index)
}

/// Indexes of all entries from the spot of `offset` on, by reads of `max` bytes.
fn read(disk: &Disk, index: &SparseIndex, offset: u64, max: u64) -> Vec<u64> {
    let spot = index.locate(Offset(offset)).expect("a spot");
    let mut reader = Reader::new(IDS, spot.place, spot.index);
    let mut found = Vec::new();
    let mut least = 0;
    loop {
        let segment = reader.place().segment;
        let end = index.segment_end(segment).expect("a segment");
        let Some((at, len)) = reader.range(end, max.max(least)) else {
            let Some(next) = index.next_segment(segment) else { return found };
            reader.enter_segment(next.place.segment);
            continue;
        };
        let file = &disk.files[&segment];
        let to = (at + len).min(file.len() as u64) as usize;
        let chunk = Bytes::copy_from_slice(&file[at as usize..to]);
        least = loop {
            match reader.next(at, &chunk, end) {
                Parsed::Entry { header, .. } => found.push(header.index.0),
                Parsed::Need { position, len } => {
                    assert!(position >= at && position + len > at + chunk.len() as u64);
                    break len;
                }
                Parsed::End => break 0,
                Parsed::Bad { position, fault } => panic!("at {position}: {fault}"),
            }
        };
    }
}

#[test]
fn every_entry_is_read_from_every_spot_in_reads_of_any_size() {
    let (disk, index) = log();
    assert!(index.segments().len() > 3);
    let all = read(&disk, &index, 0, 1 << 20);
    assert_eq!(all, (1..=all.len() as u64).collect::<Vec<_>>());
    for offset in 0..all.len() as u64 {
        for max in [2 * BLOCK, 3 * BLOCK, 64 * BLOCK] {
            let found = read(&disk, &index, offset, max);
            assert!(found[0] <= offset + 1, "it begins at or before the record");
            assert_eq!(found[..], all[found[0] as usize - 1..]);
        }
    }
}

#[test]
fn a_reader_takes_nothing_but_the_entry_it_expects() {
    let (disk, index) = log();
    let chunk = Bytes::from(disk.files[&Index(1)].clone());
    let end = index.segment_end(Index(1)).expect("a segment");
    let at = Place::new(Index(1), 0);
    let foreign = [
        super::envelope::Ids { cluster: IDS.cluster + 1, ..IDS },
        super::envelope::Ids { partition: crate::base::ids::PartitionId(9), ..IDS },
    ];
    for ids in foreign {
        let parsed = Reader::new(ids, at, Index(1)).next(0, &chunk, end);
        assert!(matches!(parsed, Parsed::Bad { fault: super::EntryFault::Foreign, .. }));
    }
    let parsed = Reader::new(IDS, at, Index(2)).next(0, &chunk, end);
    assert!(matches!(parsed, Parsed::Bad { fault: super::EntryFault::Sequence(_), .. }));
    let parsed = Reader::new(IDS, Place::new(Index(2), 0), Index(1)).next(0, &chunk, end);
    assert!(matches!(parsed, Parsed::Bad { fault: super::EntryFault::Foreign, .. }));
    let parsed = Reader::new(IDS, at, Index(1)).next(0, &chunk, 200);
    assert!(matches!(parsed, Parsed::Bad { fault: super::EntryFault::Length, .. }));
}
