//! The engine: a pure function of (state, now, input) to effects.

pub mod dedup;
pub mod effect;
pub mod input;
pub mod log;
pub mod mesh;
pub mod replica;
pub mod wheel;

pub use effect::{Effect, RecoveryReport};
pub use input::{HardState, Input, ReplicaEvent, SegmentFile};
