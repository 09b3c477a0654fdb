# What people type. `make help` lists it.
#
# Build output and Kafka's jars are kept in TIDEGATE_CACHE_DIR, outside of the clone, so that a second clone is quick.

TIDEGATE_CACHE_DIR ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/tidegate
CARGO_TARGET_DIR   ?= $(TIDEGATE_CACHE_DIR)/target
export TIDEGATE_CACHE_DIR CARGO_TARGET_DIR

BIN := $(CARGO_TARGET_DIR)/debug
# Always the whole workspace: a build of one package alone would choose other features, and compile DataFusion again.
BUILD := cargo build --workspace --all-targets
N ?= 500
CASES ?= 100000
PORT ?= 8000
DURATION ?=

.PHONY: help demo build check setup test test-fast test-all crash oracle sabotage bench smoke

help:              ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo:              ## the whole of it on the example, without a server (DURATION=30 ends by itself, PORT=8000)
	@PORT=$(PORT) .ci/preflight
	@[ -x $(BIN)/tidegate ] || echo "compiling: the first time about 20 minutes on two cores, then never again"
	@$(BUILD)
	@$(BIN)/tidegate demo --listen 127.0.0.1:$(PORT) $(if $(DURATION),--duration $(DURATION)) $(ARGS)

build:             ## compile everything (the first time about 20 minutes on two cores)
	$(BUILD)

check:             ## formatting, lints, docs
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

setup:             ## install what the tests need and this machine lacks
	@.ci/setup $(SETUP_FOR)

test: setup build  ## what CI runs: everything, with real Kafka and real Postgres
	@.ci/count cargo test --workspace

test-fast: build   ## what needs no server
	@.ci/count cargo test --workspace --lib --bins --test fast

test-all: setup build ## every kill point on its 1st, 2nd and 10th hit, 100 random kills, long outages
	@TIDEGATE_TEST_ALL=1 TIDEGATE_TEST_KILLS=100 .ci/count cargo test --workspace

crash: setup build ## N random kills on Postgres, and N on SQLite (N=500)
	@TIDEGATE_TEST_KILLS=$(N) .ci/count cargo test --workspace --test real kills_

oracle: build      ## CASES random sources, views and accidents against one batch run (CASES=100000)
	@TIDEGATE_TEST_CASES=$(CASES) cargo test --workspace --test fast -- --exact --nocapture oracle::streaming_equals_batch

sabotage: setup build ## break the engine on purpose, one fault at a time: the test that each names must fail
	@.ci/sabotage

bench: SETUP_FOR := bench
bench: setup build ## cost and latency against real servers; BENCH_JSON=file writes the medians, ARGS= passes options
	@$(BIN)/tidegate-bench $(ARGS)

smoke: setup build ## one minute of 5,000 events/s through real servers on free ports, and the accounting
	@$(BIN)/with-servers $(BIN)/tidegate smoke --start $(ARGS)
