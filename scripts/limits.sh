#!/usr/bin/env bash
# What this machine can do at most, this minute: disk, loopback, prost, gRPC. Needs no server.
#   scripts/limits.sh [--json] [--dir DIR] [--each TIME]     (`chronosdb-bench limits --help`)
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --package chronosdb-bench --bin chronosdb-bench --quiet
# The disk under the build is the one that the other scripts put their data on.
bin=${CARGO_TARGET_DIR:-target}
exec "$bin/release/chronosdb-bench" limits --dir "$bin" "$@"
