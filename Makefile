# The commands of the project. `make demo` needs Debian 12 with Rust and Python, `make test` Go besides; what
# else they need, they install.
#
# Cargo builds a dependency anew for each set of features that the packages asked for have in common.
# So everything here asks for the whole workspace.

SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
E2E_BIN := $(or $(HOLDFAST_E2E_CACHE),$(CURDIR)/.cache/e2e)/bin
CLUSTER_DIR ?= /tmp/holdfast-cluster
CLUSTER_FLAGS ?=

.PHONY: help setup setup-demo build demo test unit lint fmt generate verify-generated generate-deploy verify-deploy deny bench bench-scale soak cluster-up cluster-down clean

help: ## Say what there is.
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: ## Install the servers and tools of the end-to-end tests (idempotent).
	@e2e/setup

setup-demo: ## Install what the demonstration needs: a MongoDB server.
	@e2e/setup demo

build: ## Build the binary.
	$(CARGO) build --locked --workspace --bins

demo: setup-demo build ## Back a real MongoDB up, wreck it and bring it back.
	@HOLDFAST_BIN="$(abspath $(TARGET_DIR))/debug/holdfast" $(TARGET_DIR)/debug/demo

# What this machine cannot run is said by name at the end, whatever became of the rest. The file's name is
# absolute: tests run in the folders of their packages.
test: setup ## Every test: unit, property and end-to-end; says what was skipped.
	$(CARGO) build --locked --workspace --all-targets
	export HOLDFAST_E2E_SKIPPED="$(abspath $(TARGET_DIR))/skipped"
	rm -f "$$HOLDFAST_E2E_SKIPPED"
	code=0
	$(CARGO) test --locked --workspace --no-fail-fast || code=$$?
	if [ -s "$$HOLDFAST_E2E_SKIPPED" ]; then
		sort -u "$$HOLDFAST_E2E_SKIPPED" | sed 's/^/skipped: /'
	else
		echo "nothing was skipped"
	fi
	exit "$$code"

unit: ## The tests that need no server.
	$(CARGO) test --locked --workspace --lib --bins --no-fail-fast

lint: ## rustfmt and clippy, warnings are errors.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

fmt: ## Format the code.
	$(CARGO) fmt --all

generate: build ## Write the CRDs and the JSON Schema anew.
	@$(TARGET_DIR)/debug/crdgen

verify-generated: build ## Fail when a generated file is stale.
	@$(TARGET_DIR)/debug/crdgen
	git diff --exit-code -- crds charts

generate-deploy: ## Write the plain manifests of the operator anew, from the chart.
	@PATH="$(E2E_BIN):$$PATH" deploy/generate > deploy/operator.yaml.new
	mv deploy/operator.yaml.new deploy/operator.yaml

verify-deploy: generate-deploy ## Fail when they were stale.
	git diff --exit-code -- deploy

deny: ## Licences, advisories and duplicates of the dependencies (needs cargo-deny).
	$(CARGO) deny check

bench: setup ## Compare with the stock tools; prints the table of BENCHMARKS.md.
	$(CARGO) build --locked --release --workspace --bins
	@HOLDFAST_BIN="$(abspath $(TARGET_DIR))/release/holdfast" $(TARGET_DIR)/release/bench

bench-scale: setup ## Measure the operator with 2,000 policies and 10,000 backups (HOLDFAST_SCALE_IDLE_MINUTES).
	$(CARGO) build --locked --release --workspace --bins
	@HOLDFAST_BIN="$(abspath $(TARGET_DIR))/release/holdfast" $(TARGET_DIR)/release/scale

soak: setup ## The long forms of the end-to-end tests: all the repetitions and sizes.
	$(CARGO) build --locked --workspace --all-targets
	HOLDFAST_E2E_LONG=1 $(CARGO) test --locked --workspace --test roundtrip --test consistency --test kills --test operator_api --test cluster_restarts -- --nocapture

cluster-up: setup ## Start a real Kubernetes cluster (e2e/cluster/README.md).
	@$(E2E_BIN)/cluster up --dir "$(CLUSTER_DIR)" $(CLUSTER_FLAGS)
	echo "kubectl and helm are in $(E2E_BIN)"

cluster-down: ## End it; nothing of it is left.
	@$(E2E_BIN)/cluster down --dir "$(CLUSTER_DIR)"
	rm -rf "$(CLUSTER_DIR)"

clean: ## Remove what was built; keep what was installed.
	$(CARGO) clean
