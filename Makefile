# `make help` lists what there is. Everything lives in .venv/; uv is put there when the machine has none.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Tests and benchmarks start hundreds of processes: each would compile all of its modules again, 0.8 s of CPU.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup up test unit check format lock coverage bench clean simulate chaos fuzz

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1mmake %-10s\033[0m %s\n", $$1, $$2}'

setup: $(STAMP) ## install everything into .venv/ (once; again only when the lock changes)

$(STAMP): requirements/dev.txt requirements/uv.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "headrace needs Python 3.11 or later, and found none on PATH. Install one, or say make PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "headrace: installing Python packages into $(VENV)/ …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt \
		|| { echo "headrace: could not install uv from the package registry. Is there a network?"; exit 1; }
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/uv.txt requirements/dev.txt \
		|| { echo "headrace: could not install the packages that requirements/dev.txt lists. Is there a network, and space on the disk?"; exit 1; }
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

up: setup ## start Kafka, S3, the producer and the consumer here, and say where to POST
	@$(BIN)/headrace up

# Most tests wait for servers, time-outs and sessions: side by side, they take a third of the time. JOBS=0: one by one.
JOBS ?= 3
test: setup ## every test, on a real Kafka and a real S3 server that the tests start themselves
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

unit: setup ## the tests that need no server
	$(BIN)/python -m pytest tests/unit tests/simulation

SEEDS ?= 20000
simulate: setup ## simulated schedules of the archiver: SEEDS=1000000, or from-to (the tests run the first 2,000)
	$(BIN)/python -m tests.simulation $(if $(findstring -,$(SEEDS)),$(SEEDS),0-$(SEEDS))

FAULTS ?= 200
chaos: setup ## real processes and servers, killed, paused and cut off under load: FAULTS=200, SEED=… (docs/RELIABILITY.md)
	$(BIN)/python -m tests.chaos --faults $(FAULTS) $(if $(SEED),--seed $(SEED))

FUZZ ?= 60
fuzz: setup ## random, truncated and hostile HTTP at a real producer, for so many seconds: FUZZ=3600, SEED=…, TLS=1
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ) $(if $(SEED),--seed $(SEED)) $(if $(TLS),--tls)

check: setup ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

PURE := consumer/budget.py,consumer/checksum.py,consumer/chunk.py,consumer/claims.py,consumer/encode/*,consumer/folders.py,consumer/jobs.py
PURE := $(PURE),consumer/lane.py,consumer/layout.py,consumer/moments.py,consumer/pointer.py,consumer/slots.py,consumer/takeover.py
PURE := $(PURE),headrace/collection.py,headrace/columns.py,headrace/comparison.py,headrace/coverage.py,headrace/jsontext.py,headrace/objects.py,headrace/parquet.py,headrace/points.py,headrace/tally.py
PURE := $(PURE),headrace/s3/options.py,headrace/s3/parts.py
PURE := $(PURE),producer/batches.py,producer/cloudevents.py,producer/inflating.py,producer/keys.py,producer/limits.py,producer/packing.py
PURE := $(PURE),producer/partitioner.py,producer/payloads.py,producer/positions.py,producer/produce_requests.py,producer/rates.py
PURE := $(PURE),producer/records.py,producer/signatures.py,producer/tokens.py

coverage: setup ## the unit tests' coverage, with branches; pure modules must have all of it
	$(BIN)/coverage run -m pytest -q tests/unit
	$(BIN)/coverage report --fail-under=60
	$(BIN)/coverage report --include='$(PURE)' --fail-under=100

lock: setup ## pin the packages again, by hash
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--python-version 3.11 --extra bench --extra local --extra obstore --extra parquet --group dev pyproject.toml -o requirements/dev.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--python-version 3.11 --extra obstore --extra parquet pyproject.toml -o requirements/run.txt -c requirements/dev.txt

PEER_GO ?= $(wildcard ../shared/peers/go)
bench: setup ## what requests and records cost, on a stack of its own: ARGS=--record keeps it (bench/RESULTS.md), ARGS=--help
	$(BIN)/headrace bench --own-stack $(if $(PEER_GO),--peer-go $(PEER_GO)) $(ARGS)

clean: ## throw away .venv/ and caches (the local stack's data in .headrace/ stays)
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
