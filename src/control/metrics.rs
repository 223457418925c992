//! The metrics page: what the shards and the gRPC bridge count, as Prometheus text.
//!
//! Shards count in plain numbers; their snapshots are taken when the page is asked for, and this
//! file maps them to names (`cronos_…`, the ones dashboards already use among them). Only the
//! bridge's own figures live here between two pages.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

use hdrhistogram::Histogram as Recorded;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tonic::Code;

use crate::engine::EngineStats;
use crate::shard::{DriverCounts, ShardStats};

/// Upper bounds of latencies, seconds.
const LATENCY_S: [f64; 16] = [
    0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    10.0,
];
/// Upper bounds of lateness, seconds: down to the tick, up to an outage.
const LATENESS_S: [f64; 14] =
    [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0, 3_600.0];
/// Upper bounds of events per commit.
const COMMIT_BYTES: [f64; 7] = [4e3, 8e3, 16e3, 64e3, 256e3, 1e6, 4e6];

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// What the gRPC bridge counts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<Labels<2>, Counter>,
    durations: Family<Labels<1>, Histogram, fn() -> Histogram>,
    refused: Family<Labels<1>, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let durations: fn() -> Histogram = || Histogram::new(LATENCY_S);
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(durations),
            refused: Family::default(),
        }
    }
}

impl Metrics {
    /// A call has ended. `took` is given for calls with one answer; a stream's life says nothing.
    pub fn request(&self, method: &'static str, status: Code, took: Option<Duration>) {
        let labels = [("method", method), ("status", code_name(status))];
        self.requests.get_or_create(&labels).inc();
        if let Some(took) = took {
            self.durations.get_or_create(&[("method", method)]).observe(took.as_secs_f64());
        }
    }

    /// Counts connections that a listener refuses at a limit.
    #[must_use]
    pub fn refused(&self, listener: &'static str) -> Counter {
        self.refused.get_or_create_owned(&[("listener", listener)])
    }

    /// The page, in the OpenMetrics text format.
    ///
    /// # Panics
    /// Never: writing into a `String` can't fail.
    pub fn page(&self, shards: Vec<ShardStats>) -> String {
        let mut registry = Registry::with_prefix("cronos");
        registry.register(
            "api_grpc_requests",
            "gRPC calls that have ended, by status",
            self.requests.clone(),
        );
        registry.register(
            "api_grpc_request_duration_seconds",
            "Time that gRPC calls with one answer took",
            self.durations.clone(),
        );
        registry.register(
            "api_connections_refused",
            "gRPC and HTTP connections over a limit",
            self.refused.clone(),
        );
        registry.register_collector(Box::new(Snapshot { shards }));
        let mut page = String::new();
        encode_registry(&mut page, &registry)
            .and_then(|()| encode_eof(&mut page))
            .expect("a String takes all that is written");
        page
    }
}

/// The page in the older text format, for readers that did not ask for OpenMetrics: there a
/// counter's type stands under the name of its sample.
#[must_use]
pub fn plain_text(page: &str) -> String {
    let mut plain = String::with_capacity(page.len() + 1024);
    let mut help: Option<&str> = None;
    for line in page.lines() {
        if let Some(text) = line.strip_prefix("# HELP ") {
            help = Some(text);
            continue;
        }
        let counter = line.strip_prefix("# TYPE ").and_then(|line| line.strip_suffix(" counter"));
        let suffix = if counter.is_some() { "_total" } else { "" };
        if let Some((name, text)) = help.take().and_then(|text| text.split_once(' ')) {
            let _infallible = writeln!(plain, "# HELP {name}{suffix} {text}");
        }
        let _infallible = match counter {
            Some(name) => writeln!(plain, "# TYPE {name}_total counter"),
            None if line == "# EOF" => Ok(()),
            None => writeln!(plain, "{line}"),
        };
    }
    plain
}

/// The status as gRPC spells it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The shards at one moment.
#[derive(Debug)]
struct Snapshot {
    shards: Vec<ShardStats>,
}

/// A number of a shard's engine.
type OfEngine = fn(&EngineStats) -> u64;
/// A number of a shard's driver.
type OfDriver = fn(&DriverCounts) -> u64;

/// Name, help, value: totals since the start, per shard.
const ENGINE_TOTALS: &[(&str, &str, OfEngine)] = &[
    ("events_published", "Events stored", |s| s.published),
    ("events_duplicate", "Events answered as duplicates", |s| s.duplicates),
    ("admission_rejected", "Events or requests refused at a limit", |s| s.refused),
    ("disk_full_rejected", "Of those, events refused because the disk is full", |s| {
        s.refused_disk_full
    }),
    ("commits", "Writes that made entries durable", |s| s.commits),
    ("commit_bytes", "Bytes of those writes", |s| s.commit_bytes),
    ("events_fired", "Events whose time has come", |s| s.fired),
    ("deliveries", "Deliveries handed to members", |s| s.delivered),
    ("redeliveries", "Deliveries that were later attempts", |s| s.redelivered),
    ("acks", "Deliveries acknowledged, durably", |s| s.acked),
    ("nacks", "Deliveries refused by a member", |s| s.nacked),
    ("leases_expired", "Deliveries that nobody answered in time", |s| s.expired),
    ("dead_letters", "Events that used up their attempts", |s| s.dead),
    ("wal_reads", "Reads of the log", |s| s.reads),
    ("events_replayed", "Events replayed", |s| s.replayed),
    ("jobs", "Flushes and merges of runs begun", |s| s.jobs),
    ("checkpoints", "Checkpoints of partitions saved", |s| s.checkpoints),
    ("dedup_reads", "Reads of runs of ids", |s| s.id_reads),
    ("jobs_given_up", "Of those, given up because the disk was full", |s| s.jobs_given_up),
    ("loads", "Loads of runs whose events are due soon", |s| s.loads),
    ("events_loaded", "Events loaded from runs", |s| s.loaded),
    ("events_past", "Events whose time is past that left the memory", |s| s.trimmed),
    ("past_pages", "Pages of the past read for groups and replays", |s| s.past_pages),
    ("segments_removed", "Segments removed by retention", |s| s.segments_removed),
    ("publishes_held_back", "Times at which publishes had to wait for jobs", |s| s.held_back),
    ("events_gone", "Events given up for groups that were away for too long", |s| s.gone),
    // A failed write or sync stops the process: a page that can be read says 0.
    ("wal_flush_errors", "Writes or syncs of the log that failed", |_| 0),
];

/// As above: values of now.
const ENGINE_GAUGES: &[(&str, &str, OfEngine)] = &[
    ("scheduler_active_timers", "Events that are not due yet", |s| s.pending),
    ("scheduler_ready_events", "Events due and waiting for a member", |s| s.ready),
    ("wal_bytes", "Bytes of logs up to their last entries", |s| s.log_bytes),
    ("unflushed_bytes", "Bytes of logs that no run has: memory holds them", |s| s.unflushed_bytes),
    ("scheduler_cold_store_entries", "Pending events that are only on disk", |s| s.on_disk),
    ("dedup_ids_in_memory", "Message ids remembered in memory", |s| s.ids_in_memory),
    ("dedup_ids_on_disk", "Message ids in runs", |s| s.ids_in_runs),
    ("publishes_waiting", "Publishes that wait for reads of ids", |s| s.waiting_publishes),
    ("deliveries_in_flight", "Deliveries that are neither settled nor expired", |s| s.in_flight),
    ("subscriptions", "Open subscriptions and replays", |s| s.subscriptions),
    ("requests_open", "Requests without an answer", |s| s.open_requests),
    ("events_indexed", "Events in the in-memory index", |s| s.indexed),
    ("disk_space_low", "1 while publishes are refused because the disk is full", |s| s.space_low),
];

const DRIVER_TOTALS: &[(&str, &str, OfDriver)] = &[
    ("shard_turns", "Turns of the pump", |c| c.turns),
    ("shard_inputs", "Inputs given to the engine", |c| c.inputs),
    ("native_connections_opened", "Native connections taken", |c| c.connections_opened),
    ("native_connections_refused", "Native connections over the limit", |c| c.connections_refused),
    ("native_connections_faulted", "Native connections closed for a fault of the client", |c| {
        c.connections_faulted
    }),
    ("native_received_bytes", "Bytes read from native clients", |c| c.bytes_in),
    ("native_sent_bytes", "Bytes written to native clients", |c| c.bytes_out),
    ("gate_calls", "Calls from the gRPC bridge", |c| c.gate_calls),
    ("mesh_messages", "Messages to other shards", |c| c.mesh_messages),
    ("wal_writes", "Writes to logs", |c| c.log_writes),
    ("wal_written_bytes", "Bytes of those writes, padding included", |c| c.log_write_bytes),
    ("wal_read_bytes", "Bytes read from logs", |c| c.log_read_bytes),
    ("wal_zero_filled_bytes", "Bytes of logs filled with zeros ahead of use", |c| c.log_fill_bytes),
    ("wal_syncs", "Syncs of logs", |c| c.log_syncs),
    ("checkpoint_written_bytes", "Bytes of checkpoints written", |c| c.checkpoint_bytes),
    ("run_written_bytes", "Bytes of runs written", |c| c.run_write_bytes),
    ("run_reads", "Blocks of runs read", |c| c.run_reads),
    ("run_read_bytes", "Bytes of those", |c| c.run_read_bytes),
    ("job_read_bytes", "Bytes that flushes and merges have read", |c| c.job_read_bytes),
];

const DRIVER_GAUGES: &[(&str, &str, OfDriver)] = &[
    ("native_connections", "Open native connections", |c| c.connections),
    ("gate_streams", "Open streams of the gRPC bridge", |c| c.gate_streams),
    ("disk_free_bytes", "Free space on the disk of the data directory", |c| c.disk_free_bytes),
    ("requests_waiting", "Requests that wait for the engine", |c| c.requests_waiting),
];

/// A distribution of a shard's engine, and the factor to the page's unit.
struct Distribution {
    name: &'static str,
    help: &'static str,
    of: fn(&EngineStats) -> &Recorded<u64>,
    bounds: &'static [f64],
    unit: f64,
}

const LATENESS_HELP: &str = "Hand-over of first attempts less schedule_ts";

const DISTRIBUTIONS: &[Distribution] = &[
    Distribution {
        name: "wal_append_latency_seconds",
        help: "Time from the submission of a write to its durability",
        of: |s| &s.commit_latency_us,
        bounds: &LATENCY_S,
        unit: 1e-6,
    },
    Distribution {
        name: "commit_size_bytes",
        help: "Bytes per write",
        of: |s| &s.commit_bytes_each,
        bounds: &COMMIT_BYTES,
        unit: 1.0,
    },
    Distribution {
        name: "lateness_seconds",
        help: LATENESS_HELP,
        of: |s| &s.lateness_us,
        bounds: &LATENESS_S,
        unit: 1e-6,
    },
    // The name that dashboards of older servers ask for.
    Distribution {
        name: "dispatch_latency_seconds",
        help: LATENESS_HELP,
        of: |s| &s.lateness_us,
        bounds: &LATENESS_S,
        unit: 1e-6,
    },
];

impl Collector for Snapshot {
    fn encode(&self, mut page: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, of) in ENGINE_TOTALS {
            self.totals(&mut page, name, help, |shard| of(&shard.engine))?;
        }
        for (name, help, of) in DRIVER_TOTALS {
            self.totals(&mut page, name, help, |shard| of(&shard.driver))?;
        }
        for (name, help, of) in ENGINE_GAUGES {
            self.gauges(&mut page, name, help, |shard| of(&shard.engine))?;
        }
        for (name, help, of) in DRIVER_GAUGES {
            self.gauges(&mut page, name, help, |shard| of(&shard.driver))?;
        }
        self.gauges(&mut page, "shard_uptime_ms", "Time since the shard started, ms", |shard| {
            shard.uptime_ms
        })?;
        for distribution in DISTRIBUTIONS {
            self.distribution(&mut page, distribution)?;
        }
        self.partitions(&mut page)?;
        self.groups(&mut page)
    }
}

impl Snapshot {
    fn totals(
        &self,
        page: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        of: impl Fn(&ShardStats) -> u64,
    ) -> fmt::Result {
        let mut metric = page.encode_descriptor(name, help, None, MetricType::Counter)?;
        for shard in &self.shards {
            let labels = [("shard", u32::from(shard.shard.0))];
            metric
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, u64>(&of(shard), None)?;
        }
        Ok(())
    }

    fn gauges(
        &self,
        page: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        of: impl Fn(&ShardStats) -> u64,
    ) -> fmt::Result {
        let values = self.shards.iter().map(|s| ([("shard", u32::from(s.shard.0))], of(s)));
        gauges(page, name, help, values)
    }

    fn distribution(&self, page: &mut DescriptorEncoder<'_>, what: &Distribution) -> fmt::Result {
        let kind = MetricType::Histogram;
        let mut metric = page.encode_descriptor(what.name, what.help, None, kind)?;
        for shard in &self.shards {
            let recorded = (what.of)(&shard.engine);
            let (sum, buckets) = buckets(recorded, what.bounds, what.unit);
            let labels = [("shard", u32::from(shard.shard.0))];
            let mut metric = metric.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(sum, recorded.len(), &buckets, None)?;
        }
        Ok(())
    }

    fn partitions(&self, page: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let marks: BTreeMap<u32, u64> = self
            .shards
            .iter()
            .flat_map(|shard| &shard.engine.high_watermarks)
            .map(|(partition, mark)| (u32::from(*partition), *mark))
            .collect();
        let marks = marks.into_iter().map(|(partition, mark)| ([("partition", partition)], mark));
        gauges(page, "wal_high_watermark", "First offset that is not committed yet", marks)?;
        // Named for dashboards: a node that has no followers has no lag to show.
        let none = std::iter::empty::<([(&str, u32); 1], u64)>();
        gauges(page, "replication_lag", "Entries that a follower is behind", none)
    }

    /// A group of several topics is shown as one: the names of these labels are fixed.
    fn groups(&self, page: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut lag = BTreeMap::<(&str, u32), u64>::new();
        let mut members = BTreeMap::<(&str, &str), u64>::new();
        for group in self.shards.iter().flat_map(|shard| &shard.engine.groups) {
            *lag.entry((&group.group, group.partition.into())).or_default() += group.lag;
            // A member joins each of its partitions: the fullest one knows most of them.
            let most = members.entry((&group.group, &group.topic)).or_default();
            *most = (*most).max(group.members);
        }
        let mut by_group = BTreeMap::<&str, u64>::new();
        for ((group, _), count) in members {
            *by_group.entry(group).or_default() += count;
        }
        let lag = lag.into_iter().map(|((group, partition), lag)| {
            ([("group", group.to_owned()), ("partition", partition.to_string())], lag)
        });
        gauges(page, "consumer_group_lag", "Due events that the group has not settled", lag)?;
        let members =
            by_group.into_iter().map(|(group, count)| ([("group", group.to_owned())], count));
        gauges(page, "consumer_group_members", "Open subscriptions of the group", members)
    }
}

fn gauges<L: EncodeLabelSet>(
    page: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut metric = page.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        metric.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

/// Sum and buckets (upper bound, count in it alone) of a distribution, in units of the page.
fn buckets(recorded: &Recorded<u64>, bounds: &[f64], unit: f64) -> (f64, Vec<(f64, u64)>) {
    let mut buckets: Vec<(f64, u64)> = bounds.iter().map(|bound| (*bound, 0)).collect();
    buckets.push((f64::INFINITY, 0));
    let mut sum = 0.0;
    for value in recorded.iter_recorded() {
        let (at, count) = (value.value_iterated_to() as f64 * unit, value.count_at_value());
        sum += at * count as f64;
        let bucket = buckets.iter_mut().find(|(bound, _)| at <= *bound);
        bucket.expect("the last bucket takes all").1 += count;
    }
    (sum, buckets)
}

#[cfg(test)]
#[path = "metrics_test.rs"]
mod metrics_test;
