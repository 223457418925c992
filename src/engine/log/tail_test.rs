//! The rules of the tail, one test each.

use super::super::model::{AHEAD, Disk, IDS, Maker, fill_all, filled};
use super::*;
use crate::base::ids::Term;

const SEGMENT: u64 = 64 << 20;

fn fresh(segment_bytes: u64) -> (Tail, Disk, Maker) {
    let mut disk = Disk::default();
    disk.files.insert(Index(1), Vec::new());
    let mut tail = Tail::new(IDS, segment_bytes, Place::new(Index(1), 0), &[], 0);
    fill_all(&mut tail, &mut disk);
    (tail, disk, Maker::new())
}

fn push(tail: &mut Tail, maker: &mut Maker, bytes: usize) -> Index {
    let (header, body) = maker.next(bytes);
    tail.push(header, body);
    header.index
}

#[test]
fn a_write_holds_what_is_queued() {
    let (mut tail, _, mut maker) = fresh(SEGMENT);
    assert_eq!(tail.plan(Index(0)), None, "nothing to write");
    for bytes in [0, 100, 1_000] {
        push(&mut tail, &mut maker, bytes);
    }
    let planned = tail.plan(Index(0)).expect("a write");
    assert_eq!(planned.entries, Some((Index(1), Index(3))));
    assert_eq!((planned.position, planned.len), (0, BLOCK));
    assert_eq!(planned.places.len(), 3);
    assert_eq!(planned.places[1], Place::new(Index(1), 96));
    let buffer = filled(&mut tail, &planned);
    let (envelope, header) = super::super::envelope::decode_head(&buffer[96..]).expect("a head");
    assert_eq!((header.index, envelope.synced_index), (Index(2), Index(0)));
    assert_eq!(tail.done(planned.write), Some(Index(3)));
    assert!(tail.is_idle());
}

#[test]
fn the_tail_block_is_rewritten_only_when_nothing_is_in_flight() {
    let (mut tail, _, mut maker) = fresh(SEGMENT);
    push(&mut tail, &mut maker, 100);
    let first = tail.plan(Index(0)).expect("a write");
    let first_bytes = filled(&mut tail, &first);
    push(&mut tail, &mut maker, 100);
    let second = tail.plan(Index(0)).expect("a write");
    assert_eq!(second.position, BLOCK, "a fresh block while the first is in flight");
    let second_bytes = filled(&mut tail, &second);
    tail.done(first.write);
    push(&mut tail, &mut maker, 100);
    let third = tail.plan(Index(1)).expect("a write");
    assert_eq!(third.position, 2 * BLOCK);
    filled(&mut tail, &third);
    tail.done(second.write);
    tail.done(third.write);
    let end = tail.end().position;
    push(&mut tail, &mut maker, 100);
    let fourth = tail.plan(Index(3)).expect("a write");
    assert_eq!((fourth.position, fourth.places[0].position), (2 * BLOCK, end));
    let fourth_bytes = filled(&mut tail, &fourth);
    let old = (end % BLOCK) as usize;
    assert!(fourth_bytes[..old].iter().any(|byte| *byte != 0), "the synced bytes are there");
    assert_ne!(first_bytes, second_bytes);
}

#[test]
fn entries_are_acknowledged_in_log_order() {
    let (mut tail, _, mut maker) = fresh(SEGMENT);
    let mut writes = Vec::new();
    for _ in 0..WRITES_IN_FLIGHT {
        push(&mut tail, &mut maker, 10);
        let planned = tail.plan(Index(0)).expect("a write");
        filled(&mut tail, &planned);
        writes.push(planned.write);
    }
    push(&mut tail, &mut maker, 10);
    assert_eq!(tail.plan(Index(0)), None, "as many are out as may be");
    assert_eq!(tail.done(writes[1]), None);
    assert_eq!(tail.done(writes[3]), None);
    assert_eq!(tail.done(writes[0]), Some(Index(2)));
    assert_eq!(tail.done(writes[2]), Some(Index(4)));
    assert_eq!(tail.plan(Index(4)).expect("a write").entries, Some((Index(5), Index(5))));
}

#[test]
fn writes_are_bounded_and_a_large_entry_goes_alone() {
    let (mut tail, mut disk, mut maker) = fresh(SEGMENT);
    let mib = WRITE_BYTES as usize;
    for bytes in [mib / 3, mib / 3, mib / 3 + 100, 3 * mib, 10] {
        push(&mut tail, &mut maker, bytes);
    }
    fill_all(&mut tail, &mut disk);
    let sizes: Vec<_> = std::iter::from_fn(|| {
        let planned = tail.plan(Index(0))?;
        filled(&mut tail, &planned);
        assert!(planned.len <= WRITE_BYTES + BLOCK || planned.places.len() == 1);
        Some(planned.places.len())
    })
    .collect();
    assert_eq!(sizes, [2, 1, 1, 1]);
}

#[test]
fn a_write_waits_for_the_zeros_it_needs() {
    let mut tail = Tail::new(IDS, SEGMENT, Place::new(Index(1), 0), &[], 0);
    let mut maker = Maker::new();
    let large = 5 << 20;
    push(&mut tail, &mut maker, large);
    assert_eq!(tail.plan(Index(0)), None);
    let (from, to) = tail.wants_fill(AHEAD).expect("zeros");
    assert!(from == 0 && to > large as u64, "as much as it takes");
    assert_eq!(tail.wants_fill(AHEAD), None, "asked for once");
    assert_eq!(tail.plan(Index(0)), None, "not yet");
    tail.filled(Index(1), to);
    assert_eq!(tail.plan(Index(0)).expect("a write").entries, Some((Index(1), Index(1))));
}

#[test]
fn a_full_segment_is_left_for_the_next() {
    let (mut tail, mut disk, mut maker) = fresh(16 * BLOCK);
    let mut entries = 0;
    let mut synced = Index(0);
    loop {
        let (header, body) = maker.clone().next(1_000);
        if !tail.fits(body.entry_len()) {
            break;
        }
        maker.last = Some((header, body.crc()));
        tail.push(header, body);
        entries += 1;
        if entries % 5 == 0 {
            let planned = tail.plan(synced).expect("a write");
            filled(&mut tail, &planned);
            synced = tail.done(planned.write).expect("in order");
        }
    }
    assert!(entries > 40, "the estimate wastes little: {entries} entries");
    while let Some(planned) = tail.plan(synced) {
        filled(&mut tail, &planned);
        synced = tail.done(planned.write).expect("in order");
    }
    let first = synced.next();
    tail.start_segment(first, synced);
    assert_eq!(tail.end(), Place::new(first, 0));
    assert_eq!(tail.wants_fill(AHEAD), Some((0, 16 * BLOCK)));
    tail.filled(Index(1), BLOCK); // A late answer about the old one.
    disk.files.insert(first, Vec::new());
    tail.filled(first, 16 * BLOCK);
    push(&mut tail, &mut maker, 10);
    let planned = tail.plan(synced).expect("a write");
    assert_eq!((planned.segment, planned.position), (first, 0));
}

#[test]
fn queued_entries_can_be_dropped_and_replaced() {
    let (mut tail, _, mut maker) = fresh(SEGMENT);
    push(&mut tail, &mut maker, 10);
    let planned = tail.plan(Index(0)).expect("a write");
    filled(&mut tail, &planned);
    let kept = maker.clone();
    for _ in 0..3 {
        push(&mut tail, &mut maker, 10);
    }
    assert_eq!(tail.drop_from(Index(3)), Index(3));
    assert_eq!(tail.drop_from(Index(2)), Index(2));
    assert_eq!(tail.queued(), 0);
    maker = kept;
    maker.term = Term(2);
    assert_eq!(push(&mut tail, &mut maker, 20), Index(2));
    assert_eq!(tail.drop_from(Index(1)), Index(2), "the first is on its way to the disk");
}

#[test]
fn nothing_is_written_after_a_cut_until_the_old_bytes_are_zeroed() {
    let (mut tail, mut disk, mut maker) = fresh(SEGMENT);
    let mut synced = Index(0);
    let mut before = maker.clone();
    let (mut place, mut block) = (Place::default(), Vec::new());
    for i in 0..6 {
        if i == 3 {
            before = maker.clone();
            place = tail.end();
            let file = &disk.files[&Index(1)];
            let from = block_floor(place.position) as usize;
            block = file[from..place.position as usize].to_vec();
        }
        push(&mut tail, &mut maker, 6_000);
        let planned = tail.plan(synced).expect("a write");
        let bytes = filled(&mut tail, &planned);
        disk.put(Index(1), planned.position, &bytes);
        synced = tail.done(planned.write).expect("in order");
    }
    let old_end = tail.end().position;
    tail.cut(place, &block);
    maker = before;
    maker.term = Term(2);
    assert_eq!((tail.plan(Index(3)), tail.is_cut()), (None, false), "stale entries are behind");
    let mut zeroed = block_ceil(place.position);
    while let Some((from, to)) = tail.wants_fill(AHEAD) {
        assert_eq!(from, zeroed);
        disk.put(Index(1), from, &vec![0; (to - from) as usize]);
        tail.filled(Index(1), to);
        zeroed = to;
    }
    assert!(zeroed >= old_end && !tail.is_cut());
    let rewrite = tail.plan(Index(3)).expect("the tail block is rewritten");
    assert_eq!((rewrite.entries, rewrite.len), (None, BLOCK));
    let bytes = filled(&mut tail, &rewrite);
    disk.put(Index(1), rewrite.position, &bytes);
    push(&mut tail, &mut maker, 10);
    assert_eq!(tail.plan(Index(3)), None, "not before the cut is durable");
    assert_eq!((tail.done(rewrite.write), tail.is_cut()), (None, true));
    assert_eq!(disk.scan(|scan| scan).0.entries, 3);
    let planned = tail.plan(Index(3)).expect("a write");
    let bytes = filled(&mut tail, &planned);
    disk.put(Index(1), planned.position, &bytes);
    let (outcome, found) = disk.scan(|scan| scan);
    assert_eq!((outcome.rot, found.len()), (None, 4));
    assert_eq!(found[3].header.term, Term(2));
}

#[test]
#[should_panic(expected = "must follow")]
fn an_entry_out_of_order_is_a_bug() {
    let (mut tail, _, mut maker) = fresh(SEGMENT);
    push(&mut tail, &mut maker, 10);
    maker.next(10);
    push(&mut tail, &mut maker, 10);
}

#[test]
#[should_panic(expected = "not written is not synced")]
fn an_unwritten_entry_is_not_synced() {
    let (mut tail, _, mut maker) = fresh(SEGMENT);
    push(&mut tail, &mut maker, 10);
    tail.plan(Index(1));
}

#[test]
#[should_panic(expected = "durable to its end")]
fn a_segment_is_not_sealed_before_it_is_durable() {
    let (mut tail, _, mut maker) = fresh(SEGMENT);
    push(&mut tail, &mut maker, 10);
    let planned = tail.plan(Index(0)).expect("a write");
    filled(&mut tail, &planned);
    tail.done(planned.write);
    tail.start_segment(Index(2), Index(0));
}

#[test]
fn what_lies_before_the_done_end_never_changes() {
    let (mut tail, _, mut maker) = fresh(SEGMENT);
    let done = |tail: &Tail| tail.done_end().position;
    assert_eq!(done(&tail), 0);
    push(&mut tail, &mut maker, 100);
    let first = tail.plan(Index(0)).expect("a write");
    filled(&mut tail, &first);
    push(&mut tail, &mut maker, 100);
    let second = tail.plan(Index(0)).expect("a write");
    filled(&mut tail, &second);
    assert_eq!(done(&tail), 0, "nothing is done");
    assert_eq!(tail.done(second.write), None);
    assert_eq!(done(&tail), 0, "the first is not");
    tail.done(first.write);
    let end = tail.end().position;
    assert_eq!(done(&tail), end, "both are");
    assert!(end > BLOCK && !end.is_multiple_of(BLOCK));
    // A rewrite of the tail block changes nothing before it.
    push(&mut tail, &mut maker, 100);
    let third = tail.plan(Index(2)).expect("a write");
    let bytes = filled(&mut tail, &third);
    assert_eq!((third.position, done(&tail)), (BLOCK, end));
    assert!(bytes[(end - BLOCK) as usize..].iter().any(|byte| *byte != 0));
    // Behind a fresh block, the gap before it is as good as written.
    push(&mut tail, &mut maker, 100);
    let fourth = tail.plan(Index(2)).expect("a write");
    filled(&mut tail, &fourth);
    tail.done(third.write);
    assert_eq!(done(&tail), fourth.position);
}
