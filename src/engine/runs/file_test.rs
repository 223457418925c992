//! Whole run files: what goes in comes out, damage is seen, and search agrees with a sorted list.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use proptest::prelude::*;

use super::block::Block;
use super::directory::Directory;
use super::file::Footer;
use super::model::{
    Dice, OFFSETS, Owned, head, key, open, read_all, read_block, records, reseal, slice, write,
};
use super::part::{RunFault, RunHead, RunIds, RunKind};
use super::record::{RunKey, RunRecord};
use super::writer::RunWriter;
use crate::base::ids::{Offset, Position, RunNo, TopicNo};
use crate::base::limits::{
    MESSAGE_ID_BYTES, META_BYTES, PAYLOAD_BYTES, RUN_BLOCK_BYTES, RUN_BLOCK_BYTES_MAX,
    RUN_READ_BYTES,
};

const KINDS: [RunKind; 2] = [RunKind::Carried, RunKind::Index];

/// Three records of two topics and a tombstone.
fn small(kind: RunKind) -> Vec<Owned> {
    let carried = [
        Owned::carried(key(1, 1_763_800_000_000, 17), b"order-1", b"\x2a\x04meta", b"hello"),
        Owned::carried(key(1, 1_763_800_000_000, 18), b"order-2", b"", &[0xfe; 40]),
        Owned::of(&RunRecord::tombstone(key(1, 1_763_800_000_001, 3))),
        Owned {
            allow_duplicate: true,
            schedule_ts: 12,
            ..Owned::carried(key(4, 1_763_800_000_000, 16), b"x", b"", b"again")
        },
    ];
    let strip = |owned: Owned| {
        let key_only = Owned::of(&RunRecord::key_only(owned.key, owned.schedule_ts));
        let (allow_duplicate, tombstone) = (owned.allow_duplicate, owned.tombstone);
        Owned { allow_duplicate, tombstone, ..key_only }
    };
    match kind {
        RunKind::Carried => carried.to_vec(),
        RunKind::Index => carried.into_iter().map(strip).collect(),
    }
}

fn small_head(kind: RunKind) -> RunHead {
    RunHead { first_offset: Offset(16), end_offset: Offset(19), ..head(7, kind) }
}

#[test]
fn golden_files_of_version_1() {
    let golden: [&'static [u8]; 2] = [
        include_bytes!("../../../tests/golden/run.v1.bin"),
        include_bytes!("../../../tests/golden/index.v1.bin"),
    ];
    for (kind, golden) in KINDS.into_iter().zip(golden) {
        let head = small_head(kind);
        let (file, directory) = write(head, &small(kind));
        assert_eq!(file, golden, "format v1 never changes");
        let golden = Bytes::from_static(golden);
        assert_eq!(open(&golden, &head.ids), Ok(directory));
        assert_eq!(read_all(&golden, &head.ids), Ok(small(kind)));
    }
}

#[test]
fn a_run_of_nothing_can_be_written_and_read() {
    for kind in KINDS {
        let (file, directory) = write(head(1, kind), &[]);
        assert_eq!(file.len(), 3 * 4096);
        assert_eq!(open(&file, &directory.head().ids), Ok(directory.clone()));
        assert_eq!((directory.blocks(), directory.records(), directory.dues()), (0, 0, None));
        assert_eq!(directory.block_for(TopicNo(0), Position::START), None);
        assert!(!directory.overlaps(0, u64::MAX));
    }
}

#[test]
fn every_flipped_byte_is_seen() {
    for kind in KINDS {
        let head = small_head(kind);
        let (file, _) = write(head, &small(kind));
        for at in 0..file.len() {
            let mut bad = file.to_vec();
            bad[at] ^= 1 << (at % 8);
            let found = read_all(&bad.into(), &head.ids);
            assert!(found.is_err(), "byte {at}: {found:?}");
        }
    }
}

#[test]
fn a_file_cut_short_is_seen() {
    for kind in KINDS {
        let head = small_head(kind);
        let (file, _) = write(head, &small(kind));
        for len in 0..file.len() {
            assert!(read_all(&file.slice(..len), &head.ids).is_err(), "{len} bytes");
        }
        let longer = Bytes::from([&file[..], &[0; 4096]].concat());
        assert!(read_all(&longer, &head.ids).is_err());
    }
}

#[test]
fn another_run_is_never_taken_for_ours() {
    let (file, directory) = write(head(7, RunKind::Carried), &small(RunKind::Carried));
    let other = RunIds { run: RunNo(8), ..directory.head().ids };
    assert_eq!(read_all(&file, &other), Err(RunFault::Foreign));
    // A block in the place of another, of the same run.
    let many = records(5, RunKind::Carried, 60, 1_000);
    let (file, directory) = write(head(7, RunKind::Carried), &many);
    assert!(directory.blocks() > 2);
    let second = slice(&file, directory.extent(1));
    assert!(Block::decode(second.clone(), directory.head(), 1).is_ok());
    assert_eq!(Block::decode(second, directory.head(), 0).unwrap_err(), RunFault::Foreign);
    // A block of an older writing of the same run: sound, yet not the directory's.
    let (_, stale) = write(head(7, RunKind::Carried), &many[1..]);
    if stale.extent(0) == directory.extent(0) {
        assert_eq!(read_block(&file, &stale, 0).unwrap_err(), RunFault::Directory);
    } else {
        assert_eq!(read_block(&file, &stale, 0).unwrap_err(), RunFault::Length);
    }
}

#[test]
fn the_largest_record_has_a_block_of_its_own() {
    let largest = |offset| {
        let (id, meta) = (vec![1; MESSAGE_ID_BYTES], vec![2; META_BYTES]);
        Owned::carried(key(1, 5, offset), &id, &meta, &vec![3; PAYLOAD_BYTES])
    };
    let tiny = |offset| Owned::carried(key(1, 5, offset), b"", b"", b"p");
    let all = [tiny(1), tiny(2), largest(3), tiny(4), largest(5), largest(6)];
    let (file, directory) = write(head(1, RunKind::Carried), &all);
    let blocks: Vec<usize> = (0..directory.blocks())
        .map(|block| read_block(&file, &directory, block).unwrap().len())
        .collect();
    assert_eq!(blocks, [2, 1, 1, 1, 1]);
    assert!(directory.extent(1).len <= RUN_BLOCK_BYTES_MAX as u64);
    assert_eq!(read_all(&file, &directory.head().ids).unwrap(), all);
}

#[test]
fn blocks_that_are_due_are_read_together() {
    let record = |i: u64| {
        let (topic, due) = if i < 200 { (1, 5 + i / 100) } else { (2, 9) };
        Owned::carried(key(topic, due, i), b"", b"", &vec![3; 15 << 10])
    };
    let all = (0..210).map(record).collect::<Vec<_>>();
    let (_, directory) = write(head(1, RunKind::Carried), &all);
    let (topic, each) = (TopicNo(1), RUN_READ_BYTES / RUN_BLOCK_BYTES);
    assert_eq!(directory.extent(0).len, RUN_BLOCK_BYTES as u64);
    assert_eq!(directory.blocks_due(topic, 0, 6), 0..each, "as many as one read may have");
    let later = directory.block_for(topic, Position::new(5, Offset(99))).expect("it has more");
    let before = directory.blocks_due(topic, later - 1, 5);
    assert_eq!(before, later - 1..later + 1, "the last begins with what is due");
    let last = directory.topic(topic).expect("it has some").blocks().end - 1;
    assert_eq!(directory.blocks_due(topic, last - 1, 9), last - 1..last, "others' are not read");
    assert_eq!(directory.blocks_due(topic, last, 9), last..last + 1, "but for the one asked for");
}

#[test]
fn what_a_run_may_not_hold_is_refused() {
    let refused = |kind, record: &Owned| {
        let mut writer = RunWriter::new(small_head(kind));
        catch_unwind(AssertUnwindSafe(|| writer.push(&record.record()))).is_err()
    };
    let carried = RunKind::Carried;
    let good = Owned::carried(key(1, 9, 17), b"id", b"", b"payload");
    assert!(!refused(carried, &good));
    assert!(refused(RunKind::Index, &good), "a due index carries nothing");
    assert!(refused(carried, &Owned { tombstone: true, ..good.clone() }));
    assert!(refused(carried, &Owned { message_id: vec![0; MESSAGE_ID_BYTES + 1], ..good.clone() }));
    assert!(refused(carried, &Owned { meta: vec![0; META_BYTES + 1], ..good.clone() }));
    assert!(refused(carried, &Owned { payload: vec![0; PAYLOAD_BYTES + 1], ..good.clone() }));
    assert!(refused(carried, &Owned { schedule_ts: 10, ..good.clone() }));
    assert!(refused(carried, &Owned { key: key(1, 9, 15), ..good.clone() }));
    assert!(refused(carried, &Owned { key: key(1, 9, 19), ..good }));
    let tombstone = |offset| Owned::of(&RunRecord::tombstone(key(1, 9, offset)));
    assert!(!refused(carried, &tombstone(0)) && !refused(RunKind::Index, &tombstone(0)));
    assert!(refused(carried, &tombstone(19)));
}

#[test]
fn keys_must_rise() {
    let mut writer = RunWriter::new(head(1, RunKind::Index));
    writer.push(&RunRecord::key_only(key(2, 2, 2), 0));
    for not_behind in [key(2, 2, 2), key(2, 2, 1), key(2, 1, 3), key(1, 3, 3)] {
        let push = || writer.push(&RunRecord::key_only(not_behind, 0));
        assert!(catch_unwind(AssertUnwindSafe(push)).is_err(), "{not_behind:?}");
    }
    writer.push(&RunRecord::key_only(key(2, 2, 3), 0));
}

#[test]
fn blocks_are_full_and_the_directory_small() {
    let keys =
        (0..100_000).map(|i| Owned::of(&RunRecord::key_only(key(i / 40_000, 5, i.into()), 5)));
    let (file, directory) = write(head(1, RunKind::Index), &keys.collect::<Vec<_>>());
    assert_eq!(read_block(&file, &directory, 0).unwrap().len(), 2_045);
    assert_eq!(directory.blocks(), 49);
    let blocks = directory.blocks() * 40 + directory.topics().len() * 40 + 200;
    assert!(directory.memory_bytes() <= blocks, "{} bytes", directory.memory_bytes());
    let full =
        (0..directory.blocks() - 1).all(|i| directory.extent(i).len == RUN_BLOCK_BYTES as u64);
    assert!(full, "blocks are filled up to their target");
}

#[test]
fn a_block_must_agree_with_itself() {
    let head = small_head(RunKind::Carried);
    let (file, directory) = write(head, &small(RunKind::Carried));
    let changed = |at: usize, bytes: &[u8]| {
        let mut forged = slice(&file, directory.extent(0)).to_vec();
        forged[at..at + bytes.len()].copy_from_slice(bytes);
        reseal(&mut forged);
        Block::decode(forged.into(), &head, 0).map(|block| block.len())
    };
    assert_eq!(changed(0, b"CDBr"), Ok(4));
    let (first, second, tombstone) = (96, 96 + 64, 96 + 2 * 64);
    let (field, row) = (RunFault::Field, RunFault::Row);
    let cases: [(&str, usize, &[u8], RunFault); 21] = [
        ("kind", 7, &[2], RunFault::Foreign),
        ("number", 20, &[1], RunFault::Foreign),
        ("first topic", 32, &[2], field),
        ("first due", 40, &[1], field),
        ("first offset", 48, &[18], field),
        ("no record", 36, &[0], field),
        ("a record less", 36, &[3], field),
        ("more records than bytes", 36, &[0xff; 4], field),
        ("reserved field", 56, &[1], field),
        ("body_len, the rest is no padding", 84, &[0x46], field),
        ("body_len, more than the rows have", 84, &[0x48], field),
        ("flags", first + 4, &[4], row(0)),
        ("reserved byte", first + 5, &[1], row(0)),
        ("offset, of another run", first + 16, &[15], row(0)),
        ("offset, not behind the one before", second + 16, &[17], row(1)),
        ("schedule_ts behind due", first + 24, &[0xff; 8], row(0)),
        ("start", first + 52, &[1], row(0)),
        ("payload_len", first + 56, &[6], row(1)),
        ("payload_len, beyond the block", first + 56, &[0xff; 4], row(0)),
        ("last byte", first + 63, &[1], row(0)),
        ("a tombstone's append_ts", tombstone + 32, &[1], row(2)),
    ];
    for (what, at, bytes, fault) in cases {
        assert_eq!(changed(at, bytes), Err(fault), "{what}");
    }
}

fn footer_of(file: &Bytes, ids: &RunIds) -> Footer {
    let len = file.len() as u64;
    Footer::decode(&slice(file, Footer::extent(len).unwrap()), ids, len).unwrap()
}

/// The file's directory with some bytes changed and its CRCs made right.
fn forged_directory(file: &Bytes, ids: &RunIds, at: usize, bytes: &[u8]) -> Result<(), RunFault> {
    let footer = footer_of(file, ids);
    let mut forged = slice(file, footer.directory).to_vec();
    forged[at..at + bytes.len()].copy_from_slice(bytes);
    reseal(&mut forged);
    Directory::decode(&forged, &footer).map(|_| ())
}

#[test]
fn a_directory_must_agree_with_itself() {
    let head = small_head(RunKind::Carried);
    let (file, _) = write(head, &small(RunKind::Carried));
    let changed = |at, bytes: &[u8]| forged_directory(&file, &head.ids, at, bytes);
    assert_eq!(changed(0, b"CDBr"), Ok(()));
    let (block, first, second) = (96, 96 + 24, 96 + 24 + 40);
    let field = RunFault::Field;
    let row = RunFault::Row;
    let late = 1_763_800_000_001_u64.to_le_bytes();
    let early = 1_763_799_999_999_u64.to_le_bytes();
    let cases: [(&str, usize, &[u8], RunFault); 21] = [
        ("kind", 7, &[2], RunFault::Foreign),
        ("first_offset", 32, &[20], field),
        ("blocks", 48, &[2], field),
        ("topics", 52, &[1], field),
        ("tombstones", 56, &[5], field),
        ("reserved", 64, &[1], field),
        ("block len", block + 4, &[0], row(0)),
        ("block len, shorter than the file", block + 4, &[2], field),
        ("block len, over the limit", block + 4, &[0xff, 0xff], row(0)),
        ("block count", block + 6, &[0], row(0)),
        ("block count, another sum", block + 6, &[5], field),
        ("block topic", block, &[2], row(0)),
        ("block due", block + 8, &late, row(0)),
        ("topic order", second, &[1], row(1)),
        ("topic first_block", second + 4, &[1], row(1)),
        ("topic last_block", second + 8, &[1], row(1)),
        ("topic records", second + 12, &[0], row(1)),
        ("topic records, another sum", first + 12, &[2], field),
        ("topic first_due", first + 16, &early, row(0)),
        ("topic last_due", second + 24, &early, row(1)),
        ("topic last_offset", second + 32, &[19], row(1)),
    ];
    for (what, at, bytes, fault) in cases {
        assert_eq!(changed(at, bytes), Err(fault), "{what}");
    }
}

#[test]
fn every_block_is_of_a_topic() {
    // Topic 1 has blocks 0 and 1, topic 2 has block 2.
    let large = |topic, due| Owned::carried(key(topic, due, 1), b"id", b"", &vec![1; 60_000]);
    let (file, directory) =
        write(head(1, RunKind::Carried), &[large(1, 5), large(1, 6), large(2, 5)]);
    assert_eq!(directory.blocks(), 3);
    let (ids, first) = (directory.head().ids, 96 + 3 * 24);
    let changed = |at, bytes: &[u8]| forged_directory(&file, &ids, at, bytes);
    assert_eq!(changed(first + 8, &[1]), Ok(()));
    assert_eq!(changed(first + 8, &[0]), Err(RunFault::Row(1)), "block 1 is of none");
    assert_eq!(changed(first + 8, &[2]), Err(RunFault::Row(0)), "block 2 is another's");
    assert_eq!(changed(first + 24, &[5]), Err(RunFault::Row(0)), "ends before its last block");
}

/// Where a reader finds the topic's first event strictly behind `after`.
fn first_behind(
    file: &Bytes,
    directory: &Directory,
    topic: TopicNo,
    after: Position,
) -> Option<Owned> {
    let mut next = directory.block_for(topic, after);
    while let Some(at) = next {
        let block = read_block(file, directory, at).expect("sound");
        let found = block.seek(topic, after);
        if !found.is_empty() {
            let (event, record) = (block.due_event(found.start), block.record(found.start));
            assert_eq!(event.position, record.key.position);
            assert_eq!(event.schedule_ts, record.schedule_ts);
            let payload = block.spans(found.start).payload;
            assert_eq!(payload.of(block.bytes()), record.payload);
            return Some(Owned::of(&record));
        }
        next = directory.block_behind(topic, at);
    }
    None
}

/// Compares every way to find something with a look through the sorted list.
fn check_search(file: &Bytes, directory: &Directory, all: &[Owned], probe: RunKey) {
    let RunKey { topic, position: after } = probe;
    let expected = all.iter().find(|r| r.key.topic == topic && r.key.position > after);
    assert_eq!(first_behind(file, directory, topic, after).as_ref(), expected);
    let first = all.iter().find(|r| r.key.topic == topic);
    match (expected, directory.next_due(topic, after)) {
        (None, due) => assert_eq!((due, directory.block_for(topic, after)), (None, None)),
        (Some(record), None) => panic!("{:?} is not seen", record.key),
        (Some(record), Some(due)) => {
            assert!(after.due <= due && due <= record.key.position.due);
            assert!(due == record.key.position.due || Some(record) != first, "exact for the first");
        }
    }
    let exact = all.iter().find(|record| record.key == probe);
    let found = directory.block_of(&probe).and_then(|at| {
        let block = read_block(file, directory, at).expect("sound");
        block.find(&probe).map(|i| Owned::of(&block.record(i)))
    });
    assert_eq!(found.as_ref(), exact);
}

/// Compares the directory's sums with the list.
fn check_sums(directory: &Directory, all: &[Owned]) {
    let dues = || all.iter().map(|record| record.key.position.due);
    assert_eq!(directory.dues(), dues().min().zip(dues().max()));
    assert_eq!(directory.records(), all.len() as u64);
    assert_eq!(directory.tombstones(), all.iter().filter(|r| r.tombstone).count() as u64);
    let mut rest = all;
    for slice in directory.topics() {
        let (own, behind) = rest.split_at(slice.records as usize);
        assert!(own.iter().all(|record| record.key.topic == slice.topic));
        assert_eq!(slice.first_due, own[0].key.position.due);
        assert_eq!(slice.last, own[own.len() - 1].key.position);
        let first = directory.block_of(&own[0].key);
        let walk = std::iter::successors(first, |at| directory.block_behind(slice.topic, *at));
        assert!(walk.eq(slice.blocks()), "a walk through the topic's blocks ends with them");
        rest = behind;
    }
    assert!(rest.is_empty(), "every record is of a topic");
    assert!(directory.contains(Offset(0)) && !directory.contains(Offset(OFFSETS)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn search_agrees_with_a_sorted_list(
        seed in any::<u64>(), carried in any::<bool>(), count in 0_usize..120, spread in 1_u64..12,
    ) {
        let kind = if carried { RunKind::Carried } else { RunKind::Index };
        // Index rows are small: many of them, to have several blocks.
        let (count, spread) = if carried { (count, spread) } else { (count * 60, spread * 4) };
        let all = records(seed, kind, count, spread);
        let (file, directory) = write(head(1, kind), &all);
        let ids = directory.head().ids;
        prop_assert_eq!(open(&file, &ids), Ok(directory.clone()));
        prop_assert_eq!(&read_all(&file, &ids).unwrap(), &all);
        check_sums(&directory, &all);
        let mut dice = Dice(seed);
        for _ in 0..60 {
            let near = |dice: &mut Dice| dice.below(spread + 2);
            let (topic, due, offset) = (near(&mut dice), near(&mut dice), near(&mut dice));
            check_search(&file, &directory, &all, key(topic as u32, due, offset));
        }
        // Each record's own key: the borders of blocks and topics among them.
        for record in all.iter().step_by(1 + all.len() / 60) {
            check_search(&file, &directory, &all, record.key);
        }
        let firsts: Vec<RunKey> = (0..directory.blocks())
            .map(|i| read_block(&file, &directory, i).unwrap())
            .flat_map(|block| [block.key(0), block.key(block.len() - 1)])
            .collect();
        for key in firsts {
            check_search(&file, &directory, &all, key);
        }
    }

    /// Bytes with right CRCs that no writer made: an error, or a block that keeps all promises.
    #[test]
    fn forged_blocks_never_panic(
        seed in any::<u64>(), carried in any::<bool>(),
        changes in proptest::collection::vec((0_usize..420, any::<u8>()), 1..5),
    ) {
        let kind = if carried { RunKind::Carried } else { RunKind::Index };
        let all = records(seed, kind, 5, 3);
        let (file, directory) = write(head(1, kind), &all);
        let mut forged = slice(&file, directory.extent(0)).to_vec();
        for (at, byte) in changes {
            forged[at] = byte;
        }
        reseal(&mut forged);
        let forged = Bytes::from(forged);
        let _ = directory.decode_block(0, forged.clone());
        if let Ok(block) = Block::decode(forged, directory.head(), 0) {
            let mut writer = RunWriter::new(*directory.head());
            for i in 0..block.len() {
                writer.push(&block.record(i));
                prop_assert_eq!(block.find(&block.key(i)), Some(i));
            }
        }
    }

    #[test]
    fn forged_directories_never_panic(
        seed in any::<u64>(),
        changes in proptest::collection::vec((32_usize..700, any::<u8>()), 1..4),
    ) {
        let all = records(seed, RunKind::Carried, 60, 4);
        let (file, directory) = write(head(1, RunKind::Carried), &all);
        let footer = footer_of(&file, &directory.head().ids);
        let mut forged = slice(&file, footer.directory).to_vec();
        for (at, byte) in changes {
            forged[at] = byte;
        }
        reseal(&mut forged);
        if let Ok(forged) = Directory::decode(&forged, &footer) {
            for record in &all {
                let RunKey { topic, position } = record.key;
                let block = forged.block_for(topic, position);
                let _ = (forged.next_due(topic, position), forged.block_of(&record.key));
                let _ = block.map(|block| read_block(&file, &forged, block));
            }
        }
    }
}
