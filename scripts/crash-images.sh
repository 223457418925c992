#!/usr/bin/env bash
# Power failures below a real node: a load is recorded write by write, then the node is started on
# what a failure at any point of it may have left, and must hold all that was acknowledged by then.
#
#   scripts/crash-images.sh                            500 points, over ext4 and XFS; 10 to 20 minutes
#   scripts/crash-images.sh --points N --fs ext4       more or fewer, on one file system (or xfs)
#   scripts/crash-images.sh --small                    20 points, under a minute
#   scripts/crash-images.sh --seed S --keep            repeat the choices of a run; keep recordings
#   scripts/crash-images.sh --recording DIR --at K --seed S    one point of a kept recording again
#   scripts/crash-images.sh --small --unsynced         control: answers before the sync must be caught
#
# Needs root, /dev/fuse, loop devices, qemu-storage-daemon, mkfs.ext4 and mkfs.xfs (packages
# qemu-utils, e2fsprogs, xfsprogs); says `skipped: ...` and succeeds where one is missing. Tests the
# release build, or the program that CHRONOSDB_PROGRAM names.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${CHRONOSDB_PROGRAM:-}" ]; then
    cargo build --release
    export CHRONOSDB_PROGRAM="${CARGO_TARGET_DIR:-$PWD/target}/release/chronosdb"
fi
RUST_BACKTRACE=0 exec nice cargo test --quiet --test crash -- images "$@"
