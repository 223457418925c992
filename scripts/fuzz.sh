#!/usr/bin/env bash
# Fuzzes every decoder of foreign bytes (tests/fuzz): native frames and requests, the publish scanner
# beside prost, log entries, due runs, dedup runs, checkpoints. A crash is kept in tests/fuzz/artifacts.
#
#   scripts/fuzz.sh                    each target for 60 s
#   scripts/fuzz.sh SECONDS [TARGET..] these, for so long
#
# Inputs begin with tests/fuzz/corpus; what is found beyond it gathers in the target directory. Runs
# libFuzzer by the stable compiler with RUSTC_BOOTSTRAP=1, which it needs for the address sanitizer
# (CHRONOSDB_FUZZ_SANITIZER=none goes without). Says `skipped: ...` where a tool is missing.
set -euo pipefail
cd "$(dirname "$0")/../tests/fuzz"
seconds=${1:-60}
shift || true
targets=("$@")
[ $# -gt 0 ] || targets=(native_frame publish_scan log_entry due_run dedup_run checkpoint)

if ! command -v c++ >/dev/null; then
    echo "skipped: libFuzzer is built by a C++ compiler (c++), and there is none"
    exit 0
fi
host=$(rustc -vV | sed -n 's/^host: //p')
sanitizer=${CHRONOSDB_FUZZ_SANITIZER:-address}
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
flags+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
flags+=" -Ccodegen-units=1 --cfg fuzzing"
if [ "$sanitizer" != none ]; then
    runtime=$(rustc --print sysroot)/lib/rustlib/$host/lib/librustc-stable_rt.asan.a
    if [ "$sanitizer" = address ] && [ ! -e "$runtime" ]; then
        runtime=${runtime/-stable/-nightly}
    fi
    if [ "$sanitizer" = address ] && [ ! -e "$runtime" ]; then
        echo "no runtime of the address sanitizer for $host: going on without it"
    else
        flags+=" -Zsanitizer=$sanitizer"
    fi
fi
out=${CARGO_TARGET_DIR:-$PWD/target}
# With --target build scripts and macros are built without all that.
RUSTC_BOOTSTRAP=1 RUSTFLAGS="$flags" \
    cargo build --release --target "$host" --target-dir "$out" --quiet

failed=0
for target in "${targets[@]}"; do
    found=$out/fuzz-corpus/$target
    artifacts=$PWD/artifacts/$target
    log=$out/fuzz-$target.log
    mkdir -p "$found" "$artifacts"
    verdict=clean
    if ! "$out/$host/release/$target" "$found" "corpus/$target" -max_total_time="$seconds" \
        -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$artifacts/" > "$log" 2>&1; then
        verdict="FAILED: see $log and $artifacts"
        failed=1
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    printf '%-13s %12s executions in %s s  %s\n' "$target" "${runs:-?}" "$seconds" "$verdict"
done
exit $failed
