#!/bin/sh
# Remakes the committed code from the schemas. Needs network for the tools' crates the first time,
# but neither protoc nor flatc.
set -eu
cd "$(dirname "$0")/.."

# proto/*.proto -> src/wire/generated
cargo run --quiet --manifest-path tools/protogen/Cargo.toml -- .
