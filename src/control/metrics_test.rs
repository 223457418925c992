//! Tests of the metrics page.

use super::*;
use crate::base::ids::ShardId;
use crate::control::door::stats_of;
use crate::engine::stats::GroupStats;

fn page() -> String {
    let metrics = Metrics::default();
    metrics.request("Publish", Code::Ok, Some(Duration::from_millis(3)));
    metrics.request("Publish", Code::Ok, Some(Duration::from_millis(3)));
    metrics.request("Publish", Code::ResourceExhausted, Some(Duration::from_millis(3)));
    metrics.request("Ack", Code::Cancelled, None);
    let mut shards = vec![stats_of(0), stats_of(1)];
    assert_eq!(shards[1].shard, ShardId(1));
    let one = &mut shards[1].engine;
    one.published = 7;
    one.refused = 2;
    one.pending = 5;
    one.ready = 4;
    one.in_flight = 3;
    one.commit_latency_us.record(150).expect("in range");
    one.lateness_us.record(1).expect("in range");
    one.lateness_us.record(80_000_000_000).expect("in range");
    one.high_watermarks = vec![(1, 9)];
    let group = |topic: &str, partition, members, lag| GroupStats {
        group: "g\"1\n".into(),
        topic: topic.into(),
        partition,
        members,
        lag,
    };
    one.groups = vec![group("a", 1, 2, 10), group("b", 1, 1, 5), group("a", 3, 2, 0)];
    shards[0].engine.groups = vec![group("a", 0, 1, 1)];
    shards[0].engine.high_watermarks = vec![(0, 4)];
    metrics.page(shards)
}

#[track_caller]
fn has(page: &str, line: &str) {
    assert!(page.lines().any(|l| l == line), "no line {line:?} in\n{page}");
}

#[test]
fn dashboards_find_the_names_they_know() {
    let page = page();
    for (name, kind) in [
        ("cronos_wal_high_watermark", "gauge"),
        ("cronos_wal_append_latency_seconds", "histogram"),
        ("cronos_wal_flush_errors", "counter"),
        ("cronos_dispatch_latency_seconds", "histogram"),
        ("cronos_lateness_seconds", "histogram"),
        ("cronos_scheduler_ready_events", "gauge"),
        ("cronos_scheduler_active_timers", "gauge"),
        ("cronos_scheduler_cold_store_entries", "gauge"),
        ("cronos_consumer_group_lag", "gauge"),
        ("cronos_consumer_group_members", "gauge"),
        ("cronos_api_grpc_requests", "counter"),
        ("cronos_api_grpc_request_duration_seconds", "histogram"),
        ("cronos_replication_lag", "gauge"),
        ("cronos_admission_rejected", "counter"),
    ] {
        has(&page, &format!("# TYPE {name} {kind}"));
    }
    has(&page, "# EOF");
}

#[test]
fn values_come_from_the_shards() {
    let page = page();
    has(&page, "cronos_events_published_total{shard=\"0\"} 0");
    has(&page, "cronos_events_published_total{shard=\"1\"} 7");
    has(&page, "cronos_admission_rejected_total{shard=\"1\"} 2");
    has(&page, "cronos_scheduler_active_timers{shard=\"1\"} 5");
    has(&page, "cronos_scheduler_ready_events{shard=\"1\"} 4");
    has(&page, "cronos_deliveries_in_flight{shard=\"1\"} 3");
    has(&page, "cronos_wal_high_watermark{partition=\"0\"} 4");
    has(&page, "cronos_wal_high_watermark{partition=\"1\"} 9");
}

#[test]
fn distributions_are_cumulative_and_take_all() {
    let page = page();
    has(&page, "cronos_wal_append_latency_seconds_bucket{le=\"0.0001\",shard=\"1\"} 0");
    has(&page, "cronos_wal_append_latency_seconds_bucket{le=\"0.0002\",shard=\"1\"} 1");
    has(&page, "cronos_wal_append_latency_seconds_bucket{le=\"+Inf\",shard=\"1\"} 1");
    has(&page, "cronos_lateness_seconds_bucket{le=\"0.0005\",shard=\"1\"} 1");
    has(&page, "cronos_lateness_seconds_bucket{le=\"3600.0\",shard=\"1\"} 1");
    has(&page, "cronos_lateness_seconds_bucket{le=\"+Inf\",shard=\"1\"} 2");
    has(&page, "cronos_lateness_seconds_count{shard=\"1\"} 2");
}

#[test]
fn a_group_is_one_series_whatever_its_topics() {
    let page = page();
    has(&page, r#"cronos_consumer_group_lag{group="g\"1\n",partition="0"} 1"#);
    has(&page, r#"cronos_consumer_group_lag{group="g\"1\n",partition="1"} 15"#);
    has(&page, r#"cronos_consumer_group_members{group="g\"1\n"} 3"#);
}

#[test]
fn calls_are_counted_by_method_and_status() {
    let page = page();
    has(&page, r#"cronos_api_grpc_requests_total{method="Publish",status="OK"} 2"#);
    has(&page, r#"cronos_api_grpc_requests_total{method="Publish",status="RESOURCE_EXHAUSTED"} 1"#);
    has(&page, r#"cronos_api_grpc_requests_total{method="Ack",status="CANCELLED"} 1"#);
    has(&page, r#"cronos_api_grpc_request_duration_seconds_count{method="Publish"} 3"#);
    assert!(!page.contains(r#"duration_seconds_count{method="Ack"}"#), "a stream has no duration");
}

#[test]
fn the_older_format_names_counters_by_their_sample() {
    let plain = plain_text(&page());
    has(&plain, "# TYPE cronos_events_published_total counter");
    has(&plain, "# HELP cronos_events_published_total Events stored");
    has(&plain, "# TYPE cronos_wal_high_watermark gauge");
    has(&plain, "cronos_events_published_total{shard=\"1\"} 7");
    assert!(!plain.contains("# EOF"));
    for (at, line) in plain.lines().enumerate() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let name = kind.split(' ').next().expect("a name");
            let before = plain.lines().nth(at - 1).expect("its help");
            assert!(before.starts_with(&format!("# HELP {name} ")), "{before} before {line}");
        }
    }
}
