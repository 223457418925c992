//! Counters of the engine. A stub until the engine is here.

/// Counters of one shard's engine.
#[derive(Clone, Debug, Default)]
pub struct EngineStats {
    /// Events stored.
    pub published: u64,
    /// Deliveries handed out.
    pub delivered: u64,
}
