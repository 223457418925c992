//! Command lines of older servers and tools: `-node-id=x`, flags that mean nothing here.
//!
//! Works on the argument list before the parser sees it: one dash becomes two, old names become
//! ours, and what has no counterpart is taken out with a warning that says what happens instead.

use std::ffi::OsString;

use clap::CommandFactory;

use super::Cli;

/// An argument list that the parser understands, and what to tell the user.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// The arguments, program name first.
    pub args: Vec<OsString>,
    /// One sentence each.
    pub warnings: Vec<String>,
}

/// A flag that older servers had.
struct Old {
    name: &'static str,
    /// Whether a value follows it.
    takes_value: bool,
    becomes: Becomes,
}

enum Becomes {
    /// Another name here.
    Flag(&'static str),
    /// Nothing; this is what holds instead.
    Nothing(&'static str),
}

const CLUSTER: &str = "this server is a single node that leads all of its partitions";

const OLD: &[Old] = &[
    old("partition-count", true, Becomes::Flag("partitions")),
    old("dev", false, Becomes::Nothing("the defaults are already those of a single node")),
    old("cluster", false, Becomes::Nothing(CLUSTER)),
    old("replication-factor", true, Becomes::Nothing(CLUSTER)),
    old("replication-batch", true, Becomes::Nothing(CLUSTER)),
    old("replication-timeout", true, Becomes::Nothing(CLUSTER)),
    old("raft-dir", true, Becomes::Nothing("the log in --data-dir holds everything")),
    old("raft-join", true, Becomes::Nothing(CLUSTER)),
    old("virtual-nodes", true, Becomes::Nothing("partitions are assigned by a table, not a ring")),
    old("heartbeat-interval", true, Becomes::Nothing(CLUSTER)),
    old("failure-timeout", true, Becomes::Nothing(CLUSTER)),
    old("suspect-timeout", true, Becomes::Nothing(CLUSTER)),
    old("gossip-port", true, Becomes::Nothing(CLUSTER)),
    old("delivery-poll-ms", true, Becomes::Nothing("delivery is driven by events, not by polling")),
    old("bloom-capacity", true, Becomes::Nothing("recognising duplicates is exact")),
    old(
        "checkpoint-interval",
        true,
        Becomes::Nothing("every answered change is durable without checkpoints"),
    ),
    old("stats-print-interval", true, Becomes::Nothing("GET /metrics has the figures")),
];

const fn old(name: &'static str, takes_value: bool, becomes: Becomes) -> Old {
    Old { name, takes_value, becomes }
}

/// Rewrites a command line of the server. Other commands pass unchanged.
#[must_use]
pub fn rewrite(args: impl IntoIterator<Item = OsString>) -> Rewritten {
    let mut args = args.into_iter();
    let mut out = Rewritten { args: args.next().into_iter().collect(), warnings: Vec::new() };
    let mut rest: Vec<OsString> = args.collect();
    let known = serve_flags();
    match rest.first().and_then(|arg| arg.to_str()) {
        Some("serve") => out.args.push(rest.remove(0)),
        // Old servers had no commands: flags alone start one.
        Some(first) if is_server_flag(first, &known) => out.args.push("serve".into()),
        _ => {
            out.args.append(&mut rest);
            return out;
        }
    }
    let mut rest = rest.into_iter().peekable();
    while let Some(arg) = rest.next() {
        let Some((name, value)) = arg.to_str().and_then(flag) else {
            out.args.push(arg);
            continue;
        };
        if known.iter().any(|known| known == name) {
            out.args.push(joined(name, value));
            // Its value may begin with a dash.
            continue;
        }
        let found = OLD.iter().find(|old| old.name == name);
        let (takes_value, becomes) = match found {
            Some(old) => (old.takes_value, &old.becomes),
            None if name.starts_with("cluster-") => (true, &Becomes::Nothing(CLUSTER)),
            None => {
                out.args.push(arg);
                continue;
            }
        };
        match becomes {
            Becomes::Flag(ours) => {
                out.args.push(joined(ours, value));
                out.warnings.push(format!("-{name} is called --{ours} here"));
            }
            Becomes::Nothing(instead) => {
                let next = rest.peek().and_then(|next| next.to_str());
                if takes_value && value.is_none() && next.is_some_and(|n| !n.starts_with('-')) {
                    rest.next();
                }
                out.warnings.push(format!("-{name} has no effect: {instead}"));
            }
        }
    }
    out
}

/// The name and value of `-name`, `--name`, `-name=value` or `--name=value`.
fn flag(arg: &str) -> Option<(&str, Option<&str>)> {
    let name = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?;
    let (name, value) = match name.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (name, None),
    };
    // `-h` and `-V` are the parser's.
    (name.len() > 1 && name.starts_with(|c: char| c.is_ascii_lowercase())).then_some((name, value))
}

fn joined(name: &str, value: Option<&str>) -> OsString {
    match value {
        Some(value) => format!("--{name}={value}").into(),
        None => format!("--{name}").into(),
    }
}

fn is_server_flag(arg: &str, known: &[String]) -> bool {
    flag(arg).is_some_and(|(name, _)| {
        known.iter().any(|known| known == name)
            || OLD.iter().any(|old| old.name == name)
            || name.starts_with("cluster-")
    })
}

/// Long names of the flags of `serve`.
fn serve_flags() -> Vec<String> {
    let command = Cli::command();
    let serve = command.find_subcommand("serve").expect("serve is a command");
    serve.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(line: &str) -> (String, usize) {
        let out = rewrite(line.split(' ').map(OsString::from));
        let args: Vec<_> = out.args.iter().map(|arg| arg.to_str().expect("as given")).collect();
        (args.join(" "), out.warnings.len())
    }

    #[test]
    fn one_dash_becomes_two() {
        let (line, warnings) = rewritten("chronosdb serve -node-id=x -data-dir /d --tick-ms 1");
        assert_eq!(line, "chronosdb serve --node-id=x --data-dir /d --tick-ms 1");
        assert_eq!(warnings, 0);
    }

    #[test]
    fn flags_alone_start_a_server() {
        assert_eq!(rewritten("cronos -node-id=x").0, "cronos serve --node-id=x");
        assert_eq!(rewritten("cronos -dev").0, "cronos serve");
        assert_eq!(rewritten("cronos --help").0, "cronos --help");
        assert_eq!(rewritten("cronos -V").0, "cronos -V");
    }

    #[test]
    fn old_flags_go_with_a_warning() {
        let (line, warnings) = rewritten(
            "c serve -dev -cluster=true -cluster-seeds a:1,b:2 -cluster-gossip-addr=:7946 \
             -replication-factor 3 -virtual-nodes=150 -partition-count=8 -raft-dir ./raft",
        );
        assert_eq!(line, "c serve --partitions=8");
        assert_eq!(warnings, 8);
    }

    #[test]
    fn a_flag_is_not_eaten_as_a_value() {
        let (line, _) = rewritten("c serve -replication-factor -node-id x");
        assert_eq!(line, "c serve --node-id x");
    }

    #[test]
    fn other_commands_and_unknown_flags_pass() {
        assert_eq!(rewritten("c publish -dev --x").0, "c publish -dev --x");
        assert_eq!(rewritten("c serve -what --nope=1 -h").0, "c serve -what --nope=1 -h");
        assert_eq!(rewritten("c").0, "c");
    }

    #[test]
    fn every_old_flag_is_none_of_ours() {
        let known = serve_flags();
        for old in OLD {
            assert!(!known.iter().any(|name| name == old.name), "{}", old.name);
        }
    }
}
