//! What the simulator looks up inside an engine, apart from its inputs and effects.

pub use chronosdb::engine::{GroupAudit, ReplicaStatus};
