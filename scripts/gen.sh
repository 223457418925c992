#!/usr/bin/env bash
# Remakes the committed code from the schemas. Building the project never needs it, and neither it
# nor the build needs protoc. The flatc it runs is built from source once (cmake; some minutes).
set -euo pipefail
cd "$(dirname "$0")/.."

protobuf() { # proto/*.proto -> src/wire/generated
    cargo run --quiet --manifest-path tools/protogen/Cargo.toml -- .
}

flatbuffers() { # schemas/record.fbs -> src/engine/log/generated
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

# tests/tidy.rs compares this CRC32 (which gzip happens to compute) with the schemas.
stamp() {
    cat "${@:2}" | gzip -c | tail -c 8 | od -An -N4 -tx4 | tr -d ' ' > "$1/schema.crc32"
}

protobuf
stamp src/wire/generated proto/*.proto
flatbuffers
stamp src/engine/log/generated schemas/*.fbs
