#!/usr/bin/env bash
# Prints the coverage of each package in a profile written with -coverpkg ./..., where a statement counts as covered whichever
# package's test ran it. Exits 1 when a package is not above the minimum. Not held to it: commands, examples, and test helpers.
set -euo pipefail
cd "$(dirname "$0")/.."

profile=${1:?usage: scripts/coverage.sh PROFILE}
minimum=80
exempt='/(examples/.*|internal/(brokertest|opcuatest|redistest|peers/.*)|store/storetest)$'

{
	go list -f '{{.ImportPath}} {{.Name}}' ./...
	echo -- profile
	cat "$profile"
} | awk -v minimum="$minimum" -v exempt="$exempt" '
	!profile && $1 == "--" { profile = 1; next }
	!profile { name[$1] = $2; next }
	/^mode:/ { next }
	{
		# file:from,to statements count; a block appears once for each test binary that was linked with it.
		if (!($1 in statements)) statements[$1] = $2
		if ($3 > 0) hit[$1] = 1
	}
	END {
		for (block in statements) {
			package = block
			sub(/\/[^\/]*$/, "", package)
			total[package] += statements[block]
			if (block in hit) covered[package] += statements[block]
		}
		sort = "sort -k 2"
		for (package in total) {
			percent = 100 * covered[package] / total[package]
			held = name[package] != "main" && package !~ exempt
			low = held && percent <= minimum
			failed += low
			note = low ? "  <- not above " minimum "%" : held ? "" : "  (no minimum)"
			printf "%6.1f%%  %s%s\n", percent, package, note | sort
		}
		close(sort)
		if (failed) { printf "coverage: %d packages are not above %d%%\n", failed, minimum; exit 1 }
	}'
