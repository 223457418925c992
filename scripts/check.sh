#!/usr/bin/env bash
# The whole gate, for you and for CI alike. Changes nothing in the tree.
#
#   scripts/check.sh                     everything
#   CHECK_SKIP_TESTS=1 scripts/check.sh  all but `cargo test --workspace`, which has just run
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n==> %s\n' "$*"; }

step "format"
cargo fmt --all --check

step "clippy: warnings are errors"
cargo clippy --workspace --all-targets --quiet -- -D warnings

if [ "${CHECK_SKIP_TESTS:-0}" = 1 ]; then
    step "tests: skipped, CHECK_SKIP_TESTS is set because they have just run"
else
    step "tests (tests/tidy.rs, the simulator and real processes among them)"
    cargo test --workspace
fi

step "docs: warnings are errors (private items too, so their links are checked)"
RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --workspace --no-deps --document-private-items --quiet

if command -v cargo-deny >/dev/null; then
    step "dependencies: licences, advisories, sources (cargo deny)"
    cargo deny --all-features check
elif command -v cargo-audit >/dev/null; then
    step "dependencies: advisories (cargo audit; cargo-deny is not installed)"
    cargo audit
else
    step "dependencies: skipped, neither cargo-deny nor cargo-audit is installed"
fi

step "all checks passed"
