//! The log of a partition: bytes and numbers, no I/O.
//!
//! ```text
//!  propose: PublishBuilder, SettleBuilder, ... -> Body     EntryHeader (index, term, chain)
//!                                                 |            |
//!  write:   Tail: queue -> plan -> fill_write -> done -> acknowledged in log order
//!                                                 |
//!  find:    SparseIndex, RecordCache         segment files
//!                                                 |
//!  read:    Reader (a chunk -> entries)      Scan (recovery: the whole log, torn or rotten?)
//!                                            Salvage (what can be read behind rot)
//! ```
//! Everything durable in a partition is an entry here. What must hold:
//! - bytes that are not exactly the next entry are never taken for it (`reader`);
//! - a crash at any moment leaves a prefix with all that was acknowledged (`tail`, `scan`);
//! - damage to what had been durable is never cut silently (`scan`, `hunt`);
//! - bytes from disk never panic a decoder (`envelope`, `body`).
//!
//! The bytes of format v1 are in `tests/golden`; they never change.

pub mod batch;
pub mod body;
pub mod cache;
pub mod entry;
pub mod envelope;
mod fill;
mod hunt;
pub mod index;
mod publish_table;
pub mod reader;
pub mod salvage;
pub mod scan;
pub mod segment;
pub mod settle;
pub mod state;
pub mod tail;
pub mod topics;

#[cfg(test)]
mod crash_test;
#[cfg(test)]
mod damage_test;
#[cfg(test)]
mod golden_test;
#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod reader_test;

pub use batch::{NewRecord, PublishBuilder, PublishView, Record};
pub use body::{Body, BodyError, Content};
pub use cache::{Cached, RecordCache};
pub use entry::{EntryHeader, EntryKind};
pub use envelope::{Envelope, Ids, entry_len};
pub use fill::Ahead;
pub use index::{Piece, SegmentNotes, SparseIndex, Spot};
pub use reader::{EntryFault, Parsed, Reader};
pub use salvage::{Hole, Salvage, Salvaged};
pub use scan::{Known, LogEnd, ReadRequest, RotReport, Scan, ScanOutcome, Scanned};
pub use segment::{Place, SegmentFile};
pub use settle::{
    DeadReason, GroupsBuilder, GroupsView, NewGroup, SettleBuilder, SettleKind, SettleView,
    Settlement,
};
pub use state::{DeadLetter, GroupState, StateBuilder, StateHead, StateView, Unsettled};
pub use tail::{Planned, Tail};
pub use topics::{TopicsBuilder, TopicsView};

// flatc's accessors read through raw pointers at places its verifier has checked. They are used
// behind `Body::verify` and the builders only, and structs only as the arrays of bytes they are.
#[allow(unsafe_code, missing_docs, unused_imports, clippy::all, clippy::pedantic)]
#[rustfmt::skip]
#[path = "generated/record.rs"]
mod generated;
