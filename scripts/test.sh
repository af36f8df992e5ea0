#!/usr/bin/env bash
# Runs all tests, some of them before and without the race detector: those that count allocations or memory, since the detector and the
# coverage counters falsify their figures, and those that move so many bytes that it would take minutes. Then everything with the race
# detector, the debug checks of internal/invariants, and coverage; and the modules inside this repository, which count for no coverage.
# Arguments: packages of the root module, all modules if none.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/usr/local/sbin" # see scripts/test-deps.sh

packages=("${@:-./...}")
modules=()
[ $# -gt 0 ] || modules=(examples internal/peers)

undetected='Alloc|Memory|Huge'
mkdir -p coverage
go test -timeout 10m -run "$undetected" "${packages[@]}"
for module in ${modules[@]+"${modules[@]}"}; do
	(cd "$module" && go test -timeout 10m -run "$undetected" ./...)
done

go test -race -tags invariants -timeout 15m -covermode atomic -coverpkg ./... -coverprofile coverage/cover.out "${packages[@]}"
for module in ${modules[@]+"${modules[@]}"}; do
	(cd "$module" && go test -race -tags invariants -timeout 15m ./...)
done
scripts/coverage.sh coverage/cover.out
