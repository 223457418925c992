//! Merges against a map, and what damage to a source does to them.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::run_file::{RunFile, claim, hash, ids, load, piece, reseal, rows};
use super::{
    BlockFault, Claim, IdHash, MergeFault, MergeStep, Original, Row, RunDirectory, RunMerge,
};
use crate::base::size::BLOCK;

const TARGET: u64 = 99;

/// Runs a merge to its end, `rows` a step: the new file.
fn merge(
    newest_first: &[RunFile],
    rows: usize,
    keep: impl Fn(&Original) -> bool,
) -> Result<RunFile, MergeFault> {
    let directories: Vec<&RunDirectory> = newest_first.iter().map(|run| &run.directory).collect();
    let mut bytes = Vec::new();
    let mut merge = RunMerge::new(ids(TARGET), &directories, &mut bytes);
    loop {
        let before = bytes.len();
        let step = merge.step(rows, &keep, &mut bytes)?;
        let blocks = (bytes.len() - before) / BLOCK as usize;
        assert!(blocks <= rows / 84 + 2, "{blocks} blocks of {rows} rows");
        match step {
            MergeStep::Working => {}
            MergeStep::Done => break,
            MergeStep::NeedsRead => {
                // All that there is room for, and fed in another order than asked for.
                let reads: Vec<_> = std::iter::from_fn(|| merge.next_read()).collect();
                assert!(!reads.is_empty(), "it waits for something");
                for read in reads.into_iter().rev() {
                    let bytes = piece(&newest_first[read.source].bytes, read.read);
                    merge.feed(read.source, Bytes::copy_from_slice(bytes))?;
                }
            }
        }
    }
    assert!(merge.next_read().is_none());
    Ok(RunFile { directory: merge.finish(), bytes })
}

/// Runs of neighbouring ranges of offsets, the newest first.
fn runs(newest_first: &[Vec<Row>], offsets_each: u64) -> Vec<RunFile> {
    let count = newest_first.len() as u64;
    let numbered = newest_first.iter().zip(0..);
    let write = |(rows, number): (&Vec<Row>, u64)| {
        let age = count - 1 - number;
        RunFile::write(ids(number), age * offsets_each..(age + 1) * offsets_each, rows)
    };
    numbered.map(write).collect()
}

/// What must come of it, written the slow way.
fn expected(newest_first: &[Vec<Row>], keep: impl Fn(&Original) -> bool) -> Vec<Row> {
    let mut claims: BTreeMap<IdHash, Vec<Claim>> = BTreeMap::new();
    for row in newest_first.iter().rev().flatten().filter(|row| keep(&row.claim.original)) {
        claims.entry(row.hash).or_default().push(row.claim);
    }
    let kept = claims.into_iter().map(|(hash, oldest_first)| {
        let newest_strong = oldest_first.iter().rev().find(|claim| !claim.weak);
        Row { hash, claim: *newest_strong.unwrap_or(&oldest_first[0]) }
    });
    kept.collect()
}

#[test]
fn large_runs_become_the_run_that_had_been_written_at_once() {
    let count = 30_000;
    let parts: Vec<Vec<Row>> =
        (0..3).rev().map(|part| rows(part * count..(part + 1) * count)).collect();
    let sources = runs(&parts, count);
    let merged = merge(&sources, 1_000, |_| true).expect("sound");
    let at_once = RunFile::write(ids(TARGET), 0..3 * count, &rows(0..3 * count));
    assert!(merged.bytes == at_once.bytes, "the same bytes");
    assert_eq!(merged.directory, at_once.directory);
}

#[test]
fn nothing_is_left_when_all_are_dead() {
    let sources = runs(&[rows(100..200), rows(0..100)], 100);
    let merged = merge(&sources, 50, |_| false).expect("sound");
    assert_eq!(merged.directory.rows(), 0);
    assert_eq!(merged.bytes.len() as u64, 2 * BLOCK);
    assert_eq!(load(ids(TARGET), &merged.bytes), Ok(merged.directory));
}

#[test]
fn a_damaged_source_ends_the_merge() {
    let parts = [rows(6_000..9_000), rows(0..6_000)];
    let rows_end = |source: usize| 1 + parts[source].len().div_ceil(84);
    for source in [0, 1] {
        for block in 1..rows_end(source) {
            let mut sources = runs(&parts, 6_000);
            sources[source].bytes[block * BLOCK as usize + 1_000] ^= 4;
            let fault = merge(&sources, 500, |_| true).err().expect("damage is seen");
            assert_eq!((fault.source, fault.fault.block as usize), (source, block));
            assert_eq!(fault.fault.fault, BlockFault::Crc);
        }
    }
}

#[test]
fn rows_that_fall_from_block_to_block_end_the_merge() {
    let mut sources = runs(&[rows(500..700), rows(0..500)], 500);
    let block = BLOCK as usize;
    let bytes = &mut sources[1].bytes;
    // The rows of two blocks change places; both blocks are sound.
    let (first, second) = bytes.split_at_mut(2 * block);
    first[block + 64..].swap_with_slice(&mut second[64..block]);
    reseal(&mut first[block..]);
    reseal(&mut second[..block]);
    let fault = merge(&sources, 500, |_| true).err().expect("out of order");
    assert_eq!((fault.fault.block, fault.fault.fault), (2, BlockFault::Field));
}

#[test]
#[should_panic(expected = "the newest comes first")]
fn runs_out_of_order_are_a_bug() {
    let mut sources = runs(&[rows(100..200), rows(0..100)], 100);
    sources.reverse();
    let _ = merge(&sources, 50, |_| true);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn agrees_with_a_map(
        parts in vec(vec((0..120_u64, any::<bool>()), 0..200), 2..6),
        step in 1..400_usize,
        dead in any::<u64>(),
    ) {
        let each = 200;
        let count = parts.len() as u64;
        let newest_first: Vec<Vec<Row>> = (0..count).map(|number| {
            let first = (count - 1 - number) * each;
            let claims = (first..).zip(&parts[number as usize]);
            let rows: BTreeMap<IdHash, Row> = claims
                .map(|(offset, (id, weak))| {
                    (hash(*id), Row { hash: hash(*id), claim: claim(offset, *weak) })
                })
                .collect();
            rows.into_values().collect()
        }).collect();
        let keep = |original: &Original| dead >> (original.offset.0 % 64) & 1 == 0;
        let sources = runs(&newest_first, each);
        let merged = merge(&sources, step, keep).expect("sound");
        let expected = expected(&newest_first, keep);
        let expected = RunFile::write(ids(TARGET), 0..each * count, &expected);
        prop_assert_eq!(merged.bytes, expected.bytes);
        prop_assert_eq!(merged.directory, expected.directory);
    }
}
