//! What is kept and for how long, promise by promise: one engine, simulated time, exact limits.

use std::panic::{AssertUnwindSafe, catch_unwind};

use chronosdb::base::api::ReplayRange;
use chronosdb::base::config::EngineConfig;
use chronosdb::base::error::ErrorCode;
use chronosdb::base::ids::RunNo;

use super::between::{ALL, Between};
use super::keeper::{BEGIN_MS, Keeper, PARTITION, from_offset, small};

/// How many looks, a ms apart, it takes until what may go is gone: memory is trimmed first.
const SOON_LOOKS: u64 = 2;
/// Where nothing else happens looks are farther apart.
const SOON_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60_000;
/// As long as it takes, in these tests.
const LONG_MS: u64 = 1_000 * MINUTE_MS;

fn patient() -> EngineConfig {
    EngineConfig { ack_timeout_ms: LONG_MS, ..small() }
}

/// The first segment is full of a topic's events, in runs, and behind both checkpoints: only its
/// time and those who need it hold it. The offsets of its events.
fn fill_old_segment(keeper: &mut Keeper, topic: &str) -> Vec<u64> {
    let mut offsets = keeper.fill_segment(topic);
    // The one that found no room is in the next.
    offsets.pop();
    settle_down(keeper);
    offsets
}

/// More segments follow, and checkpoints that begin in them.
fn settle_down(keeper: &mut Keeper) {
    for _ in 0..3 {
        keeper.pass(2_000);
        keeper.fill_segment("filler");
    }
    keeper.pass(2_000);
}

/// Nothing is removed up to `last_ms`, and the oldest segment soon behind it.
fn goes_right_after(keeper: &mut Keeper, last_ms: u64) {
    let before = keeper.removed_segments;
    keeper.pass_to(last_ms);
    assert_eq!(keeper.removed_segments, before, "kept up to {last_ms}, which is the limit");
    for _ in 0..SOON_LOOKS {
        keeper.pass(1);
    }
    assert!(keeper.removed_segments > before, "gone behind {last_ms}");
}

#[test]
fn a_segment_goes_right_after_append_and_retention() {
    let mut keeper = Keeper::new(small());
    keeper.publish("t", BEGIN_MS - 40_000);
    fill_old_segment(&mut keeper, "t");
    goes_right_after(&mut keeper, BEGIN_MS + MINUTE_MS);
}

#[test]
fn a_segment_goes_right_after_its_last_due_and_retention() {
    let mut keeper = Keeper::new(EngineConfig { horizon_ms: 40_000, ..small() });
    keeper.publish("t", BEGIN_MS + 30_000);
    fill_old_segment(&mut keeper, "t");
    goes_right_after(&mut keeper, BEGIN_MS + 30_000 + MINUTE_MS);
}

#[test]
fn the_clock_of_retention_goes_on_over_restarts() {
    for between in [Between::Restart, Between::CheckpointsLost] {
        let mut keeper = Keeper::new(small());
        fill_old_segment(&mut keeper, "t");
        between.happen(&mut keeper);
        keeper.pass_to(BEGIN_MS + MINUTE_MS);
        assert_eq!(keeper.removed_segments, 0, "{between:?}");
        // Checkpoints have to be made again where they were lost.
        keeper.pass(2 * MINUTE_MS);
        keeper.fill_segment("filler");
        keeper.pass(5_000);
        assert!(keeper.removed_segments > 0, "{between:?}");
    }
}

#[test]
fn events_that_are_due_soon_hold_their_segment_and_fire() {
    for between in ALL {
        let mut keeper = Keeper::new(EngineConfig { horizon_ms: 10 * MINUTE_MS, ..small() });
        keeper.subscribe("g", "t", true);
        let due = BEGIN_MS + 8 * MINUTE_MS;
        let pending = keeper.publish("t", due);
        fill_old_segment(&mut keeper, "t");
        keeper.pass_to(BEGIN_MS + 5 * MINUTE_MS);
        between.happen(&mut keeper);
        keeper.subscribe("g", "t", true);
        keeper.pass_to(due - 1);
        assert_eq!(keeper.removed_segments, 0, "{between:?}: the oldest has it");
        assert!(!keeper.offsets_of("g").contains(&pending), "{between:?}: not early");
        keeper.pass_to(due);
        assert_eq!(keeper.offsets_of("g").last(), Some(&pending), "{between:?}: at its time");
        keeper.pass_to(due + MINUTE_MS);
        assert_eq!(keeper.removed_segments, 0, "{between:?}: kept behind its due, too");
    }
}

#[test]
fn events_that_are_due_late_survive_their_segment_and_fire() {
    for between in ALL {
        let mut keeper = Keeper::new(small());
        keeper.subscribe("g", "t", true);
        let due = BEGIN_MS + 60 * MINUTE_MS;
        let far: Vec<u64> = (0..3).map(|ms| keeper.publish("t", due + ms)).collect();
        let all = fill_old_segment(&mut keeper, "t");
        keeper.pass_to(BEGIN_MS + 5 * MINUTE_MS);
        assert!(keeper.removed_segments > 0, "the segment does not wait for them");
        between.happen(&mut keeper);
        keeper.subscribe("g", "t", true);
        keeper.pass_to(due - 1);
        assert!(!keeper.offsets_of("g").contains(&far[0]), "{between:?}: not early");
        keeper.pass_to(due);
        assert_eq!(keeper.offsets_of("g").last(), Some(&far[0]), "{between:?}: at its time");
        // Again: now some of the run is past.
        between.happen(&mut keeper);
        keeper.subscribe("g", "t", true);
        keeper.pass_to(due + 10);
        let mut got = keeper.offsets_of("g");
        assert_eq!(got[got.len() - 3..], far, "{between:?}");
        got.sort_unstable();
        got.dedup();
        assert_eq!(got.len(), keeper.offsets_of("g").len(), "{between:?}: each once");
        assert!(all.iter().all(|offset| got.contains(offset)), "{between:?}: nothing is missing");
    }
}

#[test]
fn a_load_goes_on_where_another_run_begins() {
    let mut keeper = Keeper::new(small());
    keeper.subscribe("g", "t", true);
    let due = BEGIN_MS + 60 * MINUTE_MS;
    let mut far = Vec::new();
    for after_ms in [0, 10_000, 5_000] {
        far.push(keeper.publish("t", due + after_ms));
        if after_ms == 10_000 {
            keeper.fill_segment("filler");
        }
    }
    settle_down(&mut keeper);
    keeper.pass_to(due + 10_000);
    assert_eq!(keeper.offsets_of("g"), [far[0], far[2], far[1]]);
}

#[test]
fn unsettled_events_of_a_group_hold_their_segment_until_they_are_settled() {
    for between in ALL {
        let mut keeper = Keeper::new(patient());
        let mut stream = keeper.subscribe("g", "t", false);
        let offsets = fill_old_segment(&mut keeper, "t");
        keeper.pass(20 * MINUTE_MS);
        between.happen(&mut keeper);
        if between != Between::Nothing {
            stream = keeper.subscribe("g", "t", false);
        }
        keeper.pass(20 * MINUTE_MS);
        assert_eq!(keeper.removed_segments, 0, "{between:?}");
        keeper.ack_open(stream);
        assert!(offsets.iter().all(|offset| keeper.confirmed["g"].contains(offset)));
        keeper.pass(2_000);
        keeper.fill_segment("filler");
        keeper.pass(5_000);
        assert!(keeper.removed_segments > 0, "{between:?}: settled, and past its time");
    }
}

#[test]
fn a_group_that_has_not_read_holds_what_it_has_to_read() {
    let mut keeper = Keeper::new(small());
    let stream = keeper.subscribe("g", "t", true);
    keeper.leave(stream);
    let offsets = fill_old_segment(&mut keeper, "t");
    keeper.pass(60 * MINUTE_MS);
    assert_eq!(keeper.removed_segments, 0);
    keeper.subscribe("g", "t", true);
    assert!(offsets.iter().all(|offset| keeper.offsets_of("g").contains(offset)));
    keeper.pass(SOON_MS);
    assert!(keeper.removed_segments > 0);
}

#[test]
fn a_topic_that_nobody_consumes_is_kept_for_its_time_beside_one_that_is() {
    let mut keeper = Keeper::new(patient());
    keeper.subscribe("g", "other", false);
    fill_old_segment(&mut keeper, "t");
    keeper.publish("other", BEGIN_MS);
    goes_right_after(&mut keeper, BEGIN_MS + MINUTE_MS);
}

/// A group that is left alone at the time that is returned, but for a look.
fn leave_alone(keeper: &mut Keeper, stream: u64) -> u64 {
    keeper.pass(1);
    keeper.leave(stream);
    keeper.now_ms()
}

#[test]
fn an_abandoned_group_holds_nothing_and_finds_what_is_left() {
    let config = EngineConfig { group_expiry_ms: 10 * MINUTE_MS, cache_bytes: 4 << 10, ..small() };
    let mut keeper = Keeper::new(config);
    let stream = keeper.subscribe("g", "t", true);
    let left_at = leave_alone(&mut keeper, stream);
    let due = BEGIN_MS + 60 * MINUTE_MS;
    let far = keeper.publish("t", due);
    fill_old_segment(&mut keeper, "t");
    goes_right_after(&mut keeper, left_at + 10 * MINUTE_MS);
    keeper.pass(MINUTE_MS);
    let kept = keeper.publish("t", keeper.now_ms());
    for between in ALL {
        between.happen(&mut keeper);
        keeper.subscribe("g", "t", true);
        keeper.pass(SOON_MS);
        assert_eq!(keeper.offsets_of("g"), [kept], "{between:?}: what the log has, once");
    }
    keeper.pass_to(due);
    assert_eq!(keeper.offsets_of("g"), [kept, far], "and what a run has");
}

#[test]
fn what_an_abandoned_group_had_failed_at_ends_as_dead_letters() {
    for between in [Between::Restart, Between::CheckpointsLost] {
        let group_expiry_ms = 10 * MINUTE_MS;
        let (ack_timeout_ms, cache_bytes, max_retries) = (1_000, 4 << 10, 100);
        let config = EngineConfig { max_retries, ack_timeout_ms, ..small() };
        let config = EngineConfig { group_expiry_ms, cache_bytes, ..config };
        let mut keeper = Keeper::new(config);
        let stream = keeper.subscribe("g", "t", false);
        let failed = fill_old_segment(&mut keeper, "t");
        // By now an attempt has failed.
        let left_at = leave_alone(&mut keeper, stream);
        goes_right_after(&mut keeper, left_at + group_expiry_ms);
        keeper.pass(MINUTE_MS);
        between.happen(&mut keeper);
        keeper.got.clear();
        keeper.subscribe("g", "t", true);
        let kept = keeper.publish("t", keeper.now_ms());
        keeper.pass(2 * MINUTE_MS);
        assert_eq!(keeper.offsets_of("g"), [kept], "{between:?}");
        // The one that found no room in the first segment is gone with the second.
        let count = failed.len() as u64 + 1;
        let stats = keeper.stats();
        assert_eq!((stats.gone, stats.dead), (count, count), "{between:?}");
        settle_down(&mut keeper);
        let dead = keeper.dead_letters();
        let is_told = |offset: &u64| dead.contains(&("g".into(), *offset, "Gone".into()));
        assert!(failed.iter().all(is_told), "{between:?}: {dead:?}");
        keeper.restart();
        keeper.subscribe("g", "t", true);
        keeper.pass(SOON_MS);
        assert_eq!(keeper.offsets_of("g"), [kept], "{between:?}: that is final");
        // Nor do they hold what comes behind them.
        let before = keeper.removed_segments;
        keeper.fill_segment("t");
        settle_down(&mut keeper);
        keeper.pass(5 * MINUTE_MS);
        assert!(keeper.removed_segments > before + 2 && keeper.segments().len() <= 2);
    }
}

#[test]
fn a_dead_letter_holds_its_segment_for_its_own_time() {
    let config = EngineConfig {
        max_retries: 0,
        ack_timeout_ms: 1_000,
        dead_letter_retention_ms: 20 * MINUTE_MS,
        ..small()
    };
    let mut keeper = Keeper::new(config);
    keeper.subscribe("g", "t", false);
    let offset = keeper.publish("t", BEGIN_MS);
    fill_old_segment(&mut keeper, "other");
    assert_eq!((keeper.offsets_of("g"), keeper.stats().dead), (vec![offset], 1));
    goes_right_after(&mut keeper, BEGIN_MS + 20 * MINUTE_MS);
}

#[test]
fn replays_begin_where_the_log_does() {
    for between in ALL {
        let mut keeper = Keeper::new(small());
        let due = BEGIN_MS + 4 * MINUTE_MS;
        let far = keeper.publish("t", due);
        let gone = fill_old_segment(&mut keeper, "t");
        keeper.pass_to(due);
        assert!(keeper.removed_segments > 0);
        let kept: Vec<u64> = (0..5).map(|_| keeper.publish("t", due)).collect();
        between.happen(&mut keeper);
        let offsets = |seen: Vec<(u64, String)>| -> Vec<u64> {
            seen.into_iter().map(|(offset, _)| offset).collect()
        };
        let by_time = offsets(keeper.replay("t", ReplayRange::Time { start: 1, end: None }));
        let by_offset = offsets(keeper.replay("t", from_offset(0)));
        assert_eq!(by_time, [&[far][..], &kept].concat(), "{between:?}");
        assert!(by_offset.ends_with(&kept), "{between:?}: {by_offset:?}");
        assert!(gone.iter().all(|offset| !by_offset.contains(offset)), "{between:?}");
    }
}

#[test]
fn without_checkpoints_groups_know_what_they_have_settled() {
    let mut keeper = Keeper::new(patient());
    keeper.subscribe("done", "t", true);
    let some = keeper.subscribe("some", "u", false);
    let due = BEGIN_MS + 30 * MINUTE_MS;
    let far = keeper.publish("t", due);
    fill_old_segment(&mut keeper, "t");
    keeper.pass(2 * MINUTE_MS);
    assert!(keeper.removed_segments > 0);
    // One is acked behind one that is not.
    let open = keeper.publish("u", keeper.now_ms());
    let kept = keeper.take_open(some);
    let acked = keeper.publish("u", keeper.now_ms());
    keeper.ack_open(some);
    assert_eq!(keeper.confirmed["some"].iter().copied().collect::<Vec<_>>(), [acked]);
    drop(kept);
    settle_down(&mut keeper);
    let before = keeper.offsets_of("done");
    Between::CheckpointsLost.happen(&mut keeper);
    keeper.got.clear();
    keeper.subscribe("done", "t", true);
    keeper.subscribe("some", "u", true);
    assert_eq!(keeper.offsets_of("done"), [0; 0], "all {} are settled", before.len());
    assert_eq!(keeper.offsets_of("some"), [open]);
    keeper.pass_to(due);
    assert_eq!(keeper.offsets_of("done"), [far]);
    let new = keeper.publish("t", due);
    assert_eq!(keeper.offsets_of("done"), [far, new]);
}

#[test]
fn beyond_its_size_the_log_lets_settled_events_go_before_their_time() {
    let config = EngineConfig { retention_ms: 0, retention_bytes: 192 << 10, ..patient() };
    let mut keeper = Keeper::new(config);
    keeper.subscribe("g", "t", true);
    let far = keeper.publish("t", BEGIN_MS + 60 * MINUTE_MS);
    for _ in 0..12 {
        keeper.fill_segment("t");
        keeper.pass(3_000);
    }
    let bytes = keeper.stats().log_bytes;
    assert!(keeper.removed_segments >= 6 && bytes <= 256 << 10, "{bytes} bytes");
    assert!(keeper.segments().len() >= 3, "what fits is kept");
    keeper.pass_to(BEGIN_MS + 60 * MINUTE_MS);
    assert_eq!(keeper.offsets_of("g").last(), Some(&far));
}

#[test]
fn beyond_its_size_the_log_refuses_events_before_it_drops_unsettled_ones() {
    let limit = 192 << 10;
    let config = EngineConfig { retention_ms: 0, retention_bytes: limit, ..patient() };
    let allowed = limit + config.segment_bytes;
    let mut keeper = Keeper::new(config);
    let stream = keeper.subscribe("g", "t", false);
    let (mut stored, mut before) = (Vec::new(), 0);
    loop {
        let now = keeper.now_ms();
        match keeper.publish_some("t", &format!("e{}", stored.len()), now, 1_000) {
            Ok(offset) => stored.push(offset),
            Err(code) => {
                assert_eq!(code, ErrorCode::ResourceExhausted);
                break;
            }
        }
        assert!(before <= allowed, "taken up to the limit, and not beyond");
        before = keeper.stats().log_bytes;
        keeper.pass(1);
    }
    assert!(before > allowed, "not refused before the limit: {before} bytes");
    keeper.pass(60 * MINUTE_MS);
    assert_eq!((keeper.removed_segments, keeper.offsets_of("g")), (0, stored.clone()));
    Between::Restart.happen(&mut keeper);
    keeper.pass(SOON_MS);
    let refused = keeper.publish_some("t", "more", keeper.now_ms(), 1_000);
    assert_eq!(refused, Err(ErrorCode::ResourceExhausted), "after a restart, too");
    assert!(!keeper.has_stream(stream));
    keeper.got.clear();
    let stream = keeper.subscribe("g", "t", false);
    assert_eq!(keeper.offsets_of("g"), stored);
    keeper.ack_open(stream);
    keeper.pass(10_000);
    assert!(keeper.removed_segments > 0);
    keeper.publish_some("t", "more", keeper.now_ms(), 1_000).expect("there is room again");
}

/// A carried run that has what the log has not any more; its due time.
fn with_far_run(keeper: &mut Keeper) -> (u64, u64) {
    keeper.subscribe("g", "t", true);
    let due = BEGIN_MS + 60 * MINUTE_MS;
    let far = keeper.publish("t", due);
    fill_old_segment(keeper, "t");
    keeper.pass_to(BEGIN_MS + 5 * MINUTE_MS);
    assert!(keeper.removed_segments > 0);
    (far, due)
}

/// A start says which run is damaged, is read-only, and leaves every file where it is.
fn is_reported(keeper: &mut Keeper, run: RunNo, what: &str) {
    let report = keeper.report.clone().expect("a start comes to its end");
    let rot = report.rot.unwrap_or_else(|| panic!("{what}: damage goes unnoticed"));
    assert!(rot.contains(&format!("run {run}")), "{what}: {rot}");
    let refused = keeper.publish_some("t", "more", keeper.now_ms(), 10);
    assert_eq!(refused, Err(ErrorCode::DataLoss), "{what}");
    keeper.pass(MINUTE_MS);
    assert!(keeper.jobs.runs_of(PARTITION).contains(&run), "{what}: its file stays");
}

#[test]
fn a_run_beyond_its_segments_that_cannot_be_opened_is_reported_and_kept() {
    for between in [Between::Restart, Between::CheckpointsLost] {
        for part in ["footer", "directory"] {
            let what = format!("{between:?}, {part}");
            let mut keeper = Keeper::new(small());
            let (far, due) = with_far_run(&mut keeper);
            keeper.kill();
            let found = keeper.look().restored.expect("a checkpoint");
            let directory = &found.carried[0];
            let (run, blocks) = (directory.head().ids.run, directory.blocks());
            let at = match part {
                "footer" => keeper.jobs.len_of(PARTITION, run) - 4_096 + 40,
                _ => directory.extent(blocks - 1).end() + 60,
            };
            let files = keeper.jobs.runs_of(PARTITION);
            if between == Between::CheckpointsLost {
                keeper.jobs.remove_checkpoints(PARTITION);
            }
            keeper.jobs.flip(PARTITION, run, at);
            keeper.start();
            is_reported(&mut keeper, run, &what);
            if between == Between::Restart {
                assert_eq!(keeper.jobs.runs_of(PARTITION), files, "{what}: all files stay");
            }
            // Mended: it was only the cable.
            keeper.kill();
            keeper.jobs.flip(PARTITION, run, at);
            keeper.start();
            keeper.subscribe("g", "t", true);
            keeper.pass_to(due);
            assert_eq!(keeper.offsets_of("g").last(), Some(&far), "{what}");
        }
    }
}

#[test]
fn a_run_beyond_its_segments_that_is_not_there_is_reported() {
    let mut keeper = Keeper::new(small());
    with_far_run(&mut keeper);
    keeper.kill();
    let found = keeper.look().restored.expect("a checkpoint");
    let run = found.carried[0].head().ids.run;
    keeper.jobs.remove(PARTITION, run);
    keeper.start();
    let rot = keeper.report.clone().and_then(|report| report.rot);
    assert!(rot.is_some_and(|rot| rot.contains(&format!("run {run} "))));
}

#[test]
fn a_block_beyond_its_segment_that_cannot_be_read_is_named_and_kept() {
    let mut keeper = Keeper::new(small());
    let (far, due) = with_far_run(&mut keeper);
    let found = keeper.look().restored.expect("a checkpoint");
    let (run, at) = (found.carried[0].head().ids.run, found.carried[0].extent(0).position + 60);
    keeper.jobs.flip(PARTITION, run, at);
    let text = catch_unwind(AssertUnwindSafe(|| keeper.pass_to(due + MINUTE_MS)));
    let text = text.expect_err("the process ends").downcast::<String>().expect("a text");
    assert!(text.contains(&format!("run {run}, block 0")), "{text}");
    assert!(!keeper.offsets_of("g").contains(&far) && keeper.now_ms() <= due);
    assert!(keeper.jobs.runs_of(PARTITION).contains(&run), "its file stays");
}

#[test]
fn a_block_beyond_its_segment_that_a_start_cannot_read_is_reported_and_kept() {
    for between in [Between::Restart, Between::CheckpointsLost] {
        for late_ms in [0, 10 * MINUTE_MS] {
            let what = format!("{between:?}, {late_ms} ms late");
            let mut keeper = Keeper::new(small());
            let (far, due) = with_far_run(&mut keeper);
            keeper.kill();
            let found = keeper.look().restored.expect("a checkpoint");
            let extent = found.carried[0].extent(0);
            let (run, at) = (found.carried[0].head().ids.run, extent.position + 60);
            keeper.jobs.flip(PARTITION, run, at);
            if between == Between::CheckpointsLost {
                keeper.jobs.remove_checkpoints(PARTITION);
            }
            keeper.sleep_to(due + late_ms);
            let text = catch_unwind(AssertUnwindSafe(|| {
                keeper.start();
                keeper.subscribe("g", "t", true);
                keeper.pass(MINUTE_MS);
            }));
            match text {
                Ok(()) => is_reported(&mut keeper, run, &what),
                Err(text) => {
                    let text = text.downcast::<String>().expect("a text");
                    assert!(text.contains(&format!("run {run}, block 0")), "{what}: {text}");
                }
            }
            assert!(!keeper.offsets_of("g").contains(&far), "{what}");
            assert!(keeper.jobs.runs_of(PARTITION).contains(&run), "{what}: its file stays");
        }
    }
}
