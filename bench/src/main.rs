//! `chronosdb-bench`: load on a running server, measured from outside.
//!
//! Everything it counts was confirmed by the server: a publish is durable, an ack is durable. The
//! load path is cheap on purpose (events are copied from a template), because the generator shares
//! its cores with the server it measures.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod acks;
mod args;
mod chart;
mod cliff;
mod deliver;
mod group;
mod late;
mod latency;
mod limits;
mod metrics;
mod node;
mod open;
mod pacer;
mod peers;
mod pending;
mod publish;
mod received;
mod recorder;
mod replay;
mod scaling;
mod target;
mod template;
mod timeline;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Load generator of ChronosDB
#[derive(Debug, Parser)]
#[command(name = "chronosdb-bench", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Durable publishes as fast as they are confirmed; latencies are those of whole requests
    #[command(after_help = publish::EXAMPLES)]
    Publish(args::Load),
    /// Publish -> due -> deliver -> ack, all confirmed; latencies are from due to ack confirmed,
    /// lateness from due to received
    #[command(after_help = deliver::EXAMPLES)]
    Deliver(deliver::DeliverArgs),
    /// Publishes at a fixed rate, each measured from the instant at which it was to be sent
    #[command(after_help = latency::EXAMPLES)]
    Latency(latency::LatencyArgs),
    /// What pending events cost in memory and on disk, and how soon a killed server fires again;
    /// starts a server of its own
    #[command(after_help = pending::EXAMPLES)]
    Pending(pending::PendingArgs),
    /// What a group reads that comes when all has fired: how fast, and at what cost in memory;
    /// starts a server of its own
    #[command(after_help = late::EXAMPLES)]
    Late(late::LateArgs),
    /// How fast the history of one partition is read from the disk; starts a server of its own
    #[command(after_help = replay::EXAMPLES)]
    Replay(replay::ReplayArgs),
    /// Very many events of one topic due in the same millisecond, and what another topic feels of
    /// it; starts a server of its own
    #[command(after_help = cliff::EXAMPLES)]
    Cliff(cliff::CliffArgs),
    /// How soon a server with a large log serves again, after SIGTERM and after kill -9; starts a
    /// server of its own
    #[command(after_help = open::EXAMPLES)]
    Open(open::OpenArgs),
    /// What this machine can do at most, this minute: disk, loopback, prost, gRPC; needs no server
    #[command(after_help = limits::EXAMPLES)]
    Limits(limits::LimitsArgs),
    /// The same load on ChronosDB and on what people use in its place; scripts/peers.sh runs all
    #[command(after_help = peers::EXAMPLES)]
    Peer(peers::PeerArgs),
    /// The table of what `peer --results` measured
    PeerTable(peers::TableArgs),
    /// Lateness second by second, with what the server did beside it, as a chart; starts a server
    /// of its own
    #[command(after_help = timeline::EXAMPLES)]
    Timeline(timeline::TimelineArgs),
    /// What an event costs when there is more of something: pending events, partitions, topics,
    /// connections, shards; starts servers of its own
    #[command(after_help = scaling::EXAMPLES)]
    Scaling(scaling::ScalingArgs),
    /// A chart of what other commands printed with --json
    #[command(after_help = chart::EXAMPLES)]
    Chart(chart::ChartArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let threads = match &cli.command {
        Command::Publish(load) => load.threads,
        Command::Deliver(args) => args.load.threads,
        Command::Latency(args) => args.load.threads,
        _ => 1,
    };
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = match builder.worker_threads(usize::from(threads)).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("chronosdb-bench: no async runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Publish(load) => publish::run(load).await,
            Command::Deliver(args) => deliver::run(args).await,
            Command::Latency(args) => latency::run(args).await,
            Command::Pending(args) => pending::run(args).await,
            Command::Late(args) => late::run(args).await,
            Command::Replay(args) => replay::run(args).await,
            Command::Cliff(args) => cliff::run(args).await,
            Command::Open(args) => open::run(args).await,
            Command::Limits(args) => limits::run(args).await,
            Command::Peer(args) => peers::run(args).await,
            Command::PeerTable(args) => peers::print_table(&args),
            Command::Timeline(args) => timeline::run(args).await,
            Command::Scaling(args) => scaling::run(args).await,
            Command::Chart(args) => chart::run(args),
        }
    });
    match done {
        // The figures are out; errors among the requests are told by the exit code too.
        Ok(0) => ExitCode::SUCCESS,
        Ok(errors) => {
            eprintln!("chronosdb-bench: {errors} errors");
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("chronosdb-bench: {why}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_parses_without_options() {
        let alone = ["publish", "deliver", "latency", "pending", "late", "cliff", "open"];
        for command in alone.into_iter().chain(["limits", "timeline", "scaling"]) {
            let parsed = Cli::try_parse_from(["chronosdb-bench", command]);
            assert!(parsed.is_ok(), "{command}: {parsed:?}");
        }
    }
}
