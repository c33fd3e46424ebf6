# The tasks of this project. CI runs `make test` and nothing else.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup tools dist build fmt lint doc deny test test-rust test-kubernetes test-versions robustness \
  robustness-proof soak abuse fuzz test-deploy test-browser demo bench clean

target := $(abspath $(or $(CARGO_TARGET_DIR),target))
# What the tests start, unless told otherwise.
export SEAWALL_BIN ?= $(target)/release/seawall
# What could not be checked, said again at the end of `make test`.
export SEAWALL_SKIPPED := $(target)/skipped
ifdef SEAWALL_TOOLS_DIR
export PROTOC ?= $(SEAWALL_TOOLS_DIR)/protoc/bin/protoc
endif

help: ## List the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-16s %s\n", $$1, $$2 }' Makefile

setup: ## Obtain protoc and etcd, without root, below target/tools
	@scripts/protoc
	@scripts/etcd install default oldest newest

tools: setup ## Obtain chromium too, and what checks deploy/: only tests need them
	@scripts/deploy-tools
	@scripts/deploy-tools chromium

build: ## Build the proxy (release)
	cargo build --release --locked

fmt: ## Format the code
	cargo fmt --all

lint: setup ## Check the format and lint everything
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

doc: setup ## Build the API documentation, private items too; a broken link fails
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --workspace --no-deps --document-private-items --locked

deny: ## Audit the dependencies: licences, sources, bans, and advisories where they can be fetched
	@scripts/deny

test: ## Everything CI runs
	@mkdir -p $(target) && rm -f $(SEAWALL_SKIPPED)
	@$(MAKE) --no-print-directory lint doc deny test-rust test-kubernetes
	@echo
	@if [ -f $(SEAWALL_SKIPPED) ]; then sed 's/^/SKIPPED: /' $(SEAWALL_SKIPPED); fi
	@echo "make test: everything that ran has passed"

test-rust: tools build ## All Rust tests with the oldest etcd that can be had, conformance with the newest too
	SEAWALL_ETCD=$$(scripts/etcd oldest) cargo test --workspace --locked
	SEAWALL_ETCD=$$(scripts/etcd newest) cargo test --locked --test conformance --test mirror_store

test-kubernetes: setup build ## kube-apiserver's own storage suites through the proxy, where there is Go
	@scripts/kubernetes-tests

test-versions: setup build ## Conformance with every etcd version that can be had: 3.4 3.5 3.6 3.7
	@scripts/etcd list
	@scripts/etcd install all
	@for line in $$(scripts/etcd all); do \
	  echo "conformance with etcd $$line"; \
	  SEAWALL_ETCD=$$line cargo test --locked --test conformance --test mirror_store; \
	done

robustness: setup build ## Random faults and whether clients are told the truth; SEED=1 DURATION=300 VERSION=3.6 MEMBERS=3 if you like
	cargo test --locked --test robustness long -- --ignored --nocapture

robustness-proof: setup ## See that a Seawall built to break its promises is found out each time
	env -u SEAWALL_BIN cargo test --locked --features sabotage --test robustness proof:: -- --nocapture

soak: setup build ## Clients come and go, and nothing is left of them; DURATION=1800
	cargo test --locked --test abuse soak::long -- --ignored --nocapture

abuse: setup build ## 100,000 watchers on a stream, 2 GiB for clients that stop reading: minutes
	cargo test --locked --test abuse large:: -- --ignored --nocapture --test-threads=1

fuzz: ## Arbitrary bytes for what reads bytes, with nightly and cargo-fuzz; TARGET=wire|keys|config|http2 DURATION=60
	cargo +nightly fuzz run $(or $(TARGET),wire) -- -max_total_time=$(or $(DURATION),60)

test-deploy: tools build ## What is in deploy/, with helm and the image's stages, whose builds take minutes
	@scripts/deploy-tools helm
	cargo test --locked --test deploy
	@scripts/container-test

dist: ## Make release archives for x86-64 and arm64, with checksums and bills of materials, in target/dist
	@scripts/dist $(ARGS)

test-browser: tools build ## The live page in a headless chromium; pictures of it stay below target/tmp
	cargo test --locked --test browser

demo: setup build ## Watch the proxy split Kubernetes keys over two etcd clusters; KEEP=1 leaves them running
	@KEEP=$(KEEP) cargo run --quiet --locked --example demo

seawall_bench := cargo run --release --locked --package seawall-bench --

bench: setup build ## Reproduce what brings etcd down, with and without Seawall (an hour); ARGS are for seawall-bench
	@scripts/haproxy || echo "measuring without HAProxy"
	$(seawall_bench) $(or $(ARGS),run --json $(target)/bench.json --html $(target)/bench.html)

clean: ## Remove everything that was built or obtained
	cargo clean
	rm -rf target
