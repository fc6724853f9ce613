# make run    builds Headwater and starts it on 127.0.0.1:4437, data in ./data
# make test   everything that must pass before a change lands
# make bench  measures Headwater beside other servers, for some minutes
#
# Both install what is missing on a fresh Debian machine that has Rust and Node.
# Everything is built in one profile and outside the clone, so that RocksDB,
# which takes minutes, is compiled once for all of it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.ONESHELL:
.DEFAULT_GOAL := help

CARGO_TARGET_DIR ?= $(or $(HEADWATER_TARGET_DIR),$(HOME)/.cache/headwater/target)
HEADWATER_BIN := $(CARGO_TARGET_DIR)/release/headwater
export CARGO_TARGET_DIR HEADWATER_BIN

CARGO_FLAGS := --release --locked
TOOLS := $(CARGO_TARGET_DIR)/tools
GUNGRAUN_RUNNER := $(TOOLS)/bin/gungraun-runner
export GUNGRAUN_RUNNER
CLIENTS_VENV := tests/clients/python/.venv
RECORDING_VENV := tests/recording/python/.venv

.PHONY: help
help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile
	echo "Also: build fmt lint deny unit instructions conformance clients recording cdn edge bench-full bench-edge bench-micro clean"

# --- Building and running

.PHONY: prerequisites
prerequisites:
	@deploy/prerequisites.sh build

.PHONY: build
build: prerequisites
	cargo build $(CARGO_FLAGS)

# Further flags: make run ARGS="--listen 0.0.0.0:4437"
.PHONY: run
run: build
	exec "$(HEADWATER_BIN)" dev $(ARGS)

# --- Testing: each stage ends the run when it fails

.PHONY: test
test: test-prerequisites lint deny unit instructions conformance clients recording cdn edge
	@echo "=== all stages passed"

.PHONY: test-prerequisites
test-prerequisites:
	@deploy/prerequisites.sh test

.PHONY: fmt
fmt:
	cargo fmt

.PHONY: lint
lint:
	@echo "=== lint: cargo fmt, cargo clippy"
	cargo fmt --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- --deny warnings

# Only where the tool is: compiling it takes as long as compiling Headwater.
# Advisories come from the network, so they are a check of their own.
.PHONY: deny
deny:
	@echo "=== deny: licences, bans, sources"
	if cargo deny --version >/dev/null 2>&1; then
		cargo deny --offline check licenses bans sources
	else
		echo "skipped: cargo-deny is not installed (cargo install --locked cargo-deny)"
	fi

.PHONY: unit
unit:
	@echo "=== cargo test: unit and integration tests"
	cargo test $(CARGO_FLAGS)

# Counted by callgrind, so the same on every machine; bounds are in benches/instructions.rs.
.PHONY: instructions
instructions: build $(GUNGRAUN_RUNNER)
	@echo "=== instructions: what the hot paths take"
	cargo bench --profile release --locked --bench instructions

# The version must be that of the library.
$(GUNGRAUN_RUNNER): Cargo.lock
	version=$$(cargo metadata --format-version 1 --locked | python3 -c 'import json, sys
	print(next(p["version"] for p in json.load(sys.stdin)["packages"] if p["name"] == "gungraun"))')
	if [[ "$$("$@" --version 2>/dev/null)" != *" $$version" ]]; then
		cargo install --locked --quiet --force --root "$(TOOLS)" --version "$$version" gungraun-runner
	fi
	touch $@

.PHONY: conformance
conformance: build tests/conformance/node_modules/.package-lock.json
	@echo "=== conformance: the official suite, in the clear, over TLS and through an edge"
	node tests/conformance/run.mjs

.PHONY: clients
clients: build tests/clients/typescript/node_modules/.package-lock.json $(CLIENTS_VENV)/installed
	@echo "=== clients: the official TypeScript and Python clients"
	PYTHON="$(CURDIR)/$(CLIENTS_VENV)/bin/python" node tests/clients/run.mjs

# One of them alone: make recording ARGS=browser
.PHONY: recording
recording: build tests/recording/node_modules/.package-lock.json $(RECORDING_VENV)/installed
	@echo "=== recording: curl, Chromium, the OpenAI clients, kill -9, a thousand at once"
	PYTHON="$(CURDIR)/$(RECORDING_VENV)/bin/python" node tests/recording/run.mjs $(ARGS)

# One of them alone: make cdn ARGS=live
.PHONY: cdn
cdn: build tests/clients/typescript/node_modules/.package-lock.json
	@echo "=== cdn: nginx and Varnish before a server, Chromium behind them"
	node tests/cdn/run.mjs $(ARGS)

# With fewer readers: make edge EDGE_READERS=1000
.PHONY: edge
edge: build tests/edge/node_modules/.package-lock.json tests/clients/typescript/node_modules/.package-lock.json
	@echo "=== edge: ten thousand readers, cut links, kill -9, the servers of others"
	node tests/edge/run.mjs $(ARGS)

%/node_modules/.package-lock.json: %/package.json %/package-lock.json
	npm ci --prefix $* --no-audit --no-fund --loglevel=error
	touch $@

%/.venv/installed: %/requirements.txt
	python3 -m venv $*/.venv
	$*/.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

# --- Measuring

# Other rows and sizes: make bench ARGS="--rows get,append-1 --pairs 5", or --help
BENCH := cargo bench --profile release --locked --bench
BENCH_QUICK := --pairs 1 --seconds 3 --streams 100000 --settle 5 --history-mib 256 \
	--sustained-seconds 20 --growth-streams 15000 --growth-mib 256
BENCH_FULL := --pairs 5 --seconds 10 --restart 19000,200000,1000000 --history-mib 10240 \
	--sustained-seconds 1200 --growth-streams 1000000 --growth-mib 10240

.PHONY: bench-prerequisites
bench-prerequisites:
	@deploy/prerequisites.sh bench

.PHONY: bench
bench: bench-prerequisites
	$(BENCH) compare -- $(BENCH_QUICK) $(ARGS)

# Hours; one that was interrupted goes on with ARGS=--resume.
.PHONY: bench-full
bench-full: bench-prerequisites
	$(BENCH) compare -- $(BENCH_FULL) --write $(ARGS)

# An edge beside nginx, its readers, and its origin: make bench-edge ARGS="--rows added"
.PHONY: bench-edge
bench-edge: prerequisites
	$(BENCH) edge -- $(ARGS)

# The smallest steps by themselves: make bench-micro ARGS=json
.PHONY: bench-micro
bench-micro: prerequisites
	$(BENCH) micro -- $(ARGS)

.PHONY: clean
clean:
	cargo clean --release --package headwater
	rm -rf tests/*/node_modules benches/compare/node/node_modules tests/clients/*/node_modules $(CLIENTS_VENV) $(RECORDING_VENV)
