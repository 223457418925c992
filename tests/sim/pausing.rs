//! When retention looks at all: not where it is off, and not right after a jump of the clock.

use chronosdb::base::config::EngineConfig;

use super::keeper::{BEGIN_MS, Keeper, small};

const HOUR_MS: u64 = 3_600_000;

fn filled(config: EngineConfig) -> Keeper {
    let mut keeper = Keeper::new(config);
    for _ in 0..4 {
        keeper.fill_segment("t");
        keeper.pass(2_000);
    }
    keeper
}

/// The keeper panics where an engine asks to be woken again and again.
#[test]
fn where_everything_is_kept_nobody_looks_for_what_can_go() {
    let mut keeper = filled(EngineConfig { retention_ms: 0, ..small() });
    keeper.pass(48 * HOUR_MS);
    keeper.restart();
    keeper.pass(48 * HOUR_MS);
    assert_eq!(keeper.removed_segments, 0);
}

#[test]
fn a_start_alone_is_no_jump_of_the_clock() {
    let mut keeper = filled(EngineConfig { jump_pause_ms: HOUR_MS, ..small() });
    keeper.restart();
    keeper.pass(120_000);
    keeper.fill_segment("t");
    keeper.pass(5_000);
    assert!(keeper.removed_segments > 0, "past its time, and no reason to wait");
}

#[test]
fn a_log_that_has_just_begun_has_no_time_to_jump_from() {
    let mut keeper = filled(EngineConfig { jump_pause_ms: HOUR_MS, ..small() });
    keeper.pass(120_000);
    keeper.fill_segment("t");
    keeper.pass(5_000);
    assert!(keeper.removed_segments > 0, "no hour has to pass first");
}

#[test]
fn after_a_jump_of_more_than_an_hour_nothing_goes_for_as_long_as_is_said() {
    let mut keeper = filled(EngineConfig { jump_pause_ms: HOUR_MS, ..small() });
    keeper.kill();
    keeper.sleep_to(BEGIN_MS + 3 * HOUR_MS);
    keeper.start();
    keeper.pass(HOUR_MS / 2);
    assert_eq!(keeper.removed_segments, 0, "the clock may be wrong");
    keeper.pass(HOUR_MS);
    keeper.fill_segment("t");
    keeper.pass(5_000);
    assert!(keeper.removed_segments > 0, "it was given time to be set right");
}
