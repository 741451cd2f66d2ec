# Everything happens in .venv; a machine needs Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Files that say what has been installed: what taskgate runs with, what `make test` needs, what checks need, everything.
RUNTIME := $(VENV)/.runtime-installed
TESTS := $(VENV)/.tests-installed
CHECKS := $(VENV)/.checks-installed
ALL := $(VENV)/.all-installed
# A wheel of each, as constraints.txt has it; pip takes its index, proxy and authorities from this machine's settings.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest
# Two processes for a processor. Tests that share servers stay together: tests/support/scopes.py.
PARALLEL := --numprocesses auto --dist loadscope
# One for a processor: what databases do within seconds must not wait for other tests, and units compute without waits.
CALMLY := --numprocesses $(shell $(PYTHON) -c 'import os; print(os.cpu_count())') --dist loadscope
# All examples of Hypothesis; other runs try fewer (tests/conftest.py).
THOROUGH := --hypothesis-profile thorough

.DEFAULT_GOAL := help
.PHONY: help setup parts up unit test test-all pythons faults check conformance format protos bench update clean

help: ## list the targets, with what they usually take on two processors
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 13

up: $(RUNTIME) ## run taskgate with the documented sample task; Ctrl-C stops it (1 min to set up, 1 s to start)
	@exec $(BIN)/taskgate up --demo

unit: $(TESTS) ## the tests that start no server (25 s)
	$(PYTEST) $(CALMLY) -m 'not needs and not long' tests/unit

test: $(TESTS) ## all that needs nothing but Python and PyPI, with a real Envoy and PostgreSQL (4 min)
	$(PYTEST) $(PARALLEL) -m 'not needs and not long' --ignore tests/bench

test-all: $(ALL) parts ## everything: every database, SDK and language, all faults, a real Conductor (20 min)
	$(PYTEST) $(PARALLEL) $(THOROUGH) -m 'not needs and not long' --cov --cov-report=
	$(PYTEST) $(CALMLY) $(THOROUGH) -m 'needs and not long' --cov --cov-append --cov-report=
	$(PYTEST) $(CALMLY) $(THOROUGH) -m 'long and not alone' --cov --cov-append --cov-report=
	$(PYTEST) $(THOROUGH) -m alone --cov --cov-append --cov-report=term:skip-covered
	$(MAKE) --no-print-directory conformance

pythons: ## the unit tests with each Python from 3.11 to 3.14 that this machine has (2 min each to set up)
	@for python in python3.11 python3.12 python3.13 python3.14; do \
		if $$python -c '' 2>/dev/null; then $(MAKE) --no-print-directory VENV=build/$$python PYTHON=$$python unit || exit 1; \
		else echo "LEFT OUT: $$python, which this machine does not have"; fi; \
	done

check: $(CHECKS) ## format, lint, types, import rules, protos, Envoy configuration (1 min)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/protos.py lint
	$(BIN)/python tools/protos.py format-check
	$(BIN)/python tools/protos.py breaking
	$(BIN)/python tools/protos.py check
	$(BIN)/taskgate gateway --validate

faults: $(ALL) parts ## the fault tests alone, with the figures that they print (15 min)
	$(PYTEST) -rP tests/faults

# The limit is for the whole of one test, which waits for Conductor to start and to run every workflow.
conformance: $(ALL) parts ## compare with a real Conductor on each database (4 min; fetches 0.5 GB once)
	$(PYTEST) $(CALMLY) --timeout=900 tests/against_conductor/check_answers.py

bench: $(ALL) parts ## measure against peers, as ratios (20 min)
	$(BIN)/python -m bench

format: $(CHECKS) ## format Python and proto files in place
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python tools/protos.py format

protos: $(CHECKS) ## regenerate stubs, typed stubs and the descriptor set for Envoy
	$(BIN)/python tools/protos.py generate

setup: $(CHECKS) $(ALL) parts ## fill .venv with all that the targets need (5 min)

parts: $(ALL) ## fetch the servers and packages of other languages that tests use; what cannot be had is said
	@PYTHONPATH=. $(BIN)/python -m tools.parts

update: ## write constraints.txt anew: the newest versions that pyproject.toml allows (2 min)
	$(PYTHON) -m venv --clear build/update
	build/update/bin/python -m pip install --quiet --disable-pip-version-check '.[test-all,check]'
	{ sed -n '/^#/p' constraints.txt; build/update/bin/python -m pip list --format=freeze --exclude taskgate --exclude pip --exclude setuptools; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

$(RUNTIME): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "taskgate needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' \
		|| { echo "$(PYTHON) lacks the venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Setting up $(VENV): taskgate and Envoy (once, up to a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --editable .
	@touch $@

$(TESTS): $(RUNTIME)
	@echo "Setting up $(VENV): what the tests need (once, half a minute)"
	@$(PIP_INSTALL) --editable '.[test]'
	@touch $@

$(CHECKS): $(RUNTIME)
	@echo "Setting up $(VENV): what the checks need (once, a minute)"
	@$(PIP_INSTALL) --editable '.[test-all,check]'
	@touch $@

$(ALL): $(RUNTIME)
	@echo "Setting up $(VENV): what all tests and the benchmark need, with Java, Node.js and Go (once, two minutes)"
	@$(PIP_INSTALL) --editable '.[test-all]'
	@touch $@

clean: ## remove .venv and caches
	rm -rf $(VENV) build dist .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/*/javascript/node_modules
