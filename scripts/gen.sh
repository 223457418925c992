#!/usr/bin/env bash
# Remakes the committed code that comes from schemas/. Building the project never needs it.
# The flatc it runs is built from source once (a C++ compiler and cmake; some minutes).
set -euo pipefail
cd "$(dirname "$0")/.."

flatbuffers() {
    local out
    out=$(mktemp -d)
    cargo run --quiet --manifest-path tools/flatcgen/Cargo.toml -- \
        --rust --gen-all -o "$out" schemas/record.fbs
    {
        echo "//! Made by scripts/gen.sh from schemas/record.fbs: do not edit."
        echo "//! schema sha256: $(sha256sum schemas/record.fbs | cut -d' ' -f1)"
        echo
        cat "$out/record_generated.rs"
    } > src/engine/log/generated/record.rs
    rm -r "$out"
}

flatbuffers
