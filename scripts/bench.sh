#!/usr/bin/env bash
# The figures of the README's targets, on this machine, with its limits of the same minute. Starts
# servers on fresh directories and loads them; the last line of a run is its JSON. Quote ratios:
# other load shows. Memory is taken before anything is measured (--reserve-memory): what a virtual
# machine's host needs to find it is a limit of the machine, the last of `limits`.
#   scripts/bench.sh [RUNS [PART...]]      5 runs of all parts: more than half an hour
#   scripts/bench.sh 1 publish idle        some parts: limits publish half life replay cliff
#                                          timeline scaling idle pending
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-5}
[ $# -gt 0 ] && shift
parts=${*:-limits publish half life replay cliff timeline scaling idle pending}
cargo build --release --workspace --quiet
bench=target/release/chronosdb-bench
data=$(mktemp -d "$PWD/target/bench-XXXXXX")
memory=2GiB
server=
stop() {
    [ -z "$server" ] || { kill "$server" && wait "$server"; } 2> /dev/null || true
    server=
    rm -rf "$data/d"
}
trap 'stop; rm -rf "$data"' EXIT

# Starts a server: `cores` are those that it may use.
start() { # OPTION...
    stop
    taskset -c "${cores:-0-$(($(nproc) - 1))}" target/release/chronosdb serve \
        --data-dir "$data/d" --reserve-memory "$memory" "$@" > "$data/log" 2>&1 &
    server=$!
    until curl -sf http://127.0.0.1:8080/health/ready > /dev/null; do
        kill -0 "$server" || { cat "$data/log" && exit 1; }
        sleep 0.1
    done
}

measure() { # COMMAND...
    echo "== chronosdb-bench $*"
    for ((run = 0; run < runs; run++)); do
        $prefix "$bench" "$@" --json 2> /dev/null | tail -1
    done
}
prefix=

# With a server of its own each.
alone() { # COMMAND...
    stop
    measure "$@" --option=--reserve-memory=$memory --data-dir "$data/d"
}

metric() { curl -sf http://127.0.0.1:8080/metrics | awk -v name="$1" \
    'index($0, name "{") == 1 || index($0, name " ") == 1 { sum += $NF } END { print sum + 0 }'; }

idle() { # WHAT
    local ticks turns
    ticks=$(awk '{print $14 + $15}' "/proc/$server/stat") turns=$(metric cronos_shard_turns_total)
    sleep 20
    ticks=$(($(awk '{print $14 + $15}' "/proc/$server/stat") - ticks))
    turns=$(($(metric cronos_shard_turns_total) - turns))
    echo "$1: $ticks of 2000 hundredths of a second, $((turns / 20)) turns/s of all shards"
}

part_limits() { "$bench" limits --json 2> /dev/null | tail -1; }

part_publish() {
    start
    measure publish --batch 1000 --connections 4 --in-flight 4 --duration 5s
    measure publish --batch 1000 --connections 1 --in-flight 4 --duration 5s --partition-key fixed
    start
    local commits
    commits=$(metric cronos_commits_total)
    measure publish --batch 1 --connections 64 --in-flight 8 --duration 5s
    echo "commits: $(($(metric cronos_commits_total) - commits))"
    measure publish --batch 1 --connections 1 --in-flight 1 --duration 5s --partition-key near
    measure publish --batch 1 --connections 1 --in-flight 1 --duration 5s
    measure publish --transport grpc --batch 1000 --connections 4 --in-flight 4 --duration 5s
    measure publish --transport grpc --batch 1 --connections 64 --in-flight 1 --duration 5s
}

# One shard on one core, the load on another; then both on all.
part_half() {
    cores=0 start --shards 1 --partitions 4
    prefix="taskset -c 1"
    measure publish --batch 1 --connections 16 --in-flight 8 --duration 5s
    measure latency --rate 20000 --connections 1 --duration 8s
    measure latency --rate 30000 --connections 16 --duration 8s
    measure latency --rate 150000 --batch 100 --connections 4 --duration 8s
    prefix=
    start
    measure latency --rate 30000 --connections 16 --duration 8s
}

part_life() {
    start
    for rate in 300000 200000 100000; do
        echo "== chronosdb-bench deliver --rate $rate --duration 60s"
        "$bench" deliver --rate "$rate" --duration 60s --json 2> /dev/null | tail -1
    done
    alone late --count 2000000
}

part_replay() {
    stop
    echo "== chronosdb-bench replay: a median of $runs"
    "$bench" replay --rounds "$runs" --data-dir "$data/d" --json | tail -1
}

part_cliff() { alone cliff; }

# Once each: they look at many points of one run.
part_timeline() {
    stop
    "$bench" timeline --rate 100000 --pending 10000000 --svg "$data/timeline.svg" --json \
        --option=--segment-size=32MiB --option=--flush-size=8MiB \
        --option=--reserve-memory=$memory --data-dir "$data/d" | grep -v '^{'
}

part_scaling() {
    stop
    "$bench" scaling --option=--reserve-memory=$memory --data-dir "$data/d"
}

part_idle() {
    start
    sleep 5
    idle "nothing pending"
    start
    "$bench" publish --count 10000000 --delay 1h --spread 1h --json 2> /dev/null | tail -1
    # What was published before is carried into runs for a while: not idle yet.
    carried() { echo "$(metric cronos_job_read_bytes) $(metric cronos_run_written_bytes)"; }
    until moved=$(carried) && sleep 3 && [ "$moved" = "$(carried)" ]; do :; done
    idle "ten million pending"
}

part_pending() {
    stop
    echo "== ten million pending: memory, disk, and a start after kill -9"
    "$bench" pending --count 10000000 --data-dir "$data/d" --json 2> /dev/null | tail -1
}

for part in $parts; do
    declare -F "part_$part" > /dev/null || { sed -n '2,8s/^# //p' "$0" && exit 2; }
    echo "==== $part"
    "part_$part"
done
