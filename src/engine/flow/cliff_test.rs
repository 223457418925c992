//! Very many events due at once, and what another topic and the other inputs feel of it.

use super::one_shard::{NOW, Shard};
use crate::base::limits;
use crate::base::time::Now;
use crate::engine::Input;

const BIG: u64 = 1;
const SMALL: u64 = 2;

/// Far more than a tick fires and a turn hands out.
const CROWD: usize = 20 * limits::TURN_DELIVERIES;

fn cliff() -> Shard {
    let mut shard = Shard::of(1);
    shard.subscribe(BIG, "big");
    shard.subscribe(SMALL, "small");
    let due = NOW.wall_ms() + 1_000;
    for _ in 0..20 {
        shard.publish("big", CROWD / 20, 1, due);
    }
    shard.publish("small", 1, 1, due + 1);
    shard.now = Now { wall_us: NOW.wall_us + 1_001_000, boot_us: NOW.boot_us + 1_001_000 };
    shard
}

#[test]
fn what_is_due_behind_a_crowd_does_not_wait_for_it() {
    let mut shard = cliff();
    shard.turn(Input::Tick);
    assert_eq!(shard.delivered(SMALL), 1, "its tick comes last, its group reads on");
    assert!(shard.delivered(BIG) < CROWD / 2);
}

#[test]
fn a_turn_hands_out_a_share_and_the_next_ones_the_rest_in_order() {
    let mut shard = cliff();
    let mut before = 0;
    while shard.delivered(BIG) < CROWD {
        let at = shard.engine.next_deadline(shard.now);
        assert_eq!(at, Some(shard.now.boot_us), "there is more to do at once");
        shard.turn(Input::Tick);
        let now = shard.delivered(BIG);
        let share = limits::TURN_DELIVERIES + limits::GRANT_EVENTS as usize;
        assert!(now - before <= share, "{} in one turn", now - before);
        before = now;
    }
    let offsets = &shard.delivered[&BIG];
    assert!(offsets.iter().copied().eq(0..CROWD as u64), "each once, in order");
}
