//! Entries that are larger than what is read of the log at once.

use chronosdb::base::config::EngineConfig;

use super::keeper::{BEGIN_MS, Keeper, from_offset, small};

/// A large event lies right behind a small one, which the sparse index does not tell from it.
#[test]
fn what_lies_behind_another_in_a_read_is_read_on() {
    let config = EngineConfig {
        segment_bytes: 1 << 20,
        index_interval_bytes: 64 << 10,
        read_bytes: 4 << 10,
        cache_bytes: 1,
        ..small()
    };
    let mut keeper = Keeper::new(config);
    let mut all = Vec::new();
    for bytes in [100, 200_000, 100, 9_000, 100, 100_000] {
        let id = format!("e-{}", all.len());
        let stored = keeper.publish_some("t", &id, BEGIN_MS, bytes);
        all.push((stored.expect("there is room"), id));
    }
    for round in 0..2 {
        let replayed = keeper.replay("t", from_offset(0));
        assert_eq!(replayed, all, "{round}");
        let by_id = |n: usize| keeper.replay("t", from_offset(all[n].0));
        let tails: Vec<_> = (0..all.len()).map(by_id).collect();
        for (n, tail) in tails.iter().enumerate() {
            assert_eq!(tail[..], all[n..], "{round}: from {n} on");
        }
        keeper.restart();
    }
    keeper.subscribe("g", "t", true);
    keeper.pass(1_000);
    let offsets: Vec<u64> = all.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(keeper.offsets_of("g"), offsets);
}
