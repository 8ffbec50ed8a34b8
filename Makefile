# Every command of the project. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# cargo by rustup is not always in the PATH of a fresh shell.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
TARGET := $(or $(CARGO_TARGET_DIR),target)
DEMO := build/demo_server

.PHONY: help
help: ## List these commands
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

.PHONY: setup
setup: ## Install what the build and the demo need (Debian packages; asks for sudo when not root)
	@scripts/setup.sh

.PHONY: setup-tests
setup-tests: ## Install what the tests need as well
	@scripts/setup.sh tests

.PHONY: setup-bench
setup-bench: ## Install what `make bench` compares avleak with
	@scripts/setup.sh bench

.PHONY: build
build: ## Build avleak and libavleak.so into target/release
	@cargo build --release --locked --workspace </dev/null

.PHONY: media
media: ## Make the sample videos in build/media
	@scripts/make-media.sh

$(DEMO): tests/programs/demo_server.c tests/programs/truth.h
	@mkdir -p $(@D)
	@cc -D_GNU_SOURCE -g -O1 -fno-builtin -Wall -Wextra $< -o $@ -Wl,--as-needed -lavformat -lavcodec -lswscale -lavutil -lpthread

.PHONY: demo
demo: ## Run a small streaming server that leaks frames under avleak, and show the report
	@$(MAKE) --no-print-directory setup build media $(DEMO)
	@echo
	@echo '$$ avleak run -- demo_server sample.mp4'
	@code=0; $(TARGET)/release/avleak run -- $(DEMO) build/media/sample.mp4 </dev/null || code=$$?; \
	    echo "avleak exited with $$code"; \
	    [ $$code = 1 ] || { echo "the demo should have found leaks (exit code 1)" >&2; exit 1; }

.PHONY: test
test: ## Set up, build, and run every test
	@$(MAKE) --no-print-directory setup-tests build media check-exports
	@# Signals that a caller ignores (nohup, a background job) would be ignored by the programs under test too.
	@env --default-signal cargo test --release --locked --workspace --no-fail-fast </dev/null 2>&1 | tee build/test.log; \
	    status=$${PIPESTATUS[0]}; scripts/test-summary.sh build/test.log; exit $$status

.PHONY: dist
dist: ## Make the tarball and the Debian package, for glibc 2.17 and later, in target/dist
	@scripts/setup.sh dist
	@scripts/dist.sh

.PHONY: matrix
matrix: ## Run the fixtures over every FFmpeg of Debian and of PyAV's wheels (SUITE="bullseye wheels"); needs root
	@scripts/matrix.sh $(SUITE)

.PHONY: check-aarch64
check-aarch64: ## Build avleak and libavleak.so for AArch64, and run them under emulation as far as that goes
	@scripts/setup.sh aarch64
	@cargo check --locked --workspace --all-targets --target aarch64-unknown-linux-gnu </dev/null
	@CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc CARGO_PROFILE_RELEASE_LTO=off \
	    cargo build --release --locked --target aarch64-unknown-linux-gnu -p avleak -p avleak-interposer </dev/null
	@scripts/check-exports.sh $(TARGET)/aarch64-unknown-linux-gnu/release/libavleak.so aarch64/
	@scripts/aarch64-smoke.sh

.PHONY: loom
loom: ## Explore what threads and reader may see of each other on the wire, in every order
	@CARGO_TARGET_DIR=$(TARGET)/loom RUSTFLAGS="--cfg loom" cargo test --release --locked -p avleak-wire --test loom

.PHONY: test-all
test-all: lint loom test-bench ## Lint, explore the wire, run every test (storm, fuzzer and kills for minutes), a short soak, then the matrix and AArch64
	@scripts/setup.sh go
	@AVLEAK_STORM_SECONDS=60 AVLEAK_FUZZ_SECONDS=300 AVLEAK_KILLS=100 AVLEAK_AT_LARGE=1 AVLEAK_GO_ALL=1 $(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory soak PHASE=watch MINUTES=5
	@$(MAKE) --no-print-directory matrix
	@$(MAKE) --no-print-directory check-aarch64

.PHONY: bench
bench: ## Compare cost and outcome with other tools (WORKLOAD=a TOOL=avleak N=5 QUICK=1); all of it writes docs/benchmarks.md
	@$(MAKE) --no-print-directory setup-bench build
	@python3 benches/bench.py $(if $(WORKLOAD),--workload '$(WORKLOAD)') $(if $(TOOL),--tool '$(TOOL)') $(if $(N),-n '$(N)') \
	    $(if $(filter-out 0,$(QUICK)),--quick)

.PHONY: soak
soak: ## Soak a streaming server under avleak, leaky and clean, and measure what it costs (MINUTES=30 PHASE=watch|overhead|page); writes docs/soak.md
	@$(MAKE) --no-print-directory setup build
	@python3 benches/soak_streams.py $(if $(MINUTES),--minutes '$(MINUTES)') $(if $(PHASE),--phase '$(PHASE)')

.PHONY: bench-live
bench-live: ## Measure how long checks stop a living process, and what they call lost falsely (PART=big|speed|real_time|page); writes docs/live-check.md
	@$(MAKE) --no-print-directory setup build
	@python3 benches/live_checks.py $(if $(PART),--part '$(PART)') $(if $(CHECKS),--checks '$(CHECKS)' --ffmpeg-checks '$(CHECKS)')

.PHONY: test-bench
test-bench: ## Test the benchmark's own arithmetic and its readers of other tools' output
	@python3 -m unittest discover -q -s benches -t benches

.PHONY: check-exports
check-exports: ## Compare what libavleak.so exports with the table of hooks
	@scripts/check-exports.sh $(TARGET)/release/libavleak.so

.PHONY: lint
lint: ## Check the formatting, and clippy without warnings; that it compiles for AArch64 too, where Rust can
	@cargo fmt --all --check
	@cargo clippy --locked --workspace --all-targets -- -D warnings
	@if rustup target list --installed 2>/dev/null | grep -qx aarch64-unknown-linux-gnu; then \
	    cargo clippy --locked --workspace --all-targets --target aarch64-unknown-linux-gnu -- -D warnings </dev/null; \
	else echo "not checked for AArch64: rustup target add aarch64-unknown-linux-gnu"; fi

.PHONY: clean
clean: ## Remove what was built, and the sample videos
	@cargo clean
	@rm -rf build
