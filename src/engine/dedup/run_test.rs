//! Runs as a whole: written, loaded and asked, against a map; and what damage does to them.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::run_file::{RunFile, claim, hash, ids, load, look_up, piece, reseal, rows};
use super::{BlockFault, IdHash, Row, RunFault, RunLoad, RunWriter};
use crate::base::ids::Offset;
use crate::base::size::BLOCK;

#[test]
fn golden_run_of_version_1() {
    let mut rows = rows(100..300);
    rows[7].claim.weak = true;
    let run = RunFile::write(ids(0x1122), 100..300, &rows);
    let golden = include_bytes!("../../../tests/golden/dedup.v1.bin");
    assert_eq!(run.bytes.len(), golden.len());
    let differs = run.bytes.iter().zip(golden).position(|(a, b)| a != b);
    assert_eq!(differs, None, "format v1 never changes");
    assert_eq!(load(ids(0x1122), golden), Ok(run.directory));
}

#[test]
fn a_loaded_directory_is_the_written_one() {
    // Around the ends of blocks (84), groups (5,040) and blocks of index (42,336 rows).
    for count in [0, 1, 2, 83, 84, 85, 5_039, 5_040, 5_041, 42_336, 42_337] {
        let run = RunFile::write(ids(1), 0..count, &rows(0..count));
        assert_eq!(run.directory.rows(), count);
        let loaded = load(ids(1), &run.bytes).expect("sound");
        assert_eq!(loaded, run.directory, "{count} rows");
        for n in (0..count).step_by(997) {
            let row = Row { hash: hash(n), claim: claim(n, false) };
            assert_eq!(look_up(&loaded, &run.bytes, row.hash), Ok(Some(row)));
        }
        assert_eq!(look_up(&loaded, &run.bytes, hash(count)), Ok(None));
    }
}

#[test]
fn an_id_costs_less_than_three_bytes_of_memory_and_50_of_disk() {
    let count = 200_000;
    let run = RunFile::write(ids(1), 0..count, &rows(0..count));
    let loaded = load(ids(1), &run.bytes).expect("sound");
    for directory in [&run.directory, &loaded] {
        let bytes = directory.memory_bytes();
        assert!(bytes as u64 * 10 <= 28 * count, "{bytes} bytes");
    }
    assert!(run.bytes.len() as u64 <= 52 * count, "{} bytes", run.bytes.len());
}

#[test]
fn many_look_ups_at_once_are_those_made_one_by_one() {
    let count = 60_000;
    let run = RunFile::write(ids(1), 0..count, &rows(0..count));
    let asked: Vec<IdHash> = (0..count * 10).step_by(7).map(hash).collect();
    for asked in [&asked[..], &asked[..1], &asked[..64], &asked[..65], &[]] {
        let one_by_one = asked.iter().enumerate();
        let one_by_one: Vec<_> = one_by_one
            .filter_map(|(number, hash)| Some((number, run.directory.probe(*hash)?)))
            .collect();
        let mut at_once = Vec::new();
        run.directory.probe_all(asked, &mut at_once);
        assert_eq!(at_once, one_by_one);
    }
    let mut reads = Vec::new();
    run.directory.probe_all(&asked, &mut reads);
    let there = asked.len() / 10;
    assert!(reads.len() >= there && reads.len() <= there + 20, "{} of {there}", reads.len());
    assert!(reads.iter().all(|(_, read)| read.len <= 2 * BLOCK));
    let two = reads.iter().filter(|(_, read)| read.len == 2 * BLOCK).count();
    assert!(two * 30 < reads.len(), "{two} of {}", reads.len());
}

#[test]
fn every_row_is_found_where_blocks_and_groups_end() {
    // 300 ids share a leading half, across the end of the first group; all others have their own.
    let crowd = 4_900..5_200;
    let row = |n: u64| {
        let high = (if crowd.contains(&n) { crowd.start } else { n }) << 40;
        Row { hash: IdHash { high, low: n }, claim: claim(n, false) }
    };
    let count = 84 * 60 * 3;
    let rows: Vec<Row> = (0..count).map(row).collect();
    let run = RunFile::write(ids(1), 0..count, &rows);
    let asked: Vec<IdHash> = rows.iter().map(|row| row.hash).collect();
    let mut reads = Vec::new();
    run.directory.probe_all(&asked, &mut reads);
    assert!(reads.iter().map(|read| read.0).eq(0..rows.len()), "all of them may be there");
    for (number, read) in reads {
        let found = run.directory.find(asked[number], read, piece(&run.bytes, read));
        assert_eq!(found, Ok(Some(rows[number])));
        assert_eq!(look_up(&run.directory, &run.bytes, asked[number]), Ok(Some(rows[number])));
    }
}

#[test]
fn of_one_id_the_writer_keeps_the_claim_that_prevails() {
    let row = |offset, weak| Row { hash: hash(1), claim: claim(offset, weak) };
    for (claims, kept) in [
        (vec![(3, true), (4, false), (5, true), (6, false), (7, true)], (6, false)),
        (vec![(7, true), (5, true), (6, true)], (5, true)),
        (vec![(4, false), (9, true)], (4, false)),
    ] {
        let rows: Vec<Row> = claims.iter().map(|(offset, weak)| row(*offset, *weak)).collect();
        let run = RunFile::write(ids(1), 0..10, &rows);
        assert_eq!(run.directory.rows(), 1);
        let found = look_up(&run.directory, &run.bytes, hash(1));
        assert_eq!(found, Ok(Some(row(kept.0, kept.1))));
    }
}

#[test]
#[should_panic(expected = "order of their hashes")]
fn rows_that_fall_are_a_bug() {
    let mut out = Vec::new();
    let mut writer = RunWriter::new(ids(1), Offset(0)..Offset(9), 2, &mut out);
    for high in [2, 1] {
        writer.push(Row { hash: IdHash { high, low: 0 }, claim: claim(1, false) }, &mut out);
    }
}

#[test]
fn every_flipped_byte_is_seen_where_it_is_read() {
    let rows = rows(0..200);
    let run = RunFile::write(ids(1), 0..200, &rows);
    let directory_start = 1 + 200_usize.div_ceil(84);
    for at in 0..run.bytes.len() {
        let mut bad = run.bytes.clone();
        bad[at] ^= 1 << (at % 8);
        let block = at / BLOCK as usize;
        let loaded = load(ids(1), &bad);
        if block == 0 || block >= directory_start {
            let fault = loaded.expect_err("a damaged directory is not loaded");
            assert_eq!(fault.block as usize, block, "byte {at}");
            continue;
        }
        assert_eq!(loaded, Ok(run.directory.clone()), "rows are not read");
        // An id of each block of rows: in the damaged one a fault, elsewhere the right answer.
        for row in rows.iter().step_by(40) {
            match look_up(&run.directory, &bad, row.hash) {
                Ok(found) => assert_eq!(found, Some(*row), "byte {at}"),
                Err(fault) => assert_eq!(fault.block as usize, block, "byte {at}"),
            }
        }
        let inside = rows[84 * (block - 1) + 10].hash;
        assert!(look_up(&run.directory, &bad, inside).is_err(), "byte {at}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let run = RunFile::write(ids(1), 0..6_000, &rows(0..6_000));
    for blocks in 0..run.bytes.len() / BLOCK as usize {
        for len in [blocks * BLOCK as usize, blocks * BLOCK as usize + 100] {
            assert!(load(ids(1), &run.bytes[..len]).is_err(), "{len} bytes");
        }
    }
    let mut longer = run.bytes.clone();
    longer.extend_from_slice(&run.bytes[run.bytes.len() - BLOCK as usize..]);
    let fault = load(ids(1), &longer).expect_err("the footer is where it was not written");
    assert_eq!(fault.fault, BlockFault::Foreign);
}

#[test]
fn blocks_in_each_others_place_are_refused() {
    let run = RunFile::write(ids(1), 0..6_000, &rows(0..6_000));
    let other = RunFile::write(ids(2), 0..6_000, &rows(0..6_000));
    let block = BLOCK as usize;
    let directory_start = 1 + 6_000_usize.div_ceil(84);
    for number in [0, directory_start, directory_start + 2, run.bytes.len() / block - 1] {
        let mut bad = run.bytes.clone();
        bad[number * block..][..block].copy_from_slice(&other.bytes[number * block..][..block]);
        let fault = load(ids(1), &bad).expect_err("a block of another run");
        assert_eq!((fault.block as usize, fault.fault), (number, BlockFault::Foreign));
    }
    let mut swapped = run.bytes.clone();
    let (left, right) = swapped.split_at_mut(2 * block);
    left[block..].swap_with_slice(&mut right[..block]);
    let first = rows(0..6_000)[0].hash;
    let fault = look_up(&run.directory, &swapped, first).expect_err("not its place");
    assert_eq!(fault.fault, BlockFault::Foreign);
}

#[test]
fn a_sound_block_that_contradicts_the_directory_is_a_fault() {
    let rows = rows(50..250);
    let run = RunFile::write(ids(1), 50..250, &rows);
    let block = BLOCK as usize;
    let answer = |change: &dyn Fn(&mut [u8])| {
        let mut bad = run.bytes.clone();
        change(&mut bad);
        reseal(&mut bad[block..][..block]);
        look_up(&run.directory, &bad, rows[10].hash)
    };
    assert_eq!(answer(&|_| ()), Ok(Some(rows[10])));
    let field = Err(RunFault { block: 1, fault: BlockFault::Field });
    let offset_at = block + 64 + 10 * 48 + 16;
    assert_eq!(answer(&|bytes| bytes[offset_at] = 49), field, "an event of an older run");
    assert_eq!(answer(&|bytes| bytes[offset_at] = 250), field, "an event of a newer run");
    let last_row = 2 * block - 48..2 * block;
    let shorter = answer(&|bytes| {
        bytes[last_row.clone()].fill(0);
        bytes[block + 18] = 83;
    });
    assert_eq!(shorter, field, "a row is missing");
    let other_first = answer(&|bytes| bytes[block + 64 + 7] ^= 1);
    assert_eq!(other_first, field, "it begins with another hash");
}

/// Rows whose keys crowd: several share a leading half, at the ends of blocks too.
fn crowded() -> impl Strategy<Value = BTreeMap<IdHash, Row>> {
    vec((0..60_u64, 0..300_u64, any::<bool>()), 0..1_500).prop_map(|claims| {
        let rows = claims.into_iter().enumerate().map(|(offset, (high, low, weak))| {
            let hash = IdHash { high: high << 58, low };
            (hash, Row { hash, claim: claim(offset as u64, weak) })
        });
        rows.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn agrees_with_a_map(model in crowded(), strangers in vec(0..400_u64, 50)) {
        let rows: Vec<Row> = model.values().copied().collect();
        let run = RunFile::write(ids(1), 0..1_500, &rows);
        let loaded = load(ids(1), &run.bytes).expect("sound");
        prop_assert_eq!(&loaded, &run.directory);
        prop_assert_eq!(loaded.rows(), model.len() as u64);
        let strangers = strangers.iter().map(|low| IdHash { high: (low % 64) << 58, low: *low });
        let asked: Vec<IdHash> = model.keys().copied().chain(strangers).collect();
        let mut reads = Vec::new();
        loaded.probe_all(&asked, &mut reads);
        let mut found = vec![None; asked.len()];
        for (number, read) in reads {
            let bytes = piece(&run.bytes, read);
            found[number] = loaded.find(asked[number], read, bytes).expect("sound");
        }
        for (hash, found) in asked.iter().zip(found) {
            prop_assert_eq!(found, model.get(hash).copied());
            prop_assert_eq!(look_up(&loaded, &run.bytes, *hash), Ok(found));
        }
    }

    #[test]
    fn foreign_directories_never_panic(
        changes in vec((0..2_000_usize, any::<u8>()), 1..5),
        place in 0..5_usize,
        count in 1..200_u64,
    ) {
        // Contents that can't be, under checksums that are right.
        let run = RunFile::write(ids(1), 0..count, &rows(0..count));
        let mut bad = run.bytes.clone();
        let block = BLOCK as usize;
        let blocks = bad.len() / block;
        let number = [0, blocks - 4, blocks - 3, blocks - 2, blocks - 1][place];
        for (at, byte) in changes {
            bad[number * block + if at < 400 { 64 + at % 40 } else { 6 + at % 58 }] = byte;
        }
        reseal(&mut bad[number * block..][..block]);
        if let Ok(loaded) = load(ids(1), &bad) {
            for n in 0..count + 5 {
                let _ = look_up(&loaded, &bad, hash(n));
            }
        }
    }
}

#[test]
fn lengths_that_no_run_has_are_refused_at_once() {
    for len in [0, 1, 4_095, 4_096, 4_097, 8_191, u64::MAX, u64::MAX - 4_095] {
        let fault = RunLoad::new(ids(1), len).expect_err("not a run's length");
        assert_eq!(fault.fault, BlockFault::Length);
    }
}
