//! Topics that are kept for longer than the node keeps things, or for shorter: exact limits.

use chronosdb::base::api::ReplayRange;
use chronosdb::base::config::EngineConfig;
use chronosdb::base::error::ErrorCode;
use chronosdb::base::ids::Offset;
use chronosdb::base::limits;
use chronosdb::base::topic_retention::TopicRetention;

use super::between::ALL;
use super::keeper::{BEGIN_MS, Keeper, from_offset, small};

const MINUTE_MS: u64 = 60_000;
const HOUR: TopicRetention = TopicRetention::For(60 * MINUTE_MS);
const ALL_TIME: ReplayRange = ReplayRange::Time { start: 0, end: None };

/// The log goes on, until the first segments are gone; they hold nothing but fillers and `topic`.
fn outlive_segments(keeper: &mut Keeper) {
    for _ in 0..4 {
        keeper.fill_segment("filler");
        keeper.pass(2_000);
    }
    keeper.pass_to(BEGIN_MS + 5 * MINUTE_MS);
    assert!(keeper.removed_segments > 0, "the log is not held");
}

fn offsets(keeper: &mut Keeper, topic: &str, range: ReplayRange) -> Vec<u64> {
    keeper.replay(topic, range).into_iter().map(|(offset, _)| offset).collect()
}

#[test]
fn a_longer_one_outlives_its_segments() {
    // By age, and by the size of the log.
    let by_size = || EngineConfig { retention_ms: 0, retention_bytes: 100 << 10, ..small() };
    let setups = ALL.map(|between| (small(), between)).into_iter();
    for (config, between) in setups.chain(ALL.map(|between| (by_size(), between))) {
        let mut keeper = Keeper::new(config);
        assert_eq!(keeper.topic("long", Some(HOUR)), HOUR);
        // Published late, due at once, due soon, due behind the horizon.
        let late = keeper.publish("long", BEGIN_MS - MINUTE_MS);
        let now = keeper.publish("long", BEGIN_MS);
        let soon = keeper.publish("long", BEGIN_MS + 400);
        let far = keeper.publish("long", BEGIN_MS + 10_000);
        outlive_segments(&mut keeper);
        between.happen(&mut keeper);
        assert_eq!(keeper.topic("long", None), HOUR, "{between:?}");
        let all = [late, now, soon, far];
        assert_eq!(offsets(&mut keeper, "long", ALL_TIME), all, "{between:?}");
        keeper.subscribe("new", "long", true);
        keeper.pass(1_000);
        assert_eq!(keeper.offsets_of("new"), all, "{between:?}");
        // To its own limit, and no further.
        keeper.pass_to(BEGIN_MS + 60 * MINUTE_MS);
        assert_eq!(offsets(&mut keeper, "long", ALL_TIME), all, "{between:?}");
        keeper.pass(1);
        assert_eq!(offsets(&mut keeper, "long", ALL_TIME), [soon, far], "{between:?}");
        keeper.pass_to(BEGIN_MS + 60 * MINUTE_MS + 10_001);
        assert_eq!(offsets(&mut keeper, "long", ALL_TIME), [0_u64; 0], "{between:?}");
    }
}

#[test]
fn what_carries_a_longer_one_goes_at_last() {
    let mut keeper = Keeper::new(small());
    keeper.topic("long", Some(HOUR));
    keeper.publish("long", BEGIN_MS);
    outlive_segments(&mut keeper);
    let carried =
        |keeper: &mut Keeper| keeper.look().restored.map_or(0, |restored| restored.carried.len());
    assert!(carried(&mut keeper) > 0, "a run has it");
    keeper.pass_to(BEGIN_MS + 62 * MINUTE_MS);
    assert_eq!(carried(&mut keeper), 0, "nobody needs it");
}

#[test]
fn one_that_is_kept_for_ever_is() {
    let mut keeper = Keeper::new(small());
    keeper.topic("audit", Some(TopicRetention::Forever));
    let first = keeper.publish("audit", BEGIN_MS);
    outlive_segments(&mut keeper);
    keeper.kill();
    keeper.sleep_to(BEGIN_MS + 365 * 24 * 60 * MINUTE_MS);
    keeper.start();
    keeper.pass(5_000);
    assert_eq!(offsets(&mut keeper, "audit", ALL_TIME), [first]);
}

#[test]
fn what_was_flushed_before_it_was_said_holds_its_segment() {
    for (bytes, held) in [(0, true), (100 << 10, false)] {
        let config = EngineConfig { retention_bytes: bytes, ..small() };
        let mut keeper = Keeper::new(config);
        let first = keeper.publish("long", BEGIN_MS);
        for _ in 0..4 {
            keeper.fill_segment("filler");
            keeper.pass(2_000);
        }
        keeper.topic("long", Some(HOUR));
        keeper.pass_to(BEGIN_MS + 5 * MINUTE_MS);
        // By size the oldest goes in any case.
        assert_eq!(keeper.removed_segments == 0, held, "{bytes}");
        let there = offsets(&mut keeper, "long", ALL_TIME);
        assert_eq!(there.contains(&first), held, "{bytes}");
        keeper.pass_to(BEGIN_MS + 62 * MINUTE_MS);
        assert!(keeper.removed_segments > 0, "it has passed its own time");
    }
}

#[test]
fn a_shorter_one_hides_what_is_past_it_but_not_from_who_waits() {
    for between in ALL {
        let mut keeper = Keeper::new(small());
        let ten = TopicRetention::For(10_000);
        let patient = keeper.subscribe("early", "short", false);
        keeper.topic("short", Some(ten));
        let event = keeper.publish("short", BEGIN_MS);
        let other = keeper.publish("other", BEGIN_MS);
        keeper.pass_to(BEGIN_MS + 10_000);
        assert_eq!(offsets(&mut keeper, "short", ALL_TIME), [event], "at the limit");
        assert_eq!(offsets(&mut keeper, "short", from_offset(0)), [event], "at the limit");
        keeper.pass(1);
        keeper.leave(patient);
        between.happen(&mut keeper);
        assert_eq!(offsets(&mut keeper, "short", ALL_TIME), [0_u64; 0], "{between:?}");
        assert_eq!(offsets(&mut keeper, "short", from_offset(0)), [0_u64; 0], "{between:?}");
        assert_eq!(offsets(&mut keeper, "other", from_offset(0)), [other], "{between:?}");
        // The group that was there has not settled it; one that is new never sees it.
        keeper.got.clear();
        keeper.subscribe("late", "short", true);
        keeper.subscribe("early", "short", true);
        keeper.pass(5_000);
        assert_eq!(keeper.offsets_of("early"), [event], "{between:?}");
        assert_eq!(keeper.offsets_of("late"), [0_u64; 0], "{between:?}");
        // Back to the node's: it is seen again, by replays.
        keeper.topic("short", Some(TopicRetention::Node));
        assert_eq!(offsets(&mut keeper, "short", ALL_TIME), [event], "{between:?}");
    }
}

#[test]
fn settings_outlive_the_segments_that_said_them() {
    let mut keeper = Keeper::new(small());
    keeper.topic("never-published", Some(HOUR));
    keeper.topic("again", Some(HOUR));
    keeper.topic("again", Some(TopicRetention::Node));
    outlive_segments(&mut keeper);
    for between in ALL {
        between.happen(&mut keeper);
        assert_eq!(keeper.topic("never-published", None), HOUR, "{between:?}");
        assert_eq!(keeper.topic("again", None), TopicRetention::Node, "{between:?}");
        assert_eq!(keeper.topic("unknown", None), TopicRetention::Node, "{between:?}");
    }
}

#[test]
fn as_many_settings_are_gathered_as_the_limit_says() {
    let row = 16;
    let table = 256;
    let room = (limits::SETTINGS_BYTES - table).div_ceil(row);
    let mut keeper = Keeper::new(EngineConfig { segment_bytes: 1 << 20, ..small() });
    // What is gathered is written in one turn, and then there is room again.
    let asked = vec![("t", Some(HOUR)); room + 1];
    let answers = keeper.topics(&asked);
    assert_eq!(answers[room - 1], Ok(HOUR), "the last that finds room");
    assert_eq!(answers[room], Err(ErrorCode::ResourceExhausted), "one more");
    assert_eq!(keeper.topic("t", Some(HOUR)), HOUR, "room again");
    let seen = offsets(&mut keeper, "t", ReplayRange::Offsets { start: Offset(0), count: 1 });
    assert_eq!(seen, [0_u64; 0], "a setting is no event");
}
