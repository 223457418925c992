#!/bin/sh
# Remakes the committed code from the schemas. Building the project never needs it.
set -eu
cd "$(dirname "$0")/.."

# schemas/record.fbs -> src/engine/log/generated. Builds flatc from source the first time (a C++
# compiler and cmake; some minutes).
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
