//! Counters of the driver, and the snapshot of a shard that metrics are made from.

use std::cell::{Cell, RefCell};

use hdrhistogram::Histogram;

use crate::base::ids::ShardId;
use crate::base::time::Now;
use crate::engine::EngineStats;

/// Longest latency a histogram tells apart, us.
const LATENCY_MAX_US: u64 = 60_000_000;

/// What one shard has done so far. Plain values: taken on the shard, read anywhere.
#[derive(Clone, Debug)]
pub struct ShardStats {
    /// Which shard.
    pub shard: ShardId,
    /// The engine's own counters.
    pub engine: EngineStats,
    /// The driver's.
    pub driver: DriverCounts,
    /// Latency of the log's writes, us, from submission to durability.
    pub write_latency_us: Histogram<u64>,
    /// Time since the shard started, ms.
    pub uptime_ms: u64,
}

/// Numbers of the driver. Totals since the start but for those named otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverCounts {
    /// Turns of the pump.
    pub turns: u64,
    /// Inputs given to the engine, ends of turns not counted.
    pub inputs: u64,
    /// Requests that wait for the engine now.
    pub requests_waiting: u64,
    /// Client connections that are open now.
    pub connections: u64,
    /// Client connections taken.
    pub connections_opened: u64,
    /// Client connections refused at the limit.
    pub connections_refused: u64,
    /// Client connections closed for breaking the protocol or a time limit.
    pub connections_faulted: u64,
    /// Bytes read from clients.
    pub bytes_in: u64,
    /// Bytes written to clients.
    pub bytes_out: u64,
    /// Writes to client sockets.
    pub socket_writes: u64,
    /// Calls through the gate.
    pub gate_calls: u64,
    /// Streams through the gate that are open now.
    pub gate_streams: u64,
    /// Batches of messages sent to other shards.
    pub mesh_batches: u64,
    /// Messages in them.
    pub mesh_messages: u64,
    /// Writes to logs.
    pub log_writes: u64,
    /// Bytes of those.
    pub log_write_bytes: u64,
    /// Reads from logs.
    pub log_reads: u64,
    /// Bytes of those.
    pub log_read_bytes: u64,
    /// Bytes of logs filled with zeros ahead of use.
    pub log_fill_bytes: u64,
    /// Syncs of logs.
    pub log_syncs: u64,
    /// Bytes of runs written.
    pub run_write_bytes: u64,
    /// Bytes of checkpoints written.
    pub checkpoint_bytes: u64,
    /// Blocks of runs read.
    pub run_reads: u64,
    /// Bytes of those.
    pub run_read_bytes: u64,
    /// Bytes that jobs have read, from logs and runs.
    pub job_read_bytes: u64,
    /// Bytes that the file system of the data directory has free now.
    pub disk_free_bytes: u64,
}

/// The counters while they are counted. Shared by the tasks of one executor.
pub(super) struct Counters {
    counts: Cell<DriverCounts>,
    write_latency_us: RefCell<Histogram<u64>>,
    started: Now,
}

impl Counters {
    /// All zero, from now on.
    pub(super) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_MAX_US, 2).expect("valid bounds");
        Self {
            counts: Cell::default(),
            write_latency_us: RefCell::new(histogram),
            started: Now::read(),
        }
    }

    /// Changes some of the numbers.
    pub(super) fn count(&self, change: impl FnOnce(&mut DriverCounts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    /// What the disk had free at the last look.
    pub(super) fn disk_free_bytes(&self) -> u64 {
        self.counts.get().disk_free_bytes
    }

    /// A write of the log has become durable after so many us.
    pub(super) fn write_took(&self, us: u64) {
        self.write_latency_us.borrow_mut().saturating_record(us.max(1));
    }

    /// All of it, with the engine's.
    pub(super) fn snapshot(&self, shard: ShardId, engine: &EngineStats) -> ShardStats {
        ShardStats {
            shard,
            engine: engine.clone(),
            driver: self.counts.get(),
            write_latency_us: self.write_latency_us.borrow().clone(),
            uptime_ms: Now::read().boot_ms() - self.started.boot_ms(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_has_what_was_counted() {
        let counters = Counters::new();
        counters.count(|c| c.turns += 2);
        counters.count(|c| c.bytes_in += 10);
        counters.write_took(0);
        counters.write_took(u64::MAX);
        let stats = counters.snapshot(ShardId(3), &EngineStats::default());
        assert_eq!((stats.driver.turns, stats.driver.bytes_in), (2, 10));
        assert_eq!(stats.write_latency_us.len(), 2);
        assert_eq!(stats.shard, ShardId(3));
    }
}
