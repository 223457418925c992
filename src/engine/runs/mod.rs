//! Events in the order in which they become due.
//!
//! Everything that walks the due-time axis (live groups, lagging groups, new groups, replay by
//! time, the audit) does so through [`DueSource`], so that where the events lie is one module's
//! business. What readers come to lies in memory ([`MemoryIndex`]): the far future is loaded into
//! it out of due runs, and a start fills it again out of runs and due indexes.
//!
//! A **run** is an immutable file of one partition, sorted by (topic, due, offset). A due run
//! carries its records, a due index has their keys alone; both are of a range of offsets, a
//! merge makes one of several. Bytes and numbers, no I/O:
//!
//! ```text
//!  write:  RunRecord -> RunWriter -> RunChunk: header, blocks, directory, footer
//!  open:   Footer -> Directory, which stays in memory
//!  read:   Directory: topic, position -> extent of a block;  bytes -> Block -> RunRecord
//!  merge:  Directories -> Merge: reads wanted, bytes fed -> RunWriter
//! ```
//! What must hold:
//! - bytes that are not exactly the expected part are never taken for it (`part`), and what is in
//!   it is checked once, as a whole (`block`, `directory`): damage is an error, never a wrong
//!   record, never a panic;
//! - a key occurs once in a run; among runs the newest one's record counts (`merge`);
//! - memory is bounded by the directories, not by the records.
//!
//! The bytes of format v1 are in `tests/golden`; they never change.

pub mod block;
pub mod directory;
mod due_source;
pub mod file;
mod memory_index;
pub mod merge;
pub mod part;
pub mod record;
pub mod writer;

#[cfg(test)]
mod file_test;
#[cfg(test)]
mod merge_test;
#[cfg(test)]
mod model;

pub use block::{Block, RecordSpans};
pub use directory::{Directory, TopicSlice};
pub use due_source::{DueEvent, DueSource};
pub use file::{Extent, Footer, HEADER};
pub use memory_index::{MemoryIndex, Trimmed};
pub use merge::{Merge, MergeFault, MergeProgress, MergeRead};
pub use part::{RunFault, RunHead, RunIds, RunKind};
pub use record::{RunKey, RunRecord};
pub use writer::{RunChunk, RunWriter};
