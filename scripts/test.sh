#!/usr/bin/env bash
# Runs all tests three times, and some once more:
#  1. as shipped, those that count allocations or memory, which the race detector and the coverage counters falsify, and those that move
#     so many bytes that they would take minutes with the detector;
#  2. with the race detector and the debug checks of internal/invariants, also in the modules inside this repository;
#  3. for the coverage. Its counters have to be atomic under the race detector, and then cost more than a run of their own. What starts the
#     broker as a process, or looks at files, covers nothing and is left out.
#  4. those that show how connections behave on the other engine, netpoll, with the race detector.
# Arguments: packages of the root module, all modules if none.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/usr/local/sbin" # see scripts/test-deps.sh

# Two packages run at a time. Those that take longest begin, so that none is left alone at the end.
mapfile -t all < <(echo loopmq/redisstore && echo loopmq && go list ./... | grep -vxE 'loopmq(/redisstore)?')
packages=("${@:-${all[@]}}")
modules=()
[ $# -gt 0 ] || modules=(examples internal/peers)

mkdir -p coverage

# run_tests runs `go test` with the given flags on the packages, and on the modules.
run_tests() {
	go test -vet=off "$@" "${packages[@]}" # `make lint` vets
	for module in ${modules[@]+"${modules[@]}"}; do
		(cd "$module" && go test -vet=off "$@" ./...)
	done
}

run_tests -timeout 10m -run '(?i:alloc|memory|huge)'
run_tests -timeout 15m -race -tags invariants
if [ $# -eq 0 ]; then
	LOOPMQ_TEST_ENGINE=netpoll go test -vet=off -timeout 10m -race -tags invariants ./eventloop ./conformance/v5
fi
modules=()
[ $# -gt 0 ] || mapfile -t packages < <(printf '%s\n' "${all[@]}" | grep -vE '^loopmq/(benchmarks|cmd|deploy|docs|internal/chaos/(webhooks|loadtest))(/|$)')
run_tests -timeout 10m -tags invariants -coverpkg ./... -coverprofile coverage/cover.out
scripts/coverage.sh coverage/cover.out
