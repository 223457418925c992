//! The runs of a partition, and where the ids begin that are in no run: all that has to be known to
//! find what left the memory.
//!
//! What must hold: runs lie side by side in age, the newest first, and none reaches beyond `end`;
//! every living id of an event before `end` is in one of them.

use std::ops::Range;
use std::sync::Arc;

use super::merge_plan::{RUNS_MAX, plan_merge};
use super::run_directory::RunDirectory;
use crate::base::ids::Offset;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct IdRuns {
    newest_first: Vec<Arc<RunDirectory>>,
    end: Offset,
}

impl IdRuns {
    /// These, newest first, have the ids of all events before `end` that are alive.
    /// `None` if they do not lie side by side, or reach beyond `end`.
    #[must_use]
    pub fn new(newest_first: Vec<Arc<RunDirectory>>, end: Offset) -> Option<Self> {
        let runs = Self { newest_first, end };
        runs.are_side_by_side().then_some(runs)
    }

    /// Whether each lies before the one that is newer, and the newest before the end.
    fn are_side_by_side(&self) -> bool {
        let mut end = self.end;
        self.newest_first.len() <= RUNS_MAX
            && self.newest_first.iter().all(|run| {
                let offsets = run.offsets();
                let before = offsets.end <= end;
                end = offsets.start;
                before
            })
    }

    /// The runs, newest first.
    #[must_use]
    pub fn newest_first(&self) -> &[Arc<RunDirectory>] {
        &self.newest_first
    }

    /// Behind the last event whose id may be in a run.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Ids in runs; one that was published again counts in each.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.newest_first.iter().map(|run| run.rows()).sum()
    }

    /// Which runs are to be merged, before another one comes.
    #[must_use]
    pub fn plan(&self) -> Option<Range<usize>> {
        let rows: Vec<u64> = self.newest_first.iter().map(|run| run.rows()).collect();
        plan_merge(&rows)
    }

    /// A run with the ids of the events from [`end`](Self::end) to `end`; `None`: none is alive.
    pub(super) fn push(&mut self, end: Offset, run: Option<Arc<RunDirectory>>) {
        if let Some(run) = run {
            assert_eq!(run.offsets(), self.end..end, "runs lie side by side");
            self.newest_first.insert(0, run);
        }
        assert!(end >= self.end, "what left the memory stays out of it");
        assert!(self.newest_first.len() <= RUNS_MAX, "a look-up asks all of them");
        self.end = end;
    }

    /// One run takes the place of those it was merged of, or none does. Returns what they were.
    pub(super) fn merge(
        &mut self,
        runs: Range<usize>,
        run: Option<Arc<RunDirectory>>,
    ) -> Vec<Arc<RunDirectory>> {
        let (newest, oldest) = (&self.newest_first[runs.start], &self.newest_first[runs.end - 1]);
        let offsets = oldest.offsets().start..newest.offsets().end;
        assert!(run.as_ref().is_none_or(|run| run.offsets() == offsets), "it has all of theirs");
        self.newest_first.splice(runs, run).collect()
    }
}
