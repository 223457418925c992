//! Tests of the server's flags.

use clap::Parser;

use super::*;

/// The parser of `serve` alone.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct Serve {
    #[command(flatten)]
    args: ServeArgs,
}

fn parsed(line: &[&str]) -> ServeArgs {
    Serve::try_parse_from(line).unwrap_or_else(|e| panic!("{e}")).args
}

/// Every flag but `--config`.
const ALL: [&str; 35] = [
    "--node-id=n1",
    "--data-dir=/d",
    "--grpc-addr=:1",
    "--http-addr=:2",
    "--native-addr=:3",
    "--insecure",
    "--reflection=off",
    "--max-connections=100",
    "--max-connections-per-ip=10",
    "--max-accepts-per-second=5",
    "--shards=2",
    "--partitions=8",
    "--segment-size=64MiB",
    "--index-interval=4KiB",
    "--fsync-mode=every_event",
    "--flush-interval=250",
    "--allow-buffered-io=false",
    "--disk-reserve=32MiB",
    "--dedup-ttl=24",
    "--retention-max-age-hours=1",
    "--retention-max-size-gb=2",
    "--group-expiry=10m",
    "--dead-letter-retention=48",
    "--tick-ms=5",
    "--wheel-size=60",
    "--wheel-memory=1GiB",
    "--reserve-memory=2GiB",
    "--horizon=10m",
    "--flush-size=8MiB",
    "--ack-timeout=10s",
    "--max-retries=3",
    "--retry-backoff=2s",
    "--max-credits=7",
    "--log-format=json",
    "--log-level=debug",
];

#[test]
fn every_flag_is_read() {
    let args = parsed(&ALL);
    let expected = ServeArgs {
        config: None,
        node_id: Some("n1".into()),
        data_dir: Some("/d".into()),
        grpc_addr: Some(":1".into()),
        http_addr: Some(":2".into()),
        native_addr: Some(":3".into()),
        insecure: Some(Switch(true)),
        reflection: Some(Switch(false)),
        max_connections: Some(100),
        max_connections_per_ip: Some(10),
        max_accepts_per_second: Some(5),
        shards: Some(2),
        partitions: Some(8),
        segment_size: Some(Size(64 << 20)),
        index_interval: Some(Size(4096)),
        fsync_mode: Some(FsyncArg::EveryEvent),
        flush_interval: Some(Lasting(250)),
        allow_buffered_io: Some(Switch(false)),
        disk_reserve: Some(Size(32 << 20)),
        dedup_ttl: Some(Lasting(24 * HOUR_MS)),
        retention_max_age_hours: Some(1),
        retention_max_size_gb: Some(2),
        group_expiry: Some(Lasting(600_000)),
        dead_letter_retention: Some(Lasting(48 * HOUR_MS)),
        tick_ms: Some(5),
        wheel_size: Some(60),
        wheel_memory: Some(Size(1 << 30)),
        reserve_memory: Some(Size(2 << 30)),
        horizon: Some(Lasting(600_000)),
        flush_size: Some(Size(8 << 20)),
        ack_timeout: Some(Lasting(10_000)),
        max_retries: Some(3),
        retry_backoff: Some(Lasting(2_000)),
        max_credits: Some(7),
        log_format: Some(LogFormat::Json),
        log_level: Some("debug".into()),
    };
    assert_eq!(args, expected);
}

#[test]
fn a_bad_value_names_its_flag() {
    for line in [
        "--segment-size=1XB",
        "--ack-timeout=30",
        "--dedup-ttl=x",
        "--fsync-mode=never",
        "--reflection=maybe",
        "--shards=-1",
        "--partitions=70000",
        "--log-format=xml",
    ] {
        let error = Serve::try_parse_from([line]).err().expect(line).to_string();
        let flag = line.split('=').next().expect("a name");
        assert!(error.contains(flag), "{error}");
    }
}

#[test]
fn every_flag_has_its_variable() {
    use clap::CommandFactory;
    for arg in Serve::command().get_arguments().filter(|arg| arg.get_id() != "help") {
        let name = arg.get_long().expect("all are long");
        let variable = format!("CHRONOS_{}", name.replace('-', "_").to_uppercase());
        assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(variable.as_str()));
    }
}

#[test]
fn every_flag_can_stand_in_the_file() {
    use clap::CommandFactory;
    for arg in Serve::command().get_arguments() {
        let name = arg.get_long().expect("all are long");
        if ["config", "help"].contains(&name) {
            continue;
        }
        // A value of no type: known options say what they want, unknown ones are unknown.
        let why = ServeArgs::parse_file(&format!("{name} = []")).expect_err(name);
        assert!(why.contains(name) && !why.contains("no option"), "{why}");
    }
}

#[test]
fn the_file_takes_what_flags_take() {
    let file = "
        node_id = 'n'
        segment-size = 67108864
        ack_timeout = '30s'
        dedup-ttl = 168
        fsync-mode = 'every_event'
        reflection = false
        shards = 2
        log-format = 'json'
    ";
    let args = ServeArgs::parse_file(file).expect("valid");
    assert_eq!(args.node_id.as_deref(), Some("n"));
    assert_eq!(args.segment_size, Some(Size(64 << 20)));
    assert_eq!(args.ack_timeout, Some(Lasting(30_000)));
    assert_eq!(args.dedup_ttl, Some(Lasting(168 * HOUR_MS)));
    assert_eq!(args.fsync_mode, Some(FsyncArg::EveryEvent));
    assert_eq!(args.reflection, Some(Switch(false)));
    assert_eq!(args.shards, Some(2));
    assert_eq!(args.log_format, Some(LogFormat::Json));
}

#[test]
fn the_file_is_refused_by_option() {
    for (text, named) in [
        ("colour = 1", "`colour`"),
        ("shards = 'two'", "`shards`"),
        ("shards = -1", "`shards`"),
        ("ack-timeout = 30", "`ack-timeout`"),
        ("node-id = 'a'\nnode_id = 'b'", "given twice"),
        ("config = 'x'", "`config`"),
    ] {
        let why = ServeArgs::parse_file(text).expect_err(text);
        assert!(why.contains(named) && !why.contains('\n'), "{text}: {why}");
    }
    assert!(ServeArgs::parse_file("= 1").is_err());
}

#[test]
fn the_upper_layer_wins() {
    let over = ServeArgs { shards: Some(1), ..ServeArgs::default() };
    let under = ServeArgs { shards: Some(2), tick_ms: Some(3), ..ServeArgs::default() };
    let both = over.or(under);
    assert_eq!((both.shards, both.tick_ms), (Some(1), Some(3)));
}
