//! Events in the order in which they become due.
//!
//! Everything that walks the due-time axis (live groups, lagging groups, new groups, replay by
//! time, the audit) does so through [`DueSource`], so that where the events lie is one module's
//! business. In this version all of them lie in memory ([`MemoryIndex`]); due indexes of sealed
//! segments and due runs join behind the same trait.

mod due_source;
mod memory_index;

pub use due_source::{DueEvent, DueSource};
pub use memory_index::MemoryIndex;
