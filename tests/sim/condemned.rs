//! A run turns out to be rotten while a log that was shortened is served: one that the log still
//! has costs time alone, one that has more ends the process and nothing else.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use chronosdb::base::config::EngineConfig;
use chronosdb::base::ids::{Offset, RunNo};
use chronosdb::engine::renew::{HEAD_BYTES, beginning};

use super::keeper::{BEGIN_MS, Keeper, PARTITION, small};

const MINUTE_MS: u64 = 60_000;
/// As long as it takes, in these tests.
const LONG_MS: u64 = 1_000 * MINUTE_MS;

/// A log without its head, and what is still to come of it.
struct Shortened {
    keeper: Keeper,
    /// An event whose record is gone, by its id "first".
    first: u64,
    /// Due at `due`; only a run has it.
    far: u64,
    due: u64,
    /// Due a minute later; a run and the log have it, by its id "later".
    later: u64,
}

impl Shortened {
    fn new() -> Self {
        let mut keeper = Keeper::new(EngineConfig { dedup_ttl_ms: LONG_MS, ..small() });
        keeper.subscribe("g", "t", true);
        let due = BEGIN_MS + 60 * MINUTE_MS;
        let first = keeper.publish_some("t", "first", BEGIN_MS, 1_000).expect("stored");
        let far = keeper.publish("t", due);
        fill(&mut keeper);
        keeper.pass_to(BEGIN_MS + 5 * MINUTE_MS);
        assert!(keeper.removed_segments > 0, "the log has lost its head");
        // From here on it loses nothing more.
        keeper.set_config(|config| config.retention_ms = LONG_MS);
        keeper.restart();
        keeper.subscribe("g", "t", true);
        let later = keeper.publish_some("t", "later", due + MINUTE_MS, 1_000).expect("stored");
        fill(&mut keeper);
        Self { keeper, first, far, due, later }
    }

    fn log_start(&mut self) -> Offset {
        let first = self.keeper.segments()[0];
        let head = self.keeper.disk.peek(PARTITION, first, 0, HEAD_BYTES as u64);
        beginning(&head, PARTITION, first).expect("a log begins with an entry").1
    }

    /// The process ends of what happens; its last words.
    fn ends_of(&mut self, happens: impl FnOnce(&mut Keeper)) -> String {
        let ended = catch_unwind(AssertUnwindSafe(|| happens(&mut self.keeper)));
        let text = ended.expect_err("the process ends");
        self.keeper.kill();
        *text.downcast::<String>().expect("a text")
    }

    /// It starts again, and everything comes that was to come, once.
    fn goes_on_as_if_nothing_had_been(mut self) {
        assert_eq!(self.keeper.jobs.renewed, 1);
        let start = self.log_start();
        let restored = self.keeper.look().restored.expect("a renewed checkpoint");
        assert_eq!(restored.checkpoint.flushed, start, "the axis is made anew");
        self.keeper.start();
        let rot = self.keeper.report.as_ref().and_then(|report| report.rot.clone());
        assert_eq!(rot, None);
        self.keeper.subscribe("g", "t", true);
        self.keeper.pass_to(self.due + 2 * MINUTE_MS);
        let mut got = self.keeper.offsets_of("g");
        for event in [self.far, self.later] {
            assert_eq!(got.iter().filter(|offset| **offset == event).count(), 1, "{got:?}");
        }
        got.sort_unstable();
        got.dedup();
        assert_eq!(got.len(), self.keeper.offsets_of("g").len(), "each once");
        for (id, offset) in [("first", self.first), ("later", self.later)] {
            let again = self.keeper.publish_some("t", id, self.due, 10);
            assert_eq!(again, Ok(offset), "{id} is known, also where its record is gone");
        }
        // New runs are made, and a checkpoint that needs no second look at the log.
        fill(&mut self.keeper);
        let restored = self.keeper.look().restored.expect("a checkpoint");
        assert!(restored.checkpoint.flushed > start);
        self.keeper.restart();
        assert_eq!(self.keeper.publish_some("t", "first", self.due, 10), Ok(self.first));
    }

    /// A bit flips in each block of rows of a run of ids.
    fn flip_ids(&mut self, mut is_wanted: impl FnMut(&Range<Offset>) -> bool) -> RunNo {
        let found = self.keeper.look().restored.expect("a checkpoint");
        let mut runs = found.ids.newest_first().iter();
        let run = runs.find(|run| run.rows() > 0 && is_wanted(&run.offsets()));
        let run = run.expect("one of them is");
        for block in 1..=run.rows().div_ceil(84) {
            self.keeper.jobs.flip(PARTITION, run.ids().run, block * 4_096 + 100);
        }
        run.ids().run
    }
}

fn fill(keeper: &mut Keeper) {
    keeper.fill_segment("t");
    for _ in 0..3 {
        keeper.pass(2_000);
        keeper.fill_segment("filler");
    }
    keeper.pass(2_000);
}

#[test]
fn a_rotten_run_that_the_log_still_has_only_costs_time() {
    let mut log = Shortened::new();
    let start = log.log_start();
    let found = log.keeper.look().restored.expect("a checkpoint");
    let later = Offset(log.later);
    let run = found.carried.iter().find(|run| run.contains(later)).expect("it is carried");
    assert!(run.head().first_offset >= start, "{:?} {start}", run.head());
    let (number, at) = (run.head().ids.run, run.extent(0).position + 60);
    log.keeper.jobs.flip(PARTITION, number, at);
    let due = log.due;
    let text = log.ends_of(|keeper| keeper.pass_to(due + 2 * MINUTE_MS));
    assert!(text.contains(&format!("condemned: run {number}, block 0")), "{text}");
    assert!(!log.keeper.offsets_of("g").contains(&log.later), "nothing false came of it");
    log.goes_on_as_if_nothing_had_been();
}

#[test]
fn a_rotten_run_that_has_more_than_the_log_ends_the_process_and_changes_nothing() {
    let mut log = Shortened::new();
    let found = log.keeper.look().restored.expect("a checkpoint");
    let far = Offset(log.far);
    let run = found.carried.iter().find(|run| run.contains(far)).expect("it is carried");
    let (number, at) = (run.head().ids.run, run.extent(0).position + 60);
    let checkpoint = found.checkpoint.number;
    log.keeper.jobs.flip(PARTITION, number, at);
    let due = log.due;
    let text = log.ends_of(|keeper| {
        // What was read before is in memory.
        keeper.restart();
        keeper.subscribe("g", "t", true);
        keeper.pass_to(due + 2 * MINUTE_MS);
    });
    assert!(text.contains(&format!("run {number}, block 0")), "{text}");
    assert!(text.contains("restore a backup"), "{text}");
    assert_eq!(log.keeper.jobs.renewed, 0);
    let kept = log.keeper.look().restored.expect("all checkpoints are left");
    assert!(kept.checkpoint.number >= checkpoint);
    assert!(log.keeper.jobs.runs_of(PARTITION).contains(&number), "its file stays");
}

#[test]
fn rotten_ids_that_the_log_still_has_only_cost_time() {
    let mut log = Shortened::new();
    let start = log.log_start();
    let mut marks = Vec::new();
    for number in 0..20 {
        let (id, now) = (format!("mark-{number}"), log.keeper.now_ms());
        marks.push((log.keeper.publish_some("t", &id, now, 1_000).expect("stored"), id));
        for _ in 0..8 {
            log.keeper.publish("filler", now);
        }
    }
    log.keeper.pass(2_000);
    let mut asked = None;
    let run = log.flip_ids(|offsets| {
        let mark = marks.iter().find(|(offset, _)| offsets.contains(&Offset(*offset)));
        asked = mark.filter(|_| offsets.start >= start).map(|(_, id)| id.clone());
        asked.is_some()
    });
    let (due, asked) = (log.due, asked.expect("just seen"));
    let text = log.ends_of(|keeper| {
        let _known = keeper.publish_some("t", &asked, due, 10);
    });
    assert!(text.contains(&format!("condemned: run {run} of ids")), "{text}");
    log.goes_on_as_if_nothing_had_been();
}

#[test]
fn rotten_ids_of_removed_segments_end_the_process_and_change_nothing() {
    let mut log = Shortened::new();
    let start = log.log_start();
    let run = log.flip_ids(|offsets| offsets.start < start);
    let due = log.due;
    let text = log.ends_of(|keeper| {
        let _known = keeper.publish_some("t", "first", due, 10);
    });
    assert!(text.contains(&format!("run {run} of ids")), "{text}");
    assert!(text.contains("restore a backup"), "{text}");
    assert_eq!(log.keeper.jobs.renewed, 0);
}
