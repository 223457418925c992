#!/usr/bin/env bash
# Instructions that the hot paths take, against bench/perf-baseline.json: fails where one is more
# than 5 % away from it, in either direction (a gain that is not written down is lost again unseen).
# Counted by callgrind, so other load on the machine does not show. Not a part of the tests.
#   scripts/check-perf.sh            compare
#   scripts/check-perf.sh --bless    write the baseline anew; commit it with what changed it
# Counts depend on the compiler: the baseline says which one it was made with.
set -euo pipefail
cd "$(dirname "$0")/.."
baseline=bench/perf-baseline.json
percent=5
case ${1:-} in
"" | --bless) ;;
*) sed -n '2,8s/^# //p' "$0" && exit 2 ;;
esac
command -v valgrind > /dev/null || { echo "skipped: valgrind is not installed" && exit 0; }

cargo build --release --package chronosdb-bench --bin chronosdb-counts --quiet
counts=${CARGO_TARGET_DIR:-target}/release/chronosdb-counts
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# A line a case: its name and the instructions of a unit of its work.
cases=$("$counts" | awk 'NR > 1 { print $1 }') || true
for case in $cases; do
    valgrind --tool=callgrind --callgrind-out-file="$out/$case" --collect-atstart=no \
        --toggle-collect='*chronosdb_counts*counted*' "$counts" "$case" \
        > "$out/units" 2> "$out/log" || { cat "$out/log" >&2 && exit 1; }
    collected=$(awk '/Collected/ { print $4 }' "$out/log")
    [ "${collected:-0}" -gt 0 ] || { echo "$case: nothing was counted" >&2 && exit 1; }
    awk -v name="$case" -v sum="$collected" '{ printf "%s %.1f\n", name, sum / $1 }' "$out/units"
done > "$out/now"
[ -s "$out/now" ] || { echo "chronosdb-counts lists no cases" >&2 && exit 1; }

if [ "${1:-}" = --bless ]; then
    {
        printf '{\n  "compiler": "%s",\n' "$(rustc --version | awk '{ print $1, $2 }')"
        awk '{ printf "%s  \"%s\": %s", (NR > 1 ? ",\n" : ""), $1, $2 } END { print "\n}" }' "$out/now"
    } > "$baseline"
    cat "$baseline"
    exit
fi

# The baseline has a line a case too.
sed -nE 's/^ *"([a-z0-9_]+)": ([0-9.]+),?$/\1 \2/p' "$baseline" > "$out/before"
awk -v percent="$percent" '
    FILENAME == ARGV[1] { before[$1] = $2; next }
    {
        now[$1] = 1
        if (!($1 in before)) { printf "%-20s %10.1f   no baseline: --bless\n", $1, $2; bad++; next }
        change = ($2 / before[$1] - 1) * 100
        verdict = change > percent ? "SLOWER" : change < -percent ? "faster: --bless" : "ok"
        if (verdict != "ok") bad++
        printf "%-20s %10.1f   was %10.1f   %+6.2f %%   %s\n", $1, $2, before[$1], change, verdict
    }
    END {
        for (name in before) if (!(name in now)) { print name ": no such case: --bless"; bad++ }
        exit bad > 0
    }' "$out/before" "$out/now" || {
    made=$(sed -nE 's/.*"compiler": "(.*)",/\1/p' "$baseline")
    echo "beyond $percent % (instructions a unit; the baseline is of $made," \
        "this is $(rustc --version | awk '{ print $1, $2 }'))"
    exit 1
}
