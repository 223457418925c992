//! What the engine counts. Plain numbers: a driver copies them out for the metrics page.

use hdrhistogram::Histogram;

/// Counters since the start, gauges of now, and distributions of one shard's engine.
#[derive(Clone, Debug)]
pub struct EngineStats {
    /// Events stored.
    pub published: u64,
    /// Events answered as duplicates.
    pub duplicates: u64,
    /// Events or requests refused at a limit.
    pub refused: u64,
    /// Events refused because the disk is full; among those above.
    pub refused_disk_full: u64,
    /// 1 while publishes are refused for that, now.
    pub space_low: u64,
    /// Writes that made entries durable.
    pub commits: u64,
    /// Bytes of those writes.
    pub commit_bytes: u64,
    /// Events whose time has come.
    pub fired: u64,
    /// Deliveries handed to members.
    pub delivered: u64,
    /// Of those, later attempts.
    pub redelivered: u64,
    /// Deliveries acknowledged and durable.
    pub acked: u64,
    /// Deliveries refused by a member.
    pub nacked: u64,
    /// Leases that ran out.
    pub expired: u64,
    /// Events that used up their attempts.
    pub dead: u64,
    /// Reads of the log.
    pub reads: u64,
    /// Events replayed.
    pub replayed: u64,
    /// Flushes and merges begun.
    pub jobs: u64,
    /// Of those, given up because the disk was full.
    pub jobs_given_up: u64,
    /// Times at which publishes had to wait for jobs.
    pub held_back: u64,
    /// Bytes of the logs that no run has, now.
    pub unflushed_bytes: u64,
    /// Loads of what is due soon out of runs.
    pub loads: u64,
    /// Checkpoints saved.
    pub checkpoints: u64,
    /// Events that came back into memory by them.
    pub loaded: u64,
    /// Events whose time is past that left the memory.
    pub trimmed: u64,
    /// Pages of the past read for groups and replays.
    pub past_pages: u64,
    /// Segments removed by retention.
    pub segments_removed: u64,
    /// Events given up for a group because their records were gone.
    pub gone: u64,
    /// Events that are in runs only, now.
    pub on_disk: u64,
    /// Reads of runs of ids.
    pub id_reads: u64,
    /// Ids remembered in memory, now.
    pub ids_in_memory: u64,
    /// Ids in runs, now.
    pub ids_in_runs: u64,
    /// Publishes that wait for reads of runs of ids, now.
    pub waiting_publishes: u64,
    /// Events not due yet, now.
    pub pending: u64,
    /// Events ready or waiting for a later attempt, now, over all groups.
    pub ready: u64,
    /// Deliveries in flight, now, over all groups.
    pub in_flight: u64,
    /// Open subscriptions and replays, now.
    pub subscriptions: u64,
    /// Requests without an answer, now.
    pub open_requests: u64,
    /// Events in the in-memory index, now.
    pub indexed: u64,
    /// Bytes of the logs up to their last entries.
    pub log_bytes: u64,
    /// Time from a write's submission to its completion, microseconds.
    pub commit_latency_us: Histogram<u64>,
    /// Bytes per write.
    pub commit_bytes_each: Histogram<u64>,
    /// Hand-over of a first attempt minus `schedule_ts`, microseconds.
    pub lateness_us: Histogram<u64>,
    /// High watermark of each partition, now.
    pub high_watermarks: Vec<(u16, u64)>,
    /// Lag and members of each group, now.
    pub groups: Vec<GroupStats>,
}

/// One group in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStats {
    /// Group name.
    pub group: String,
    /// Topic name.
    pub topic: String,
    /// Partition.
    pub partition: u16,
    /// Open streams.
    pub members: u64,
    /// Due events that the group has not settled, counted up to a bound.
    pub lag: u64,
}

impl Default for EngineStats {
    fn default() -> Self {
        let histogram = |highest| {
            let mut histogram =
                Histogram::new_with_bounds(1, highest, 3).expect("the bounds are valid");
            histogram.auto(false);
            histogram
        };
        Self {
            published: 0,
            duplicates: 0,
            refused: 0,
            refused_disk_full: 0,
            space_low: 0,
            commits: 0,
            commit_bytes: 0,
            fired: 0,
            delivered: 0,
            redelivered: 0,
            acked: 0,
            nacked: 0,
            expired: 0,
            dead: 0,
            reads: 0,
            replayed: 0,
            jobs: 0,
            held_back: 0,
            unflushed_bytes: 0,
            jobs_given_up: 0,
            loads: 0,
            checkpoints: 0,
            loaded: 0,
            trimmed: 0,
            past_pages: 0,
            segments_removed: 0,
            gone: 0,
            on_disk: 0,
            id_reads: 0,
            ids_in_memory: 0,
            ids_in_runs: 0,
            waiting_publishes: 0,
            pending: 0,
            ready: 0,
            in_flight: 0,
            subscriptions: 0,
            open_requests: 0,
            indexed: 0,
            log_bytes: 0,
            commit_latency_us: histogram(600_000_000),
            commit_bytes_each: histogram(1 << 32),
            lateness_us: histogram(86_400_000_000),
            high_watermarks: Vec::new(),
            groups: Vec::new(),
        }
    }
}
