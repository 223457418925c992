//! Publishes wait while jobs are far behind, to the byte, and nothing else does.

use chronosdb::base::config::EngineConfig;
use chronosdb::base::limits;

use super::keeper::{BEGIN_MS, Keeper, small};

/// Bytes at which a flush begins.
const FLUSH: u64 = 16 << 10;

/// Jobs stand still; publishes are given for as long as they are taken.
fn held() -> Keeper {
    let config = EngineConfig { flush_bytes: FLUSH, id_window: 1_000, ..small() };
    let mut keeper = Keeper::new(config);
    keeper.holds_jobs = true;
    let found = keeper.stats().unflushed_bytes;
    while keeper.takes_publishes() {
        // What a start finds, the first entries of a new log too, holds nobody back.
        let percent = (keeper.stats().unflushed_bytes - found) * 100 / FLUSH;
        assert!(percent <= limits::BEHIND_MAX, "at {percent} they would have to wait");
        keeper.publish("t", BEGIN_MS);
    }
    keeper
}

#[test]
fn publishes_wait_one_behind_the_limit_until_jobs_have_caught_up() {
    let mut keeper = held();
    let percent = keeper.stats().unflushed_bytes * 100 / FLUSH;
    assert!(percent > limits::BEHIND_MAX, "at {percent} they are still taken");
    assert_eq!(keeper.stats().held_back, 1);
    keeper.release_job();
    assert!(keeper.stats().unflushed_bytes * 100 / FLUSH < limits::BEHIND_RESUME);
    assert!(keeper.takes_publishes(), "jobs have caught up");
}

#[test]
fn acks_pass_publishes_that_wait() {
    let mut keeper = held();
    keeper.subscribe("g", "t", true);
    keeper.pass(1_000);
    assert!(!keeper.takes_publishes(), "no job has ended");
    assert!(!keeper.offsets_of("g").is_empty());
    assert_eq!(keeper.confirmed["g"].len(), keeper.offsets_of("g").len());
}

#[test]
fn what_a_start_finds_holds_nobody_back() {
    let mut keeper = held();
    keeper.restart();
    assert!(keeper.stats().unflushed_bytes * 100 / FLUSH > limits::BEHIND_MAX);
    assert!(keeper.takes_publishes());
}
