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

mod block;
mod filter;
mod layout;
mod row;
mod run_directory;
mod run_load;
mod run_writer;
mod table;
mod window;

#[cfg(test)]
mod model_test;
#[cfg(test)]
mod run_file;
#[cfg(test)]
mod run_test;

pub use block::{BlockFault, RunFault, RunIds, RunNo};
pub use layout::{BlockRead, RUN_ROWS_MAX};
pub use row::{Claim, Row};
pub use run_directory::RunDirectory;
pub use run_load::RunLoad;
pub use run_writer::{RunClosing, RunWriter};
pub use window::{Dedup, IdHash, Original, Recorded};
