//! The engine: a pure function of (state, now, input) to effects.

pub mod effect;
pub mod input;
pub mod log;
pub mod mesh;

pub use effect::{Effect, RecoveryReport};
pub use input::{HardState, Input, ReplicaEvent, SegmentFile};
