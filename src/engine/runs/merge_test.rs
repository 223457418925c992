//! Merges against a sorted map: the same file, byte for byte, however reads and steps interleave.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::directory::Directory;
use super::merge::{Merge, MergeProgress, MergeRead};
use super::model::{Dice, Owned, head, key, read_all, records, slice, write};
use super::part::{RunFault, RunHead, RunKind};
use super::record::{RunKey, RunRecord};
use super::writer::RunWriter;
use crate::base::ids::{Offset, RunNo};
use crate::base::limits::{PAYLOAD_BYTES, RUN_MERGE_INPUTS, RUN_OUTPUT_BYTES, RUN_READ_BYTES};

const OUT: RunNo = RunNo(1_000);

struct File {
    bytes: Bytes,
    directory: Arc<Directory>,
    records: Vec<Owned>,
}

fn file(run: u64, kind: RunKind, records: Vec<Owned>) -> File {
    let (bytes, directory) = write(head(run, kind), &records);
    File { bytes, directory: Arc::new(directory), records }
}

fn merge(files: &[File], drop_tombstones: bool) -> Merge {
    Merge::new(files.iter().map(|file| Arc::clone(&file.directory)).collect(), drop_tombstones)
}

/// What a merge must come to.
fn expected(files: &[File], drop_tombstones: bool, keep: impl Fn(&Owned) -> bool) -> Vec<Owned> {
    let all = files.iter().flat_map(|file| &file.records);
    let newest: BTreeMap<RunKey, &Owned> = all.map(|record| (record.key, record)).collect();
    let stays = |r: &&Owned| if r.tombstone { !drop_tombstones } else { keep(r) };
    newest.into_values().filter(stays).cloned().collect()
}

/// Runs a merge to its end, with reads done in any order and steps of any size.
fn drive(
    files: &[File],
    mut merge: Merge,
    dice: &mut Dice,
    keep: impl Fn(&Owned) -> bool,
) -> Vec<u8> {
    let mut writer = RunWriter::new(merge.head(OUT));
    let (mut out, mut reads): (Vec<u8>, Vec<MergeRead>) = (Vec::new(), Vec::new());
    loop {
        if dice.below(2) == 0 {
            reads.extend(merge.next_read());
        }
        assert!(reads.len() <= files.len(), "one read an input");
        if !reads.is_empty() && dice.below(2) == 0 {
            let read = reads.swap_remove(dice.below(reads.len() as u64) as usize);
            let file = &files[read.input];
            assert_eq!(read.run, file.directory.head().ids.run);
            merge.feed(read.input, &slice(&file.bytes, read.extent)).expect("sound");
        }
        let budget = dice.below(200) as usize;
        let mut asked = 0;
        let progress = merge.step(budget, &mut writer, |record| {
            asked += 1;
            assert!(!record.tombstone, "tombstones are not the caller's");
            keep(&Owned::of(record))
        });
        assert!(asked <= budget, "a step is bounded");
        if dice.below(3) == 0 || writer.is_full() {
            out.extend(writer.take_output().into_iter().flat_map(|chunk| chunk.bytes));
        }
        if progress == MergeProgress::Done {
            assert!(reads.is_empty(), "nothing is read that is not needed");
            assert_eq!(merge.next_read(), None);
            let (directory, chunk) = writer.finish();
            assert_eq!(chunk.position, out.len() as u64);
            out.extend(chunk.bytes);
            assert_eq!(directory.head().ids.run, OUT);
            return out;
        }
    }
}

#[test]
fn the_newest_record_of_a_key_counts() {
    let record = |payload: &[u8]| Owned::carried(key(1, 5, 9), b"id", b"", payload);
    let tombstone = Owned::of(&RunRecord::tombstone(key(1, 5, 9)));
    let other = Owned::carried(key(1, 5, 8), b"id", b"", b"other");
    let merged = |inputs: Vec<Vec<Owned>>, drop_tombstones| {
        let inputs = inputs.into_iter().zip(1..).map(|(r, i)| file(i, RunKind::Carried, r));
        let files: Vec<File> = inputs.collect();
        let merge = merge(&files, drop_tombstones);
        let ids = merge.head(OUT).ids;
        read_all(&drive(&files, merge, &mut Dice(1), |_| true).into(), &ids).unwrap()
    };
    let (old, new) = (record(b"old"), record(b"new"));
    let versions = vec![vec![old.clone()], vec![other.clone(), new.clone()]];
    assert_eq!(merged(versions, true), [other.clone(), new.clone()]);
    let cancelled = vec![vec![old.clone()], vec![other.clone()], vec![tombstone.clone()]];
    assert_eq!(merged(cancelled.clone(), false), [other.clone(), tombstone.clone()]);
    assert_eq!(merged(cancelled, true), [other]);
    // A tombstone hides what is older alone.
    assert_eq!(merged(vec![vec![tombstone.clone()], vec![new.clone()]], true), [new]);
    assert_eq!(merged(vec![vec![tombstone], vec![]], true), []);
}

#[test]
fn a_newest_record_that_is_not_needed_does_not_uncover_an_older_one() {
    let record = |payload: &[u8]| Owned::carried(key(1, 5, 9), b"id", b"", payload);
    let files = [
        file(1, RunKind::Carried, vec![record(b"old")]),
        file(2, RunKind::Carried, vec![record(b"new")]),
    ];
    let merge = merge(&files, true);
    let ids = merge.head(OUT).ids;
    let out = drive(&files, merge, &mut Dice(1), |record| record.payload == b"old");
    assert_eq!(read_all(&out.into(), &ids), Ok(vec![]));
}

#[test]
fn the_range_of_the_output_holds_all_inputs() {
    let part = |run, first, end| {
        let head = RunHead {
            first_offset: Offset(first),
            end_offset: Offset(end),
            ..head(run, RunKind::Index)
        };
        Arc::new(write(head, &[]).1)
    };
    let merge = Merge::new(vec![part(4, 10, 20), part(5, 20, 35), part(2, 7, 8)], false);
    let head = merge.head(OUT);
    assert_eq!((head.first_offset, head.end_offset), (Offset(7), Offset(35)));
    assert_eq!((head.ids.run, head.kind), (OUT, RunKind::Index));
}

#[test]
fn a_damaged_or_short_block_is_a_fault_and_never_a_panic() {
    let files = [file(1, RunKind::Carried, records(3, RunKind::Carried, 60, 100))];
    let mut first = merge(&files, true);
    let read = first.next_read().unwrap();
    assert_eq!(first.next_read(), None, "one read an input");
    let sound = slice(&files[0].bytes, read.extent);
    let blocks = (0..).take_while(|i| files[0].directory.extent(*i).end() <= read.extent.end());
    let blocks = blocks.count();
    assert!(blocks > 1 && read.extent.len <= RUN_READ_BYTES as u64, "blocks are read together");
    for block in 0..blocks {
        let extent = files[0].directory.extent(block);
        let at = (extent.position - read.extent.position) as usize + 200;
        let mut bad = sound.to_vec();
        bad[at] ^= 1;
        for (bytes, fault) in [
            (Bytes::from(bad), RunFault::BodyCrc),
            (sound.slice(..at), RunFault::Length),
            (Bytes::from(vec![0; sound.len()]), RunFault::Magic),
        ] {
            let mut merge = merge(&files, true);
            assert_eq!(merge.next_read(), Some(read));
            let found = merge.feed(0, &bytes).unwrap_err();
            let block = if fault == RunFault::Magic { 0 } else { block };
            assert_eq!((found.run, found.block, found.fault), (RunNo(1), block, fault));
        }
    }
}

#[test]
fn large_records_do_not_pile_up() {
    let large = |run: u64| {
        let payload = vec![run as u8; PAYLOAD_BYTES];
        let records = (0..3).map(|i| Owned::carried(key(1, i, run), b"id", b"", &payload));
        file(run, RunKind::Carried, records.collect())
    };
    let files: Vec<File> = (1..=RUN_MERGE_INPUTS as u64).map(large).collect();
    let mut merge = merge(&files, true);
    let mut writer = RunWriter::new(merge.head(OUT));
    let (mut read, mut out) = (0, 0);
    loop {
        // Each input needs its next block, one record. None is read ahead while those are held.
        while let Some(next) = merge.next_read() {
            merge.feed(next.input, &slice(&files[next.input].bytes, next.extent)).expect("sound");
            read += 1;
        }
        assert!(read - writer.records() <= RUN_MERGE_INPUTS as u64);
        let progress = merge.step(1_000, &mut writer, |_| true);
        let taken = writer.take_output().map_or(0, |chunk| chunk.bytes.len());
        assert!(taken < RUN_OUTPUT_BYTES + PAYLOAD_BYTES + (64 << 10), "{taken} bytes");
        out += taken;
        if progress == MergeProgress::Done {
            break;
        }
    }
    assert_eq!((read, writer.records()), (48, 48));
    assert!(out > 47 * PAYLOAD_BYTES, "all but the last block were taken on the way");
}

#[test]
fn a_full_writer_stops_a_step() {
    let payload = vec![7; 60_000];
    let records = (0..40).map(|i| Owned::carried(key(1, i, i), b"id", b"", &payload));
    let files = [file(1, RunKind::Carried, records.collect())];
    let mut merge = merge(&files, true);
    let mut writer = RunWriter::new(merge.head(OUT));
    let mut step = |writer: &mut RunWriter| {
        loop {
            match merge.step(usize::MAX, writer, |_| true) {
                MergeProgress::Waiting => {
                    let read = merge.next_read().expect("what it waits for");
                    merge.feed(0, &slice(&files[0].bytes, read.extent)).expect("sound");
                }
                other => return other,
            }
        }
    };
    assert_eq!(step(&mut writer), MergeProgress::Working);
    let before = writer.records();
    assert!(writer.is_full() && before < 20);
    assert_eq!(step(&mut writer), MergeProgress::Working);
    assert_eq!(writer.records(), before, "nothing is added to what is full");
    while !matches!(step(&mut writer), MergeProgress::Done) {
        assert!(writer.take_output().is_some_and(|chunk| chunk.bytes.len() < 2 * RUN_OUTPUT_BYTES));
    }
    assert_eq!(writer.records(), 40);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_merge_is_a_sort(
        seed in any::<u64>(), carried in any::<bool>(), inputs in 1_usize..7,
        count in 0_usize..80, drop_tombstones in any::<bool>(), keep_one_in in 1_u64..4,
    ) {
        let kind = if carried { RunKind::Carried } else { RunKind::Index };
        // Few enough keys that inputs share many of them.
        let (count, spread) = if carried { (count, 6) } else { (count * 50, 16) };
        let mut dice = Dice(seed);
        let files: Vec<File> = (1..=inputs as u64)
            .map(|run| {
                let count = dice.below(count as u64 + 1) as usize;
                file(run, kind, records(seed ^ run, kind, count, spread))
            })
            .collect();
        let keep = |record: &Owned| record.schedule_ts.is_multiple_of(keep_one_in);
        let merge = merge(&files, drop_tombstones);
        let head = merge.head(OUT);
        let out = drive(&files, merge, &mut dice, keep);
        let (wanted, _) = write(head, &expected(&files, drop_tombstones, keep));
        prop_assert!(out == wanted, "the file that sorting would make");
    }
}
