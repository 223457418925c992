//! Checkpoints: what is written is read again, and nothing else is.

use super::*;
use crate::base::ids::{GroupNo, PartitionId, Position, TopicNo};
use crate::base::topic_retention::TopicRetention;
use crate::engine::log::{
    EntryHeader, EntryKind, GroupState, SparseIndex, StateBuilder, StateHead,
};

const IDS: Ids = Ids { cluster: 77, partition: PartitionId(3) };

fn notes() -> Vec<SegmentNotes> {
    let mut index = SparseIndex::new(1);
    for i in 1..=20 {
        let segment = if i <= 10 { 1 } else { 11 };
        let header = EntryHeader {
            kind: EntryKind::Normal,
            term: Term(2),
            index: Index(i),
            chain: 0,
            base_offset: Offset(i * 2),
            count: 2,
            append_ts: 1_000 + i,
        };
        index.note(Place::new(Index(segment), (i - segment) * 200), &header, 200);
    }
    index.before(Place::new(Index(11), 1_000))
}

fn checkpoint() -> Checkpoint {
    let mut state = StateBuilder::new(StateHead::default());
    state.topic(TopicNo(0), "orders", TopicRetention::Node);
    state.group(&GroupState {
        no: GroupNo(0),
        name: "billing",
        topic: TopicNo(0),
        min_offset: Offset(0),
        min_due: 0,
        ordered: false,
        frontier: Position::new(5, Offset(1)),
    });
    Checkpoint {
        ids: IDS,
        number: 9,
        last: (Index(20), Term(2)),
        applied_ts: 1_020,
        applied_end: Offset(42),
        flushed: Offset(33),
        resume: Spot { place: Place::new(Index(11), 1_000), index: Index(16) },
        last_run: RunNo(7),
        carried: vec![RunNo(1), RunNo(5)],
        indexes: vec![RunNo(2)],
        ids_end: Offset(30),
        id_runs: vec![RunNo(6)],
        notes: notes(),
        near: vec![(Index(1), 4_000), (Index(11), 5_000)],
        passed: Some(vec![(TopicNo(0), 17)]),
        state: state.finish(),
    }
}

fn same(a: &Checkpoint, b: &Checkpoint) -> bool {
    format!("{a:?}") == format!("{b:?}")
}

#[test]
fn what_is_written_is_read_again() {
    let made = checkpoint();
    let read = Checkpoint::decode(&made.encode().into(), IDS).expect("it is whole");
    assert!(same(&made, &read));
    assert_eq!(read.runs().map(|run| run.0).collect::<Vec<_>>(), [1, 5, 2, 6]);
}

#[test]
fn golden_checkpoint_of_version_2() {
    let golden = include_bytes!("../../tests/golden/checkpoint.v2.bin");
    assert!(checkpoint().encode() == golden[..], "the bytes of a format never change");
    let read = Checkpoint::decode(&Bytes::from_static(golden), IDS).expect("it is whole");
    assert!(same(&read, &checkpoint()));
}

#[test]
fn golden_checkpoint_of_version_1_is_read() {
    let golden = include_bytes!("../../tests/golden/checkpoint.v1.bin");
    let read = Checkpoint::decode(&Bytes::from_static(golden), IDS).expect("it is whole");
    let before = Checkpoint { near: Vec::new(), passed: None, ..checkpoint() };
    assert!(same(&read, &before));
}

#[test]
fn no_flipped_bit_and_no_cut_is_taken_for_a_checkpoint() {
    let bytes = checkpoint().encode();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(Checkpoint::decode(&flipped.into(), IDS).is_err(), "byte {at}");
        assert!(Checkpoint::decode(&bytes[..at].to_vec().into(), IDS).is_err(), "cut at {at}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(Checkpoint::decode(&longer.into(), IDS).err(), Some(CheckpointFault::Length));
    let other = Ids { cluster: 78, ..IDS };
    let fault = Checkpoint::decode(&bytes.into(), other).err();
    assert_eq!(fault, Some(CheckpointFault::Foreign));
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let lies: [fn(&mut Checkpoint); 6] = [
        |c| c.ids_end = Offset(43),
        |c| c.flushed = Offset(43),
        |c| c.resume.index = Index(21),
        |c| c.last_run = RunNo(4),
        |c| c.resume.place.segment = Index(1),
        |c| c.state = vec![Body::no_op()],
    ];
    for (i, lie) in lies.into_iter().enumerate() {
        let mut checkpoint = checkpoint();
        lie(&mut checkpoint);
        let read = Checkpoint::decode(&checkpoint.encode().into(), IDS);
        assert_eq!(read.err(), Some(CheckpointFault::Field), "lie {i}");
    }
}

struct NoRuns;

impl RunFiles for NoRuns {
    fn all(&self) -> Vec<RunNo> {
        Vec::new()
    }

    fn len(&self, _: RunNo) -> Option<u64> {
        None
    }

    fn read(&self, _: RunNo, _: u64, _: u64) -> Option<Bytes> {
        None
    }
}

#[test]
fn the_newest_one_whose_log_and_runs_are_there_is_chosen() {
    let segments = [1, 11, 30].map(|first| SegmentFile { first: Index(first), len: 1 << 20 });
    let old = checkpoint();
    let none = || Vec::new();
    let (carried, indexes, id_runs) = (none(), none(), none());
    let new = Checkpoint { number: 10, carried, indexes, id_runs, ..checkpoint() };
    let files = || vec![(9, old.encode().into()), (10, new.encode().into())];
    let mut refused = Vec::new();
    let log = (&segments[..], Index(0));
    let found = choose(files(), IDS, log, &NoRuns, |n, why| refused.push((n, why)));
    assert_eq!(refused, [(9, CheckpointFault::Run)]);
    assert_eq!(found.kept, [Kept { number: 10, runs: vec![], resume: Index(11) }]);
    assert_eq!(found.restored.expect("the newest").checkpoint.number, 10);

    // Without its segments none is used; nor is one under another's name.
    for gone in [0, 1] {
        let mut fewer = segments.to_vec();
        fewer.remove(gone);
        let found = choose(files(), IDS, (&fewer, Index(0)), &NoRuns, |_, why| {
            assert_eq!(why, CheckpointFault::Segments);
        });
        assert!(found.restored.is_none() && found.kept.is_empty());
    }
    let renamed = vec![(11, new.encode().into())];
    assert!(choose(renamed, IDS, (&segments, Index(0)), &NoRuns, |_, _| {}).restored.is_none());
}

#[test]
fn names_of_files() {
    assert_eq!(file_name(7), "00000000000000000007.checkpoint");
    assert_eq!(parse_file_name(&file_name(7)), Some(7));
    for stranger in ["7.checkpoint", "00000000000000000007.seg", "0000000000000000000x.checkpoint"]
    {
        assert_eq!(parse_file_name(stranger), None);
    }
}
