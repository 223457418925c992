#!/usr/bin/env bash
# Replays one seed of the simulator with its profile and every line of its trace:
#   scripts/sim.sh SEED
# or runs many and prints only what fails:
#   scripts/sim.sh FROM..TO
set -euo pipefail
cd "$(dirname "$0")/.."
seeds=${1:?usage: scripts/sim.sh SEED or FROM..TO}
case $seeds in
    *..*) ;;
    *)
        export CHRONOSDB_SIM_ECHO=1
        seeds="$seeds..$((seeds + 1))"
        ;;
esac
CHRONOSDB_SIM_SEEDS=$seeds exec cargo test --quiet --test sim every_seed -- --nocapture
