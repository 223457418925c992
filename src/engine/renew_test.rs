//! A renewed checkpoint keeps what only runs and checkpoints have, and nothing else.

use std::collections::BTreeMap;
use std::ops::Range;

use super::*;
use crate::base::ids::{PartitionId, Position, Term, TopicNo};
use crate::engine::dedup::{RunIds as IdRunIds, RunWriter as IdWriter};
use crate::engine::log::{StateBuilder, StateHead};
use crate::engine::runs::{RunHead, RunIds, RunKey, RunKind, RunRecord, RunWriter};

const IDS: Ids = Ids { cluster: 77, partition: PartitionId(3) };
const START: Offset = Offset(100);
const FIRST: Index = Index(50);

/// The files of runs, in memory.
#[derive(Default)]
struct Files(BTreeMap<RunNo, Vec<u8>>);

impl RunFiles for Files {
    fn len(&self, run: RunNo) -> Option<u64> {
        self.0.get(&run).map(|bytes| bytes.len() as u64)
    }

    fn all(&self) -> Vec<RunNo> {
        self.0.keys().copied().collect()
    }

    fn read(&self, run: RunNo, position: u64, len: u64) -> Option<Bytes> {
        let bytes = self.0.get(&run)?.get(position as usize..(position + len) as usize)?;
        Some(Bytes::copy_from_slice(bytes))
    }
}

impl Files {
    fn carried(&mut self, run: u64, offsets: Range<u64>) {
        let ids = RunIds { cluster: IDS.cluster, partition: IDS.partition, run: RunNo(run) };
        let (first_offset, end_offset) = (Offset(offsets.start), Offset(offsets.end));
        let head = RunHead { ids, kind: RunKind::Carried, first_offset, end_offset };
        let mut writer = RunWriter::new(head);
        let position = Position::new(9_000, first_offset);
        writer.push(&RunRecord::key_only(RunKey::new(TopicNo(0), position), 9_000));
        let (_, chunk) = writer.finish();
        self.0.insert(RunNo(run), chunk.bytes);
    }

    fn ids(&mut self, run: u64, offsets: Range<u64>) {
        let ids = IdRunIds { cluster: IDS.cluster, partition: IDS.partition, run: RunNo(run) };
        let mut bytes = Vec::new();
        let offsets = Offset(offsets.start)..Offset(offsets.end);
        let writer = IdWriter::new(ids, offsets, 0, &mut bytes);
        let mut closing = writer.close(&mut bytes);
        while !closing.write(16, &mut bytes) {}
        self.0.insert(RunNo(run), bytes);
    }

    /// One before the log's start, one over it, one from it on, one behind it; of ids likewise.
    fn of_all_kinds() -> Self {
        let mut files = Self::default();
        for (run, offsets) in [(1, 0..60), (2, 60..101), (3, 101..140), (4, 140..160)] {
            files.carried(run, offsets);
        }
        for (run, offsets) in [(5, 0..80), (6, 80..120), (7, 120..150)] {
            files.ids(run, offsets);
        }
        files
    }
}

fn checkpoint(number: u64) -> Checkpoint {
    let numbers = |runs: &[u64]| runs.iter().map(|run| RunNo(*run)).collect();
    Checkpoint {
        ids: IDS,
        number,
        last: (Index(90), Term(2)),
        applied_ts: 1_020,
        applied_end: Offset(170),
        flushed: Offset(160),
        resume: Spot { place: Place::new(FIRST, 4_096), index: Index(80) },
        last_run: RunNo(9),
        carried: numbers(&[1, 2, 3, 4]),
        indexes: numbers(&[8]),
        ids_end: Offset(150),
        id_runs: numbers(&[7, 6, 5]),
        notes: Vec::new(),
        near: vec![(FIRST, 4_000)],
        passed: Some(vec![(TopicNo(0), 17)]),
        state: StateBuilder::new(StateHead::default()).finish(),
    }
}

fn renewed(files: &Files, checkpoints: &[Checkpoint]) -> Option<Checkpoint> {
    let segments = [SegmentFile { first: FIRST, len: 8_192 }];
    let all = checkpoints.iter().map(|made| (made.number, made.encode().into())).collect();
    let (number, bytes) = renew(all, IDS, (&segments, START), files)?;
    let renewed = Checkpoint::decode(&bytes.into(), IDS).expect("it can be read");
    assert_eq!(renewed.number, number);
    Some(renewed)
}

fn numbers(runs: &[RunNo]) -> Vec<u64> {
    runs.iter().map(|run| run.0).collect()
}

#[test]
fn it_keeps_the_runs_that_begin_before_the_log_and_reads_all_of_that() {
    let renewed = renewed(&Files::of_all_kinds(), &[checkpoint(7), checkpoint(8)]).expect("made");
    assert_eq!(renewed.number, 8 + STEP, "newer than one that may be on its way");
    assert_eq!(numbers(&renewed.carried), [1, 2]);
    assert_eq!(renewed.indexes, [], "the log has all that was in them");
    assert_eq!(numbers(&renewed.id_runs), [6, 5]);
    assert_eq!((renewed.flushed, renewed.ids_end), (START, Offset(120)));
    let resume = Spot { place: Place::new(FIRST, 0), index: FIRST };
    assert_eq!(renewed.resume, resume);
    let was = checkpoint(8);
    assert_eq!((renewed.last, renewed.applied_end), (was.last, was.applied_end));
    assert_eq!((renewed.near, renewed.passed), (was.near, was.passed));
    assert_eq!(renewed.last_run, was.last_run, "no number is used again");
}

#[test]
fn a_run_that_begins_with_the_log_is_left_out_and_one_right_before_it_stays() {
    for (begins, stays) in [(99, true), (100, false), (101, false)] {
        let mut files = Files::of_all_kinds();
        files.carried(2, begins..140);
        let carried = renewed(&files, &[checkpoint(8)]).expect("made").carried;
        assert_eq!(carried.contains(&RunNo(2)), stays, "{begins}");
    }
}

#[test]
fn all_ids_before_the_log_stay_where_no_run_of_ids_reaches_into_it() {
    let mut files = Files::of_all_kinds();
    files.ids(6, 80..100);
    files.ids(7, 100..150);
    let renewed = renewed(&files, &[checkpoint(8)]).expect("made");
    assert_eq!((numbers(&renewed.id_runs), renewed.ids_end), (vec![6, 5], START));
}

#[test]
fn the_next_one_is_taken_where_the_newest_cannot_be_renewed() {
    let mut files = Files::of_all_kinds();
    // Nobody knows which offsets it had.
    files.0.remove(&RunNo(4));
    assert!(renewed(&files, &[checkpoint(8)]).is_none());
    let older = Checkpoint { carried: vec![RunNo(1), RunNo(2), RunNo(3)], ..checkpoint(7) };
    let renewed = renewed(&files, &[checkpoint(8), older]).expect("made");
    assert_eq!((renewed.number, numbers(&renewed.carried)), (8 + STEP, vec![1, 2]));
}

#[test]
fn a_damaged_block_or_directory_is_no_reason_to_keep_a_run() {
    let mut files = Files::of_all_kinds();
    let run = files.0.get_mut(&RunNo(3)).expect("made");
    run[4_096..].fill(0x55);
    let renewed = renewed(&files, &[checkpoint(8)]).expect("its header says enough");
    assert_eq!(numbers(&renewed.carried), [1, 2]);
}

#[test]
fn nothing_is_made_of_what_does_not_reach_the_log() {
    let files = Files::of_all_kinds();
    let behind = Checkpoint { flushed: Offset(99), ids_end: Offset(99), ..checkpoint(8) };
    assert!(renewed(&files, &[behind]).is_none());
    let elsewhere = Spot { place: Place::new(Index(60), 0), index: Index(80) };
    assert!(renewed(&files, &[Checkpoint { resume: elsewhere, ..checkpoint(8) }]).is_none());
    assert!(renewed(&files, &[]).is_none());
}
