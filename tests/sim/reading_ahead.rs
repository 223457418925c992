//! A replay by offsets has the log read ahead of it: each piece once, before it is missed, and no
//! more than it can keep.

use chronosdb::base::api::ReplayRange;
use chronosdb::base::config::EngineConfig;
use chronosdb::base::ids::Offset;

use super::keeper::{BEGIN_MS, Keeper, Seen, from_offset, small};

/// Reads that are under way: the one that the replay waits for, and those ahead of it.
const READS: usize = 3;
const READ_BYTES: u64 = 16 << 10;

/// A log of many segments, four pieces each, nothing of it in memory.
fn filled(cache_reads: u64) -> (Keeper, Vec<Seen>) {
    filled_with(cache_reads, 600, 1_000)
}

/// As many events of so many bytes.
fn filled_with(cache_reads: u64, events: u64, bytes: usize) -> (Keeper, Vec<Seen>) {
    let config = EngineConfig {
        read_bytes: READ_BYTES,
        cache_bytes: cache_reads * READ_BYTES,
        retention_ms: 0,
        ..small()
    };
    let mut keeper = Keeper::new(config);
    let all = (0..events).map(|n| {
        let id = format!("e-{n}");
        (keeper.publish_some("t", &id, BEGIN_MS, bytes).expect("it is stored"), id)
    });
    let all = all.collect();
    keeper.restart();
    (keeper, all)
}

#[test]
fn the_next_pieces_are_begun_while_one_is_sent() {
    let (mut keeper, all) = filled(24);
    let segments = keeper.segments().len();
    assert!(segments > 8, "{segments}");
    keeper.holds_reads = true;
    let replay = keeper.begin_replay("t", from_offset(0));
    assert_eq!(keeper.held_reads(), 1, "before the first page nobody knows how far it goes");
    let (mut reads, mut sent, mut full) = (0, 0, 0);
    while keeper.held_reads() > 0 {
        keeper.release_read();
        reads += 1;
        let now = keeper.replayed[&replay].len();
        assert!(now > sent, "read {reads} brings what is missing, {sent}");
        assert!(now == all.len() || keeper.held_reads() > 0, "{now} sent, and nothing is read");
        sent = now;
        assert!(keeper.held_reads() <= READS);
        full += usize::from(keeper.held_reads() == READS);
    }
    assert_eq!(keeper.end_replay(replay), all);
    assert!(full + READS >= reads, "{full} of {reads}: ahead until the log's end is near");
    // A segment takes five reads of 16 KiB at most: each piece is read once.
    assert!(reads <= 5 * segments, "{reads} reads of {segments} segments");
}

#[test]
fn a_page_that_is_enough_reads_nothing_ahead() {
    let (mut keeper, all) = filled(24);
    keeper.holds_reads = true;
    let replay = keeper.begin_replay("t", ReplayRange::Offsets { start: Offset(0), count: 3 });
    keeper.release_read();
    assert_eq!((keeper.end_replay(replay), keeper.held_reads()), (all[..3].to_vec(), 0));
}

/// Reads that are under way at once, at most, while all is replayed.
fn most_reads((mut keeper, all): (Keeper, Vec<Seen>)) -> usize {
    keeper.holds_reads = true;
    let replay = keeper.begin_replay("t", from_offset(0));
    let mut most = 0;
    while keeper.held_reads() > 0 {
        keeper.release_read();
        most = most.max(keeper.held_reads());
    }
    assert_eq!(keeper.end_replay(replay), all);
    most
}

#[test]
fn nothing_is_read_ahead_that_could_not_be_kept() {
    for (cache_reads, most) in [(24, READS), (23, 1)] {
        assert_eq!(most_reads(filled(cache_reads)), most, "room for {cache_reads} reads");
    }
    // Each entry is a piece by itself, nearly as large as two reads.
    for (cache_reads, most) in [(48, READS), (24, 1)] {
        let reads = most_reads(filled_with(cache_reads, 40, 30_000));
        assert_eq!(reads, most, "large entries, room for {cache_reads} reads");
    }
}

/// Two replays at different places of a partition take turns at what is read ahead.
#[test]
fn two_replays_get_all_of_theirs() {
    let (mut keeper, all) = filled(24);
    keeper.holds_reads = true;
    let replays = [0, 150].map(|from| keeper.begin_replay("t", from_offset(from)));
    while keeper.held_reads() > 0 {
        keeper.release_read();
    }
    let [first, second] = replays.map(|replay| keeper.end_replay(replay));
    assert_eq!(first, all);
    assert_eq!(second[..], all[150..]);
}
