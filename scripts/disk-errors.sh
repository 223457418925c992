#!/usr/bin/env bash
# Errors of the disk below a real node: EIO on write, flush and read, a slow, a hung, a dead and a
# full one. It stops and loses nothing, or waits and goes on.
#
#   scripts/disk-errors.sh                      all cases over ext4 and XFS; about 4 minutes
#   scripts/disk-errors.sh --fs ext4 --only flush
#
# Needs what scripts/crash-images.sh needs, and says `skipped: ...` like it where that is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${CHRONOSDB_PROGRAM:-}" ]; then
    cargo build --release
    export CHRONOSDB_PROGRAM="${CARGO_TARGET_DIR:-$PWD/target}/release/chronosdb"
fi
RUST_BACKTRACE=0 exec nice cargo test --quiet --test crash -- errors "$@"
