//! Recovery against each class of damage: what is cut, what is rot, and that it is said exactly.

use super::super::model::{Disk, IDS, Maker, SEGMENT, fill_all, filled, log};
use super::super::tail::Tail;
use super::*;

fn flip(disk: &mut Disk, place: Place, at: u64) {
    let file = disk.files.get_mut(&place.segment).expect("a file");
    file[(place.position + at) as usize] ^= 0x40;
}

#[test]
fn a_whole_log_is_read_to_its_end() {
    let (disk, places) = log(3);
    let (outcome, found) = disk.scan(|scan| scan);
    assert_eq!(found.iter().map(|f| f.place).collect::<Vec<_>>(), {
        places.iter().map(|(place, _)| *place).collect::<Vec<_>>()
    });
    let (last, len) = places[places.len() - 1];
    let end = outcome.end.as_ref().expect("an end");
    assert_eq!(end.place, Place::new(last.segment, last.position + len));
    assert_eq!(end.tail_block.len() as u64, end.place.position % BLOCK);
    assert_eq!(end.filled_end, disk.files[&last.segment].len() as u64);
    assert_eq!((outcome.torn_bytes, outcome.zero, outcome.rot.clone()), (0, None, None));
    assert_eq!((outcome.entries, outcome.events), (30, 24));
    assert_eq!(outcome.next_index(Index(1)), Index(31));
    assert_eq!(outcome.next_offset(), Offset(24));
    assert!(outcome.segments_to_remove.is_empty());
}

#[test]
fn no_files_and_blank_files_are_empty_logs() {
    let mut disk = Disk::default();
    assert_eq!(disk.scan(|scan| scan).0, ScanOutcome::default());
    for len in [0, 1, 95, 4_096, 5_000_000] {
        disk.files.insert(Index(1), vec![0; len]);
        let (outcome, found) = disk.scan(|scan| scan);
        let end = outcome.end.expect("an end");
        assert_eq!((end.place, found.len()), (Place::new(Index(1), 0), 0));
        assert_eq!(end.filled_end, block_floor(len as u64));
        assert_eq!((outcome.rot, outcome.torn_bytes), (None, 0));
    }
}

/// Where in an entry the damage is.
const CLASSES: [(&str, u64); 9] = [
    ("magic", 0),
    ("version", 4),
    ("cluster", 8),
    ("synced index", 32),
    ("index", 48),
    ("body length", 76),
    ("body checksum", 80),
    ("header checksum", 92),
    ("body", 96 + 30),
];

#[test]
fn damage_to_what_was_synced_is_rot_and_said_exactly() {
    let (whole, places) = log(3);
    for (class, at) in CLASSES {
        for bad in [1_u64, 2, 5, 9, 10, 11, 15, 20, 21, 28] {
            let (place, len) = places[bad as usize - 1];
            if at >= len {
                continue; // A no-op has no body.
            }
            let mut disk = whole.clone();
            flip(&mut disk, place, at);
            let (outcome, found) = disk.scan(|scan| scan);
            let what = format!("{class} of entry {bad}");
            let rot = outcome.rot.unwrap_or_else(|| panic!("{what} is rot"));
            assert_eq!(found.len() as u64, bad - 1, "{what}: what is before is read");
            assert_eq!(rot.first_bad, Index(bad), "{what}");
            assert_eq!(rot.next_valid, Some(Index(bad + 1)), "{what}");
            assert!(rot.place.position <= place.position && rot.place.segment == place.segment);
            assert!(rot.end >= place.position + len, "{what}");
            assert!(rot.text.contains(&format!("entry {bad} is lost")), "{}", rot.text);
            assert_eq!((outcome.torn_bytes, outcome.zero), (0, None), "nothing is cut");
            assert!(outcome.segments_to_remove.is_empty());
        }
    }
}

#[test]
fn damage_that_no_later_entry_vouches_for_is_torn() {
    let (whole, places) = log(2);
    let (place, len) = places[19];
    for (class, at) in CLASSES {
        let mut disk = whole.clone();
        flip(&mut disk, place, at);
        let (outcome, found) = disk.scan(|scan| scan);
        assert_eq!((outcome.rot, found.len()), (None, 19), "{class}");
        let end = outcome.end.expect("an end");
        let before = places[18].0.position + places[18].1;
        assert_eq!(end.place.position, before, "{class}");
        assert_eq!(
            outcome.torn_bytes,
            places[19].0.position + len - before - tail_zeros(&disk, place, len)
        );
        let (from, to) = outcome.zero.expect("the entry spans blocks");
        assert_eq!(from, block_ceil(before));
        assert!(to >= place.position + len - 8 && to <= block_ceil(place.position + len));
        // What the caller knows makes it rot.
        let (outcome, _) = disk.scan(|scan| scan.known_synced(Index(20)));
        let rot = outcome.rot.expect("known to be durable");
        assert_eq!((rot.first_bad, rot.next_valid), (Index(20), None));
        assert!(rot.text.contains("all behind it are lost"), "{}", rot.text);
    }
}

/// Zero bytes that the entry ends with: they are not told from the zeros behind.
fn tail_zeros(disk: &Disk, place: Place, len: u64) -> u64 {
    let file = &disk.files[&place.segment];
    let end = (place.position + len) as usize;
    let words = file[..end].rchunks(8).take_while(|word| word.iter().all(|b| *b == 0)).count();
    8 * words as u64
}

#[test]
fn padding_and_gaps_carry_nothing() {
    let (whole, places) = log(1);
    let (place, len) = places[0];
    let mut disk = whole.clone();
    flip(&mut disk, place, len - 1);
    let body_end = 96 + u64::from(body_len(&whole, place));
    if body_end < len {
        assert_eq!(disk.scan(|scan| scan).1.len(), 10, "padding is not read");
    }
    // A gap: the tail goes on at a fresh block while writes are in flight.
    let (mut disk, gap) = two_writes_in_flight();
    assert_eq!(disk.scan(|scan| scan).1.len(), 2);
    flip(&mut disk, Place::new(Index(1), gap), 0);
    assert_eq!(disk.scan(|scan| scan).1.len(), 2, "what lies in a gap is nothing");
}

fn body_len(disk: &Disk, place: Place) -> u32 {
    let head = &disk.files[&place.segment][place.position as usize..];
    super::super::envelope::decode_head(head).expect("a head").0.body_len
}

fn two_writes_in_flight() -> (Disk, u64) {
    let mut disk = Disk::default();
    disk.files.insert(Index(1), Vec::new());
    let mut tail = Tail::new(IDS, SEGMENT, Place::new(Index(1), 0), &[], 0);
    fill_all(&mut tail, &mut disk);
    let mut maker = Maker::new();
    let mut gap = 0;
    for _ in 0..2 {
        let (header, body) = maker.next(100);
        tail.push(header, body);
        let planned = tail.plan(Index(0)).expect("a write");
        gap = if gap == 0 { tail.end().position } else { gap };
        let bytes = filled(&mut tail, &planned);
        disk.put(Index(1), planned.position, &bytes);
    }
    (disk, gap)
}

#[test]
fn valid_entries_behind_a_torn_one_are_cut_with_it() {
    let (mut disk, _) = two_writes_in_flight();
    flip(&mut disk, Place::new(Index(1), 0), 20);
    let (outcome, found) = disk.scan(|scan| scan);
    assert_eq!((outcome.rot, found.len()), (None, 0));
    assert_eq!(outcome.zero, Some((0, 2 * BLOCK)));
}

#[test]
fn lost_ends_and_lost_segments_are_rot() {
    let (whole, places) = log(3);
    // The end of a sealed segment.
    let mut disk = whole.clone();
    let (place, _) = places[8];
    disk.files.get_mut(&Index(1)).expect("a file").truncate(place.position as usize);
    let rot = disk.scan(|scan| scan).0.rot.expect("rot");
    assert_eq!((rot.first_bad, rot.next_valid), (Index(9), Some(Index(11))));
    assert!(rot.text.contains("entries 9 to 10 are lost"), "{}", rot.text);
    // A whole segment in the middle.
    let mut disk = whole.clone();
    disk.files.remove(&Index(11));
    let rot = disk.scan(|scan| scan).0.rot.expect("rot");
    assert_eq!((rot.first_bad, rot.next_valid), (Index(11), Some(Index(21))));
    // The head of the oldest segment.
    let mut disk = whole.clone();
    disk.files.retain(|first, _| *first == Index(21));
    assert_eq!(disk.scan(|scan| scan).0.entries, 10, "a suffix is a log");
    disk.files.get_mut(&Index(21)).expect("a file").fill(0);
    let rot = disk.scan(|scan| scan).0.rot.expect("rot");
    assert_eq!((rot.first_bad, rot.next_valid), (Index(21), None));
    // The bytes of another segment in the place of ours, and of another log.
    let mut disk = whole.clone();
    let other = disk.files[&Index(11)].clone();
    disk.files.insert(Index(21), other);
    let rot = disk.scan(|scan| scan).0.rot.expect("rot");
    assert_eq!(rot.first_bad, Index(21));
    assert!(rot.text.contains("another log or segment"), "{}", rot.text);
}

#[test]
fn empty_segments_behind_a_torn_end_are_removed() {
    let (mut disk, places) = log(1);
    disk.files.insert(Index(11), vec![0; 8_192]);
    let (outcome, found) = disk.scan(|scan| scan);
    assert_eq!(outcome.end.expect("an end").place, Place::new(Index(11), 0));
    assert_eq!(found.len(), 10, "a segment that was just begun is where the log goes on");
    flip(&mut disk, places[9].0, 50);
    let (outcome, found) = disk.scan(|scan| scan);
    assert_eq!((outcome.rot, found.len()), (None, 9));
    assert_eq!(outcome.segments_to_remove, [Index(11)]);
    assert_eq!(outcome.end.expect("an end").place.segment, Index(1));
}

#[test]
fn a_cut_that_was_under_way_is_carried_on() {
    let (mut disk, places) = log(2);
    for (place, len) in &places[13..16] {
        let file = disk.files.get_mut(&place.segment).expect("a file");
        file[place.position as usize..(place.position + len) as usize].fill(0);
    }
    assert!(disk.scan(|scan| scan).0.rot.is_some(), "it looks like rot");
    let (outcome, found) = disk.scan(|scan| scan.cut_from(Index(13)));
    assert_eq!((outcome.rot, found.len()), (None, 12));
    let end = outcome.end.expect("an end").place;
    assert_eq!(end.position, places[11].0.position + places[11].1);
    let (last, len) = places[19];
    assert!(outcome.zero.is_some_and(|(_, to)| to + 8 >= last.position + len));
    let (outcome, found) = disk.scan(|scan| scan.cut_from(Index(5)));
    assert_eq!((outcome.rot, found.len()), (None, 4));
    assert_eq!(outcome.segments_to_remove, [Index(11)]);
}

#[test]
fn an_entry_of_another_history_is_not_taken_over() {
    // The same indexes, terms, sizes and places; only the payload of entry 1 differs.
    let (mut disk, places) = log(1);
    let mut other = Maker::new();
    other.next(301);
    let (last, len) = places[9];
    let mut stale = None;
    for i in 1..10_usize {
        stale = Some(other.next([300, 5_000, 0, 40, 9_000][i % 5]));
    }
    let (header, body) = stale.expect("entry 10");
    let (_, all) = disk.scan(|scan| scan);
    let chain = header.chain;
    assert_eq!(EntryHeader { chain: all[9].header.chain, ..header }, all[9].header);
    assert_eq!(body.entry_len(), len);
    let envelope = super::super::envelope::Envelope {
        cluster: IDS.cluster,
        partition: IDS.partition,
        segment: Index(1),
        synced_index: Index(9),
        body_len: body.bytes().len() as u32,
        body_crc: body.crc(),
    };
    let head = super::super::envelope::encode_head(&envelope, &header);
    disk.put(Index(1), last.position, &head);
    disk.put(Index(1), last.position + 96, body.bytes());
    assert_ne!(chain, all[9].header.chain);
    assert_eq!(disk.scan(|scan| scan).1.len(), 9, "the chain is another one");
}

#[test]
fn an_entry_larger_than_a_read_is_found_whole() {
    let mut disk = Disk::default();
    disk.files.insert(Index(1), Vec::new());
    let mut tail = Tail::new(IDS, 64 << 20, Place::new(Index(1), 0), &[], 0);
    let mut maker = Maker::new();
    let mut synced = Index(0);
    for bytes in [3 << 20, 100, 11 << 20, 7, 3_900_000] {
        let (header, body) = maker.next(bytes);
        tail.push(header, body);
        fill_all(&mut tail, &mut disk);
        let planned = tail.plan(synced).expect("a write");
        let bytes = filled(&mut tail, &planned);
        disk.put(planned.segment, planned.position, &bytes);
        synced = tail.done(planned.write).expect("in order");
    }
    let (outcome, found) = disk.scan(|scan| scan);
    assert_eq!((outcome.entries, found.len(), outcome.rot), (5, 5, None));
}

proptest::proptest! {
    #[test]
    fn foreign_files_never_panic(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..20_000),
        first in 1..5_u64,
    ) {
        let mut disk = Disk::default();
        disk.files.insert(Index(first), bytes);
        let (outcome, found) = disk.scan(|scan| scan);
        assert_eq!((found.len(), outcome.rot.is_some()), (0, first > 1));
    }

    #[test]
    fn damage_anywhere_never_invents_or_reorders(
        at in proptest::prelude::any::<proptest::sample::Index>(),
        len in 1..6_000_usize,
        value in proptest::prelude::any::<u8>(),
        segment in 0..3_u64,
    ) {
        let (whole, _) = log(3);
        let (_, all) = whole.scan(|scan| scan);
        let mut disk = whole;
        let file = disk.files.get_mut(&Index(segment * 10 + 1)).expect("a file");
        let from = at.index(40_000);
        file[from..from + len].fill(value);
        let (outcome, found) = disk.scan(|scan| scan);
        assert_eq!(found[..], all[..found.len()], "a prefix of what was written");
        let cut = outcome.rot.is_none() && found.len() < all.len();
        assert!(!cut || segment == 2, "only the last segment can be cut");
    }
}
