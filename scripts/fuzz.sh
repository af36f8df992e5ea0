#!/usr/bin/env bash
# Runs each fuzz target of the given packages in turn, one at a time since `go test -fuzz` takes no more. Stops at the first finding.
# Arguments: time per target (30s), packages.
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:?usage: scripts/fuzz.sh TIME PACKAGE...}
shift

# `go test -list` names the targets of a package, then the package: "FuzzX", …, "ok  loopmq/codec  0.01s".
targets=$(go test -list '^Fuzz' "$@" | awk '/^Fuzz/ { names[n++] = $1 } $1 == "ok" { for (i = 0; i < n; i++) print $2, names[i]; n = 0 }')
if [ -z "$targets" ]; then
	echo "fuzz: no fuzz target in $*" >&2
	exit 1
fi
while read -r package target; do
	echo "fuzz: $package $target for $time"
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package"
done <<<"$targets"
