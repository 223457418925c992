//! The engine: a pure function of (state, now, input) to effects.

pub mod effect;
pub mod input;
pub mod mesh;
pub mod stats;
mod stub;

pub use effect::{Effect, RecoveryReport};
pub use input::{HardState, Input, ReplicaEvent, SegmentFile};
pub use stats::EngineStats;
pub use stub::Engine;
