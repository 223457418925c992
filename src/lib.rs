//! ChronosDB: the timestamp-triggered event database.
//!
//! A producer publishes an event with a time on it; it is durable before the answer; when its time
//! comes it is delivered to each consumer group, retried until acknowledged or dead-lettered, and
//! can be replayed. `ARCHITECTURE.md` has the bird's eye view and the code map.

pub mod base;
pub mod cli;
pub mod client;
pub mod control;
pub mod engine;
pub mod node;
pub mod shard;
pub mod wire;
