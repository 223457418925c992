//! The data plane's driver: runs one engine per core on glommio, and does what it asks for.
//!
//! Each shard is a thread with its own executor, pinned to its core. Its **pump** takes what has
//! happened from the **inbox**, steps the engine, and runs the effects; **disk** does files,
//! **listener** and **session** do client sockets, **mesh** the other shards, **gate** the tokio
//! side. All of them only put inputs into the inbox and are never awaited by the pump, so two
//! shards can't block each other. glommio is named only in this folder.
//!
//! Time is read here and handed to the engine; nothing here decides what an event's fate is.

mod backlog;
mod boot;
pub mod checkpoints;
mod clock;
pub mod directory;
mod disk;
#[cfg(test)]
mod fault;
mod file;
mod gate;
mod inbox;
mod introducer;
mod jobs;
mod ledger;
mod listener;
mod mesh;
pub mod mount;
mod outgoing;
mod patience;
mod peers;
mod ports;
mod pump;
mod requests;
mod route;
mod session;
mod space;
mod stats;

pub use boot::{BootError, Shards, start};
pub use directory::{Directory, DirectoryError};
pub use gate::{Cuts, Gate, GateStream, StreamMessage};
pub use jobs::{parse_run_name, run_path};
pub use peers::{AcceptRate, Peers};
pub use stats::{DriverCounts, ShardStats};
