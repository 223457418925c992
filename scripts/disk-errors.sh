#!/usr/bin/env bash
# Errors of the disk below a real node: EIO on write, flush and read, a slow, a hung, a dead and a
# full one, and rot. It stops and loses nothing, or waits and goes on, or says what is lost. Then
# flipped bits and lost parts in every file of a stopped one (CHRONOSDB_FLIP_ROUNDS, 10 here).
#
#   scripts/disk-errors.sh                          everything, over ext4 and XFS; about 3 minutes
#   scripts/disk-errors.sh --fs ext4 --only flush   some cases, without the flipped bits
#
# Needs what scripts/crash-images.sh needs, and says `skipped: ...` like it where that is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${CHRONOSDB_PROGRAM:-}" ]; then
    cargo build --release
    export CHRONOSDB_PROGRAM="${CARGO_TARGET_DIR:-$PWD/target}/release/chronosdb"
fi
export RUST_BACKTRACE=0
nice cargo test --quiet --test crash -- errors "$@"
if [ $# -eq 0 ]; then
    export CHRONOSDB_FLIP_ROUNDS="${CHRONOSDB_FLIP_ROUNDS:-10}"
    nice cargo test --quiet --test it -- bit_flips
fi
