//! The log of a partition: bytes and numbers, no I/O.
//!
//! ```text
//!   builders --> Body --+--> entry (header, chain) --> Tail --> writes of whole blocks
//!   (one FlatBuffers    |                               |
//!    table per entry)   +--> RecordCache                +--> SparseIndex
//!   files --> Scan (recovery: torn or rotten?)      Reader (one entry after the other)
//! ```
//!
//! Promises: a body is verified once and read in place; no decoder panics on foreign bytes; what the
//! format is, `schemas/record.fbs` and `envelope` say, and golden files hold it fast.

pub mod batch;
pub mod body;
pub mod cache;
#[cfg(test)]
mod crash_test;
pub mod entry;
pub mod envelope;
mod fill;
mod hunt;
pub mod index;
#[cfg(test)]
mod model;
pub mod reader;
pub mod scan;
pub mod segment;
pub mod settle;
pub mod state;
pub mod tail;

// Made by flatc, which writes `unsafe` reads of its own vectors; bodies are verified before any.
#[allow(unsafe_code, missing_docs, unused_imports, clippy::all, clippy::pedantic)]
#[rustfmt::skip]
#[path = "generated/record.rs"]
mod generated;

pub use batch::{NewRecord, PublishBuilder, PublishView, Record};
pub use body::{Body, BodyError, Content};
pub use cache::{Cached, RecordCache};
pub use entry::{EntryHeader, EntryKind};
pub use envelope::{Ids, entry_len};
pub use index::{SparseIndex, Spot};
pub use reader::{Parsed, Reader};
pub use scan::{LogEnd, RotReport, Scan, ScanOutcome, Scanned};
pub use segment::{Place, SegmentFile};
pub use settle::{DeadReason, GroupsBuilder, NewGroup, SettleBuilder, SettleKind, Settlement};
pub use state::{GroupState, StateBuilder, StateHead, StateView, Unsettled};
pub use tail::{Planned, Tail};
