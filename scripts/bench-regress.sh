#!/usr/bin/env bash
# Compares the Go benchmarks of the work tree with those of another commit. The rounds alternate between the two, so that a change of
# the machine's load meets both. Arguments: commit, benchmarks (regexp), rounds, packages.
set -euo pipefail
cd "$(dirname "$0")/.."

ref=${1:?usage: make bench-regress REF=commit [BENCH=regexp] [COUNT=10] [PKG=./...]}
bench=$2 count=$3
shift 3

scratch=$(mktemp -d)
trap 'git worktree remove --force "$scratch/base" 2>/dev/null || true; rm -rf "$scratch"' EXIT
git worktree add --quiet --detach "$scratch/base" "$ref"

round() { go test -run '^$' -bench "$bench" -benchmem -count 1 "$@"; }
for ((i = 1; i <= count; i++)); do
	echo "bench-regress: round $i of $count" >&2
	(cd "$scratch/base" && round "$@") >>"$scratch/base.txt"
	round "$@" >>"$scratch/head.txt"
done
go tool -modfile=tools/go.mod benchstat "base=$scratch/base.txt" "head=$scratch/head.txt"
