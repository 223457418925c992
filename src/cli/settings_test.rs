//! Tests of the layers of settings: flag, environment, file, default.

use std::time::Duration;

use super::*;
use crate::cli::values::Switch;

fn checked(args: &ServeArgs) -> NodeConfig {
    Settings::check(args).expect("valid").node
}

fn refused(args: &ServeArgs, flag: &str) {
    let why = Settings::check(args).expect_err(flag);
    assert!(why.contains(flag), "{why:?} does not name {flag}");
    assert!(!why.contains('\n') && !why.ends_with('.'), "{why:?} is not one sentence");
}

#[test]
fn nothing_given_is_an_embedded_node() {
    let settings = Settings::check(&ServeArgs::default()).expect("valid");
    let node = settings.node;
    assert_eq!(node.grpc_addr.to_string(), "127.0.0.1:9000");
    assert_eq!(node.http_addr.to_string(), "127.0.0.1:8080");
    assert_eq!(node.native_addr.to_string(), "127.0.0.1:7700");
    assert_eq!(node.data_dir.to_str(), Some("./data"));
    assert!(!node.node_id.is_empty() && node.reflection && !node.allow_buffered_io);
    let shards = node.engine.shards;
    assert!(shards >= 1 && shards <= node.engine.partitions);
    assert_eq!(node.engine, EngineConfig { shards, ..EngineConfig::default() });
    assert_eq!(node.connections, ConnectionLimits::default());
    assert_eq!(settings.warnings, Vec::<String>::new());
    assert_eq!(settings.log_level, "info");
}

/// Sets one field, and gives the flag's name for the error.
macro_rules! limits_of {
    ($flag:literal, $field:ident, low $low:expr, high $high:expr, out $($out:expr),+) => {
        checked(&ServeArgs { $field: Some($low), ..ServeArgs::default() });
        checked(&ServeArgs { $field: Some($high), ..ServeArgs::default() });
        $(refused(&ServeArgs { $field: Some($out), ..ServeArgs::default() }, $flag);)+
    };
}

#[test]
fn every_number_is_taken_at_its_limits_and_refused_beyond() {
    let hour = 3_600_000;
    limits_of!("--partitions", partitions, low 1, high 4_096, out 0, 4_097);
    limits_of!("--shards", shards, low 1, high 256, out 0, 257);
    limits_of!("--segment-size", segment_size, low Size(32 << 20), high Size(16 << 30),
        out Size((32 << 20) - 1), Size((16 << 30) + 1), Size(0));
    limits_of!("--index-interval", index_interval, low Size(512), high Size(64 << 20),
        out Size(511), Size((64 << 20) + 1));
    limits_of!("--flush-interval", flush_interval, low Lasting(1), high Lasting(60_000),
        out Lasting(0), Lasting(60_001));
    limits_of!("--tick-ms", tick_ms, low 1, high 1_000, out 0, 1_001);
    limits_of!("--ack-timeout", ack_timeout, low Lasting(1), high Lasting(24 * hour),
        out Lasting(0), Lasting(24 * hour + 1));
    limits_of!("--max-retries", max_retries, low 0, high 1_000, out 1_001);
    limits_of!("--retry-backoff", retry_backoff, low Lasting(1), high Lasting(24 * hour),
        out Lasting(0), Lasting(24 * hour + 1));
    limits_of!("--max-connections", max_connections, low 1, high 10_000, out 0, 10_001);
    limits_of!("--max-connections-per-ip", max_connections_per_ip, low 0, high 10_000, out 10_001);
    limits_of!("--max-accepts-per-second", max_accepts_per_second, low 0, high 10_000, out 10_001);
    limits_of!("--max-credits", max_credits, low 1, high 50_000, out 0, 50_001);
    limits_of!("--dedup-ttl", dedup_ttl, low Lasting(1_000), high Lasting(3_660 * 24 * hour),
        out Lasting(999), Lasting(3_660 * 24 * hour + 1));
    limits_of!("--retention-max-age-hours", retention_max_age_hours, low 0, high 87_840,
        out 87_841);
    limits_of!("--group-expiry", group_expiry, low Lasting(0), high Lasting(3_660 * 24 * hour),
        out Lasting(3_660 * 24 * hour + 1));
    limits_of!("--dead-letter-retention", dead_letter_retention, low Lasting(0),
        high Lasting(3_660 * 24 * hour), out Lasting(3_660 * 24 * hour + 1));
    limits_of!("--retention-max-size-gb", retention_max_size_gb, low 1, high 1 << 20,
        out (1 << 20) + 1);
    limits_of!("--wheel-memory", wheel_memory, low Size(16 << 20), high Size(1 << 44),
        out Size((16 << 20) - 1), Size((1 << 44) + 1));
    limits_of!("--reserve-memory", reserve_memory, low Size(0), high Size(1 << 44),
        out Size((1 << 44) + 1));
    limits_of!("--horizon", horizon, low Lasting(100), high Lasting(24 * hour),
        out Lasting(99), Lasting(24 * hour + 1));
    limits_of!("--disk-reserve", disk_reserve, low Size(1 << 20), high Size(1 << 40),
        out Size((1 << 20) - 1), Size((1 << 40) + 1));
    limits_of!("--flush-size", flush_size, low Size(1 << 20), high Size(1 << 30),
        out Size((1 << 20) - 1), Size((1 << 30) + 1));
}

#[test]
fn names() {
    limits_of!("--node-id", node_id, low "n".into(), high "n".repeat(255),
        out String::new(), "n".repeat(256), "a b".into(), "a\nb".into());
    refused(&ServeArgs { data_dir: Some("".into()), ..ServeArgs::default() }, "--data-dir");
}

#[test]
fn values_reach_the_engine() {
    let args = ServeArgs {
        partitions: Some(8),
        shards: Some(1),
        segment_size: Some(Size((32 << 20) + 1)),
        ack_timeout: Some(Lasting(5_000)),
        retry_backoff: Some(Lasting(600_000)),
        dedup_ttl: Some(Lasting(7_200_000)),
        wheel_memory: Some(Size(64 << 20)),
        reserve_memory: Some(Size(1 << 30)),
        fsync_mode: Some(FsyncArg::Periodic),
        flush_interval: Some(Lasting(250)),
        ..ServeArgs::default()
    };
    let settings = Settings::check(&args).expect("valid");
    let engine = settings.node.engine;
    assert_eq!((engine.partitions, engine.shards), (8, 1));
    assert_eq!(engine.segment_bytes, (32 << 20) + 4096);
    assert_eq!(engine.ack_timeout_ms, 5_000);
    assert_eq!(engine.retry_backoff_max_ms, 600_000, "never below the first backoff");
    assert_eq!(engine.dedup_ttl_ms, 7_200_000);
    assert_eq!(engine.cache_bytes, 64 << 20);
    assert_eq!(settings.reserve_bytes, 1 << 30);
    assert_eq!(engine.fsync, FsyncMode::Periodic { interval_ms: 250 });
    assert!(settings.warnings.iter().any(|w| w.contains("250 ms of acknowledged events")));
    assert!(settings.warnings.iter().any(|w| w.contains("--segment-size is rounded up")));
}

#[test]
fn what_has_no_effect_is_said() {
    let args = ServeArgs {
        wheel_size: Some(60),
        partitions: Some(2),
        shards: Some(3),
        ..ServeArgs::default()
    };
    let warnings = Settings::check(&args).expect("valid").warnings;
    for flag in ["--wheel-size", "--shards 3"] {
        assert!(warnings.iter().any(|w| w.contains(flag)), "{flag}: {warnings:?}");
    }
}

#[test]
fn a_size_for_logs_is_shared_by_partitions_and_fits_their_segments() {
    let args = |gb, partitions| ServeArgs {
        retention_max_size_gb: Some(gb),
        retention_max_age_hours: Some(0),
        partitions: Some(partitions),
        ..ServeArgs::default()
    };
    let engine = checked(&args(8, 16)).engine;
    assert_eq!((engine.retention_ms, engine.retention_bytes), (0, 512 << 20));
    assert_eq!(engine.segment_bytes, 128 << 20);
    assert_eq!(checked(&args(1, 16)).engine.segment_bytes, 32 << 20);
    assert_eq!(checked(&args(0, 16)).engine.retention_bytes, 0);
    refused(&args(1, 17), "--retention-max-size-gb 1");
}

#[test]
fn other_machines_only_when_the_operator_says_so() {
    for addr in [":9000", "0.0.0.0:9000", "[::]:9000", "192.0.2.1:9000"] {
        let mut args = ServeArgs { grpc_addr: Some(addr.into()), ..ServeArgs::default() };
        refused(&args, "--insecure");
        refused(&args, "--grpc-addr");
        args.insecure = Some(Switch(true));
        assert_eq!(checked(&args).grpc_addr.port(), 9000);
    }
    for addr in ["localhost:9000", "127.0.0.2:9000", "[::1]:9000"] {
        let args = ServeArgs { grpc_addr: Some(addr.into()), ..ServeArgs::default() };
        assert!(checked(&args).grpc_addr.ip().is_loopback());
    }
    let http = ServeArgs { http_addr: Some(":8080".into()), ..ServeArgs::default() };
    refused(&http, "--http-addr");
    let native = ServeArgs { native_addr: Some(":7700".into()), ..ServeArgs::default() };
    refused(&native, "--native-addr");
}

#[test]
fn addresses_are_checked() {
    for addr in ["", "9000", "localhost", "localhost:", "localhost:99999", "[::1]"] {
        let args = ServeArgs { grpc_addr: Some(addr.into()), ..ServeArgs::default() };
        refused(&args, "--grpc-addr");
    }
    let any = ServeArgs {
        grpc_addr: Some("127.0.0.1:0".into()),
        http_addr: Some("127.0.0.1:0".into()),
        native_addr: Some("127.0.0.1:0".into()),
        ..ServeArgs::default()
    };
    assert_eq!(checked(&any).native_addr.port(), 0, "any free port may be asked for thrice");
}

#[test]
fn listeners_do_not_collide() {
    let with = |grpc: &str, http: &str, native: &str| ServeArgs {
        grpc_addr: Some(grpc.into()),
        http_addr: Some(http.into()),
        native_addr: Some(native.into()),
        shards: Some(2),
        insecure: Some(Switch(true)),
        ..ServeArgs::default()
    };
    refused(&with("127.0.0.1:9000", "127.0.0.1:9000", "127.0.0.1:7700"), "--http-addr");
    refused(&with(":9000", "127.0.0.1:9000", "127.0.0.1:7700"), "--http-addr");
    refused(&with("127.0.0.1:7702", "127.0.0.1:8080", "127.0.0.1:7700"), "--grpc-addr");
    refused(&with("127.0.0.1:9000", "127.0.0.1:7700", "127.0.0.1:7700"), "--http-addr");
    checked(&with("127.0.0.1:7703", "127.0.0.1:8080", "127.0.0.1:7700"));
    checked(&with("127.0.0.1:7701", "127.0.0.1:8080", "127.0.0.2:7700"));
    checked(&with("127.0.0.1:9000", "127.0.0.1:8080", "127.0.0.1:65533"));
    refused(&with("127.0.0.1:9000", "127.0.0.1:8080", "127.0.0.1:65534"), "--native-addr");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let args = ServeArgs { config: Some("/nonexistent/c.toml".into()), ..ServeArgs::default() };
    let why = Settings::read(args).expect_err("no file");
    assert!(why.contains("--config") && why.contains("/nonexistent/c.toml"), "{why}");
}

#[test]
fn the_file_fills_what_flags_leave_open() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("c.toml");
    std::fs::write(&path, "partitions = 4\nack-timeout = \"7s\"\nnode-id = \"file\"\n")
        .expect("written");
    let args =
        ServeArgs { config: Some(path), node_id: Some("flag".into()), ..ServeArgs::default() };
    let node = Settings::read(args).expect("valid").node;
    assert_eq!(node.node_id, "flag");
    assert_eq!(node.engine.partitions, 4);
    assert_eq!(Duration::from_millis(node.engine.ack_timeout_ms), Duration::from_secs(7));
}
