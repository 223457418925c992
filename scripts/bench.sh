#!/usr/bin/env bash
# The figures of the README's targets, on this machine: starts a server on a fresh directory and
# loads it. Five runs each; the last line of a run is its JSON. Quote ratios: other load shows.
# Memory is taken before anything is measured: what a virtual machine's host needs to find it is a
# limit of the machine (the last line of scripts/limits.sh).
#   scripts/bench.sh [RUNS]
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-5}
cargo build --release --workspace --quiet
data=$(mktemp -d "$PWD/target/bench-XXXXXX")
target/release/chronosdb serve --data-dir "$data" --reserve-memory 2GiB > "$data.log" 2>&1 &
server=$!
trap 'kill "$server"; wait "$server" || true; rm -rf "$data"' EXIT
until curl -sf http://127.0.0.1:8080/health/ready > /dev/null; do
    kill -0 "$server" || { cat "$data.log"; exit 1; }
done

measure() {
    echo "== chronosdb-bench $*"
    for ((run = 0; run < runs; run++)); do
        target/release/chronosdb-bench "$@" --json 2> /dev/null | tail -1
    done
}

measure publish --batch 1000 --connections 4 --in-flight 4 --duration 5s
measure publish --batch 1 --connections 64 --in-flight 8 --duration 5s
measure publish --batch 1 --connections 1 --in-flight 1 --duration 5s
measure deliver --rate 150000 --duration 5s
measure deliver --rate 10000 --duration 5s
measure publish --transport grpc --batch 1000 --connections 4 --in-flight 4 --duration 5s

echo "== a million pending, idle: processor time of the server in 30 s, hundredths of a second"
target/release/chronosdb-bench publish --count 1000000 --delay 1h --spread 1h --json 2> /dev/null |
    tail -1
# What was published before is carried into runs for a while: not idle yet.
carried() { curl -sf http://127.0.0.1:8080/metrics | grep -E '^cronos_(job_read|run_written)_bytes'; }
until moved=$(carried); sleep 3; [ "$moved" = "$(carried)" ]; do :; done
before=$(awk '{print $14 + $15}' "/proc/$server/stat")
sleep 30
after=$(awk '{print $14 + $15}' "/proc/$server/stat")
echo "$((after - before)) of 3000"

echo "== ten million pending: memory, disk, and a start after kill -9"
target/release/chronosdb-bench pending --count 10000000 --data-dir "$data-pending" --json \
    2> /dev/null | tail -1
