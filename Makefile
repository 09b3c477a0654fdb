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

.PHONY: help demo build check setup test test-fast test-all crash oracle sabotage bench load \
	up full-up down full-down reset full-reset smoke full-smoke doctor ps full-ps env \
	logs full-logs logs-engine logs-generator logs-api logs-postgres logs-kafka

help:              ## list the targets
	@grep -E '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

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

load: setup build  ## one minute of 5,000 events/s through real servers on free ports, and the accounting
	@$(BIN)/with-servers $(BIN)/tidegate smoke --start $(ARGS)

# The stack: by Docker when it answers, else as plain processes below .run (STACK=docker, STACK=native).

up:                ## start the stack and prove that it works (RUN_SMOKE=0: without the proof)
	@.ci/stack up
full-up:           ## the same with Prometheus and Grafana (OBS_WAIT=0: without waiting for them)
	@.ci/stack full-up
down full-down:    ## stop the stack; its data is kept
	@.ci/stack down
reset full-reset:  ## stop the stack and delete its data, after asking (FORCE=1: without)
	@.ci/stack reset
smoke:             ## prove on the running stack that records arrive in their windows, once
	@.ci/stack smoke
full-smoke:        ## the same, and look at Prometheus and Grafana
	@.ci/stack full-smoke
doctor:            ## say what is wrong with the running stack, and what to do (ARGS=--json)
	@.ci/stack doctor $(ARGS)
ps:                ## list the services
	@.ci/stack ps
full-ps:           ## the same with Prometheus and Grafana
	@.ci/stack full-ps
logs:              ## follow the logs (FOLLOW=0: show them)
	@.ci/stack logs
full-logs:         ## the same with those of Prometheus and Grafana
	@.ci/stack full-logs
logs-engine:       ## follow the log of one service: also logs-generator, logs-api, logs-postgres, logs-kafka
	@.ci/stack logs engine
logs-generator:
	@.ci/stack logs event-generator
logs-api:
	@.ci/stack logs metrics-api
logs-postgres:
	@.ci/stack logs postgres
logs-kafka:
	@.ci/stack logs kafka
env:               ## print what a shell must know to ask the stack: eval "$$(make -s env)"
	@.ci/stack env
