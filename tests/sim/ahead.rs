//! A checkpoint says nothing of what a flush has only begun to carry.

use chronosdb::base::api::ReplayRange;
use chronosdb::base::config::EngineConfig;

use super::keeper::{BEGIN_MS, Keeper, small};

/// Events of 1000 bytes that make a flush due.
const FLUSH: usize = 20;

#[test]
fn a_checkpoint_beside_a_flush_leaves_its_events_to_the_log() {
    let mut keeper = Keeper::new(EngineConfig { id_window: 1_000, ..small() });
    let mut offsets = Vec::new();
    let mut flush = |keeper: &mut Keeper| {
        offsets.extend((0..FLUSH).map(|_| keeper.publish("t", BEGIN_MS)));
    };
    // The first one's checkpoint is saved at once, the next one's a second later.
    flush(&mut keeper);
    flush(&mut keeper);
    let saved = keeper.stats().checkpoints;
    keeper.holds_jobs = true;
    let begun = keeper.stats().jobs;
    flush(&mut keeper);
    assert_eq!(keeper.stats().jobs, begun + 1, "a flush is under way");
    keeper.pass(2_000);
    assert!(keeper.stats().checkpoints > saved, "a checkpoint is made beside it");

    keeper.holds_jobs = false;
    keeper.kill();
    assert!(keeper.look().restored.is_some(), "the start goes on from it");
    keeper.start();
    keeper.subscribe("g", "t", true);
    keeper.pass(1_000);
    assert_eq!(keeper.offsets_of("g"), offsets);
    let replayed = keeper.replay("t", ReplayRange::Time { start: 0, end: None });
    let replayed: Vec<u64> = replayed.into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(replayed, offsets);
}
