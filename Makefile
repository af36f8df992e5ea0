# What developers and CI run. Each target is a line or two; longer ones are scripts of their own in scripts/.
# Tools have a module of their own (tools/go.mod), so that they add nothing to the broker's requirements.

SHELL   := /bin/bash
TOOL    := go tool -modfile=$(CURDIR)/tools/go.mod
# Examples and tests that use what the broker doesn't need are modules of their own too. $(call each,COMMAND) runs a command in each.
MODULES := . examples internal/peers benchmarks/mochi
each     = @failed=0; for module in $(MODULES); do (cd $$module && $(1)) || failed=1; done; exit $$failed
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

BENCH    ?= .
COUNT    ?= 10
FUZZTIME ?= 30s
PKG      ?= ./...
ROUNDS   ?= 200
DURATION ?= 5m
EVENTS   ?= 100000

.DEFAULT_GOAL := help
.PHONY: run build cluster test test-chaos cover fuzz bench bench-compare bench-mochi bench-growth bench-regress bench-http conformance lint fmt vuln clean help

run: build ## Build, then start the broker on 127.0.0.1:1883 (ARGS="--tcp :1883" for other flags)
	bin/loopmq serve $(ARGS)

build: ## Build the commands into bin/
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/ ./cmd/...

cluster: build ## Build, then start three nodes on one Redis behind HAProxy, without containers (ARGS="--nodes 5 --port 0" for other options)
	deploy/local.sh $(ARGS)

test: ## Run all tests with the race detector, and hold each package to its coverage
	scripts/test-deps.sh
	scripts/test.sh

test-chaos: ## Kill a broker on Pebble ROUNDS=200 times, nodes and their Redis for DURATION=5m, and both while EVENTS=100000 webhooks are sent; account for every message (CHAOS_SEED=…)
	scripts/test-deps.sh
	CHAOS_ROUNDS='$(ROUNDS)' CHAOS_DURATION='$(DURATION)' CHAOS_EVENTS='$(EVENTS)' go test -count=1 -v -p 1 -timeout 3h ./internal/chaos/...

cover: ## Show the coverage of the last `make test` per package, and write coverage/cover.html
	go tool cover -html=coverage/cover.out -o coverage/cover.html
	scripts/coverage.sh coverage/cover.out

fuzz: ## Run each fuzz target in turn for FUZZTIME=30s (PKG=./codec/... for some of them)
	scripts/fuzz.sh '$(FUZZTIME)' $(PKG)

bench: ## Run the Go benchmarks (PKG=./trie BENCH=Match for some of them)
	go test -run '^$$' -bench '$(BENCH)' -benchmem $(PKG)

bench-compare: build ## Measure the broker beside mosquitto and COMPARE="'NAME=COMMAND {port}' …"
	go run ./benchmarks/compare $(COMPARE)

bench-http: ## Measure the broker's CPU per message by HTTP, beside MQTT
	go run ./benchmarks/httpcost

bench-mochi: ## Measure trie and codec beside those of mochi-mqtt
	cd benchmarks/mochi && go test -run '^$$' -bench . -benchtime 10x .

bench-growth: build ## Measure how costs grow with connections, subscriptions and nodes (ARGS="--subscriptions 1e2,1e4 --seconds 1" for other options)
	go run ./benchmarks/growth $(ARGS)

bench-regress: ## Compare the Go benchmarks with those of commit REF=… over COUNT=10 rounds
	scripts/bench-regress.sh '$(REF)' '$(BENCH)' '$(COUNT)' $(PKG)

conformance: ## Write docs/conformance.md: which test shows which statement of the MQTT standards
	go run ./internal/conformance

lint: ## Check format, import table, and code
	$(call each,$(TOOL) golangci-lint run ./...)

fmt: ## Format all Go files
	$(call each,$(TOOL) golangci-lint fmt ./...)

vuln: ## Look up known vulnerabilities of the modules in use (VULNFLAGS="-db URL" for a database of your own)
	$(call each,$(TOOL) govulncheck $(VULNFLAGS) ./...)

clean: ## Remove what the other targets leave behind
	rm -rf bin coverage internal/peers/*/node_modules
	go clean -testcache

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile
