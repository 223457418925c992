#!/usr/bin/env bash
# Rounds of load and kill -9 on one data directory, compared with what the clients were told.
#
#   scripts/kill-rounds.sh [ROUNDS] [SEED]     100 rounds and a fresh seed by default
set -euo pipefail
cd "$(dirname "$0")/.."
export CHRONOSDB_KILL_ROUNDS="${1:-100}"
if [ $# -ge 2 ]; then export CHRONOSDB_KILL_SEED="$2"; fi
cargo test --test it -- kill_rounds --nocapture
