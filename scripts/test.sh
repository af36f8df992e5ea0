#!/usr/bin/env bash
# Runs all tests, those that count allocations or memory twice: first as shipped, since the race detector and the coverage counters
# falsify their figures; then everything with the race detector, the debug checks of internal/invariants, and coverage.
# Arguments: packages, ./... if none.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/usr/local/sbin" # see scripts/test-deps.sh

packages=("${@:-./...}")
mkdir -p coverage
go test -timeout 10m -run 'Alloc|Memory' "${packages[@]}"
go test -race -tags invariants -timeout 15m -covermode atomic -coverpkg ./... -coverprofile coverage/cover.out "${packages[@]}"
scripts/coverage.sh coverage/cover.out
