#!/usr/bin/env bash
# Where the server's time goes under a load, stage by stage, in percent of its samples and in
# nanoseconds of processor time an event. Needs perf. Builds with frame pointers in a directory of
# its own, warms the server up, then samples it for eight seconds.
#   scripts/profile.sh                                  batches of 1,000 over 4 connections
#   scripts/profile.sh publish --batch 1 --connections 64 --in-flight 8
set -euo pipefail
cd "$(dirname "$0")/.."
command -v perf > /dev/null || { echo "skipped: perf is not installed" && exit 0; }
[ $# -gt 0 ] || set -- publish --batch 1000 --connections 4 --in-flight 4
build=${CARGO_TARGET_DIR:-$PWD/target}/profile
RUSTFLAGS="-C force-frame-pointers=yes" CARGO_PROFILE_RELEASE_DEBUG=1 CARGO_TARGET_DIR=$build \
    cargo build --release --workspace --quiet
work=$(mktemp -d "$PWD/target/profile-XXXXXX")
"$build/release/chronosdb" serve --data-dir "$work/d" --reserve-memory 2GiB > "$work/log" 2>&1 &
server=$!
trap 'kill "$server" 2> /dev/null; wait "$server" || true; rm -rf "$work"' EXIT
until curl -sf http://127.0.0.1:8080/health/ready > /dev/null; do
    kill -0 "$server" || { cat "$work/log" && exit 1; }
    sleep 0.1
done
bench=$build/release/chronosdb-bench
"$bench" "$@" --duration 10s > /dev/null 2>&1
"$bench" "$@" --duration 11s --json > "$work/out" 2> /dev/null &
load=$!
sleep 1
before=$(awk '{print $14 + $15}' "/proc/$server/stat") since=$(date +%s%N)
perf record -p "$server" -o "$work/perf" --call-graph fp -F 1499 -- sleep 8 > /dev/null 2>&1
ticks=$(($(awk '{print $14 + $15}' "/proc/$server/stat") - before)) took=$(($(date +%s%N) - since))
wait "$load"
rate=$(tail -1 "$work/out" | sed -nE 's/.*"events_per_s":([0-9.]+).*/\1/p')
perf script -i "$work/perf" -F comm,ip,sym 2> /dev/null > "$work/stacks"

# The first of these words that a stack has names its stage: what is most particular comes first.
awk -v rate="$rate" -v cpu="$(awk "BEGIN { print $ticks * 1e7 / $took }")" '
    BEGIN {
        RS = ""
        n = split("Job::go_on=jobs: flushes and merges;Job::feed=jobs: flushes and merges;" \
            "read_ahead=jobs: reading the log;" \
            "Dedup::record=apply: ids into the window;id_applied=apply: ids not pending any more;" \
            "arm_entry=apply: the wheel;Partition::apply=apply: the due axis;" \
            "apply_committed=apply: the rest;horizon_on=what leaves the memory;" \
            "fill_write=entries into the write buffer;in_memory=publish: ids in memory;" \
            "Dedup::hash=publish: hashes of ids;unread_of=publish: filters of runs of ids;" \
            "PublishBuilder::push=publish: payloads into the entry;" \
            "::decide=publish: decisions and CRC;" \
            "wire::publish=publish: the scanner;Front::request=publish: split over partitions;" \
            "::seal=entries made;Engine::step=the engine: the rest;" \
            "Connection::reply=answers encoded;poll_receive=sockets read;" \
            "Route::flush=sockets written;" \
            "yolo_send=sockets written;__send=sockets written;Disk::write=writes handed over;" \
            "io_wq=writes by workers of the kernel;uring=the ring of I/O;" \
            "glommio_ng=the runtime and its tasks", list, ";")
        for (i = 1; i <= n; i++) {
            split(list[i], pair, "=")
            word[i] = pair[1]
            stage[i] = pair[2]
        }
    }
    {
        all++
        name = "the kernel: the rest"
        for (i = 1; i <= n; i++) if (index($0, word[i])) { name = stage[i]; break }
        count[name]++
        if ($0 ~ /^[^\n]*\n[^\n]*(memmove|memcpy)/) copies++
    }
    END {
        printf "%d events/s; the server uses %.2f cores, ", rate, cpu
        printf "%.2f us an event\n", cpu / rate * 1e6
        for (name in count) printf "%5.1f %%  %5d ns  %s\n", 100 * count[name] / all,
            count[name] / all * cpu / rate * 1e9, name | "sort -rn"
        close("sort -rn")
        printf "of all: %.1f %% are copies\n", 100 * copies / all
    }' "$work/stacks"
