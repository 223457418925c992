//! Dedup: which event a `message_id` named first.
//!
//! Exact within a partition: an id is known by a keyed 128-bit hash of (topic, `message_id`), so
//! two ids are taken for one another with a chance of 2^-64 at 2^32 ids, and nobody without the key
//! can make a pair. The key belongs to the data directory: hashes are the same after a restart.
//!
//! An id is alive while any of these holds:
//! - its event's age in log time, `log_now - append_ts`, has been at most the TTL ever since;
//! - its event is not due: `max(schedule_ts, append_ts) > log_now`;
//! - its event is not settled.
//!
//! Promise: the answers are a function of the log alone. Once dead an id stays dead (also when the
//! TTL is raised later), so it makes no difference whether and when [`Dedup::sweep`] removes it.
//! What callers owe for that: log time never runs backwards, and the `settled` they pass never goes
//! from true to false for an event that is past its TTL.
//!
//! What does not fit in memory goes to **runs**: immutable files, each with the ids of a range of
//! offsets.
//!
//! ```text
//!            windows (in memory)   runs
//! publish -> [active][ frozen ] ->  [ run 9 ][ run 8 ][ run 5 ][      run 2       ]   at most 8
//!                                  in memory: filters and index, 2.7 bytes an id
//!                                  on disk: the rows, one read of 4 KiB if a filter says maybe
//!
//! ask:    Dedup::unread -> (reads) -> RunDirectory::find -> Findings -> Dedup::get -> resolve
//! write:  Dedup::freeze -> RunWriter -> RunClosing -> RunDirectory -> Dedup::flushed
//! fewer:  IdRuns::plan -> RunMerge -> RunDirectory -> Dedup::merged
//! load:   RunLoad -> RunDirectory
//! ```
//!
//! An id is in several runs if it was published again; [`resolve()`] says who has it. What callers
//! owe for that: no dead id is written to a run, an event published without `allow_duplicate` found
//! nobody living in window and runs, and a run goes only when the one it was merged into is there.
//!
//! Of living claims to one id that were all made with `allow_duplicate` a run keeps the oldest. So
//! a duplicate that was asked for while its id had a living event may be forgotten when that event
//! dies; one that came when nobody living had the id never is.

mod block;
mod filter;
mod findings;
mod id_runs;
mod layout;
mod memory;
mod merge_plan;
mod resolve;
mod row;
mod run_directory;
mod run_load;
mod run_merge;
mod run_writer;
mod table;
mod window;

#[cfg(test)]
mod model_test;
#[cfg(test)]
mod resolve_test;
#[cfg(test)]
mod run_file;
#[cfg(test)]
mod run_merge_test;
#[cfg(test)]
mod run_test;

pub use block::{BlockFault, MAGIC as ID_RUN_MAGIC, RunFault, RunIds};
pub use findings::{Findings, RunLook};
pub use id_runs::IdRuns;
pub use layout::{BlockRead, RUN_ROWS_MAX};
pub use memory::{Dedup, Frozen, Lifetime, Recorded};
pub use merge_plan::{RUNS_MAX, plan_merge};
pub use resolve::resolve;
pub use row::{Claim, Row};
pub use run_directory::RunDirectory;
pub use run_load::RunLoad;
pub use run_merge::{MergeFault, MergeRead, MergeStep, RunMerge};
pub use run_writer::{RunClosing, RunWriter};
pub use window::{IdHash, Original, Window};
