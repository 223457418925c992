#!/usr/bin/env bash
# The charts of the README from one run on this machine: throughput against the batch size, latency
# against the rate, lateness against fires a second, and lateness over time. Starts servers of its
# own on fresh directories. The points are kept beside the charts.
#   scripts/charts.sh [--duration TIME] [--pending N] [--out DIR]
#     --duration   of each point; the time line takes ten times as much [default: 5s]
#     --pending    events that are pending under the time line [default: 1000000]
#     --out        [default: bench/charts]
set -euo pipefail
cd "$(dirname "$0")/.."
duration=5s pending=1000000 out=bench/charts
while [ $# -gt 0 ]; do
    case $1 in
    --duration) duration=$2 ;;
    --pending) pending=$2 ;;
    --out) out=$2 ;;
    *) sed -n '2,8s/^# //p' "$0" && exit 2 ;;
    esac
    shift 2 || { echo "$1 wants a value" >&2 && exit 2; }
done

cargo build --release --workspace --quiet
build=${CARGO_TARGET_DIR:-target}
bench=$build/release/chronosdb-bench
work=$(mktemp -d "$(realpath "$build")/charts-XXXXXX")
native=127.0.0.1:17700 http=127.0.0.1:18080
server=
stop() {
    [ -z "$server" ] || { kill "$server" 2> /dev/null && wait "$server" 2> /dev/null; } || true
    server=
}
trap 'stop; rm -rf "$work"' EXIT
mkdir -p "$out"
note="$(nproc) cores of $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), server and load \
share them; --reserve-memory 2GiB; commit $(git rev-parse --short HEAD), $(date -u +%F)"

serve() {
    stop
    rm -rf "$work/data"
    "$build/release/chronosdb" serve --data-dir "$work/data" --native-addr "$native" \
        --http-addr "$http" --grpc-addr 127.0.0.1:19000 --reserve-memory 2GiB \
        > "$work/server.log" 2>&1 &
    server=$!
    until curl -sf "http://$http/health/ready" > /dev/null; do
        kill -0 "$server" || { cat "$work/server.log" && exit 1; }
        sleep 0.1
    done
}

# A point: the figures of one run, and where it stands along the chart.
point() { # FILE FIELD VALUE COMMAND...
    local file=$1 field=$2 value=$3
    shift 3
    echo "== $*"
    "$bench" "$@" --addr "$native" --http-addr "$http" --duration "$duration" --json \
        2> /dev/null | tail -n 1 | sed "s/^{/{\"$field\":$value,/" | tee -a "$file"
}

chart() { # NAME X TITLE X-TITLE Y-TITLE OPTION...
    local name=$1 x=$2 title=$3 x_title=$4 y_title=$5
    shift 5
    "$bench" chart --data "$out/$name.jsonl" --svg "$out/$name.svg" --x "$x" --title "$title" \
        --x-title "$x_title" --y-title "$y_title" --note "$note" "$@"
}

rm -f "$out"/{batch,latency,lateness}.jsonl
serve
for batch in 1 10 100 1000 4000; do
    point "$out/batch.jsonl" batch "$batch" publish --batch "$batch" --connections 4 --in-flight 4
done
chart batch batch "Durable publishes, 4 connections with 4 requests in flight" \
    "events of a request" "events/s" --y events_per_s --log-x

serve
for rate in 200 1000 5000 10000 20000 50000; do
    point "$out/latency.jsonl" events_rate "$rate" latency --rate "$rate" --connections 16
done
chart latency events_rate "Durable single publishes at a fixed rate, 16 connections" "events/s" \
    "us from the instant of sending to the answer" --y p50_us --y p99_us --y p999_us --log-x --log-y

serve
for rate in 1000 5000 10000 50000 100000; do
    point "$out/lateness.jsonl" fires "$rate" deliver --rate "$rate" --batch 100 --delay 2s
done
chart lateness fires "Lateness, from due to received" "fires/s" "us" \
    --y lateness_p50_us --y lateness_p99_us --y lateness_p999_us --log-x --log-y
stop

seconds=$((10 * ${duration%s}))
# Small segments and flushes: otherwise a minute may pass in which nothing happens.
"$bench" timeline --rate 50000 --pending "$pending" --duration "${seconds}s" \
    --option=--segment-size=32MiB --option=--flush-size=8MiB --option=--reserve-memory=2GiB \
    --data-dir "$work/timeline" \
    --svg "$out/timeline.svg" --note "$note; segments of 32 MiB, flushes of 8 MiB" --json |
    tail -n 1 > "$out/timeline.jsonl"
echo "wrote $out/timeline.svg"
