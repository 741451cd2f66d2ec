# Everything happens in .venv; a machine needs Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Files that say what has been installed: what taskgate runs with, what `make test` needs, what checks need, what `make fuzz` needs,
# everything.
RUNTIME := $(VENV)/.runtime-installed
TESTS := $(VENV)/.tests-installed
CHECKS := $(VENV)/.checks-installed
FUZZ := $(VENV)/.fuzz-installed
ALL := $(VENV)/.all-installed
# Tests start many processes, which need a quarter less time to start with the bytecode of those before them.
unexport PYTHONDONTWRITEBYTECODE
# A wheel of each, as constraints.txt has it; pip takes its index, proxy and authorities from this machine's settings.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest
# Two processes for a processor. Tests that share servers stay together: tests/support/scopes.py.
PARALLEL := --numprocesses auto --dist loadscope
# One for a processor: what databases do within seconds must not wait for other tests, and units compute without waits.
CALMLY := --numprocesses $(shell $(PYTHON) -c 'import os; print(os.cpu_count())') --dist loadscope
# Of `make soak`, for both modes together, and of `make fuzz`, for each target.
SOAK_SECONDS := 3600
FUZZ_SECONDS := 60
# All examples of Hypothesis; other runs try fewer (tests/conftest.py).
THOROUGH := --hypothesis-profile thorough

.DEFAULT_GOAL := help
.PHONY: help setup parts up unit test test-all coverage pythons stubs examples faults fuzz soak check check-deploy conformance format protos docs bench update clean

help: ## list the targets, with what they usually take on two processors
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 13

up: $(RUNTIME) ## run taskgate with the documented sample task; Ctrl-C stops it (1 min to set up, 1 s to start)
	@exec $(BIN)/taskgate up --demo

unit: $(TESTS) ## the tests that start no server (25 s)
	$(PYTEST) $(CALMLY) -m 'not needs and not long' tests/unit

test: $(TESTS) ## all that needs nothing but Python and PyPI, with a real Envoy and PostgreSQL (6 min)
	$(PYTEST) $(PARALLEL) -m 'not needs and not long' --ignore tests/bench $(COVERAGE)

# What `make test` runs is not run again, but for all examples of Hypothesis. With TESTED=yes it has been run before.
test-all: $(ALL) parts ## everything: every database, SDK and language, all faults, a real Conductor (45 min)
	$(if $(TESTED),,$(MAKE) --no-print-directory test)
	$(PYTEST) $(CALMLY) $(THOROUGH) -m '(needs or hypothesis) and not long'
	$(PYTEST) $(CALMLY) -m 'not needs and not long' tests/bench
	$(PYTEST) $(CALMLY) $(THOROUGH) -m 'long and not alone'
	$(PYTEST) $(THOROUGH) -m alone
	$(MAKE) --no-print-directory conformance

coverage: COVERAGE := --cov --cov-report=term-missing:skip-covered
coverage: $(ALL) test ## make test, and the lines of server/ that it does not run in its own processes (8 min)

stubs: $(ALL) ## stubs for nine languages into build/stubs, as examples/*/buf.gen.yaml say (10 min to set up, then 10 s)
	@PYTHONPATH=. $(BIN)/python -m tools.stubs $(LANGUAGES)

examples: $(ALL) ## build the client of each language in examples/, and run it against a live taskgate (10 min)
	@PYTHONPATH=. $(BIN)/python -m tools.parts stubs
	@PYTHONPATH=. $(BIN)/python -m tools.parts jdk
	@PYTHONPATH=. $(BIN)/python -m tools.parts 'cpp grpc'
	@PYTHONPATH=. $(BIN)/python -m tools.parts 'ruby grpc'
	$(PYTEST) -rP tests/examples

pythons: ## the unit tests with each Python from 3.11 to 3.14 that this machine has (3 min each to set up)
	@for python in python3.11 python3.12 python3.13 python3.14; do \
		if $$python -c '' 2>/dev/null; then $(MAKE) --no-print-directory VENV=build/$$python PYTHON=$$python unit || exit 1; \
		else echo "LEFT OUT: $$python, which this machine does not have"; fi; \
	done

check: $(CHECKS) ## format, lint, types, import rules, protos, OpenAPI, site, Envoy configuration, deploy/ (1 min)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python tools/snippets.py
	$(BIN)/lint-imports
	$(BIN)/python tools/protos.py lint
	$(BIN)/python tools/protos.py format-check
	$(BIN)/python tools/protos.py breaking
	$(BIN)/python tools/protos.py check
	$(BIN)/python tools/openapi.py check
	$(BIN)/python tools/openapi.py lint
	$(BIN)/python tools/reference.py check
	$(BIN)/python tools/docs_site.py build
	$(BIN)/taskgate gateway --validate
	$(BIN)/python tools/deploy.py

check-deploy: $(CHECKS) ## lint deploy/ with linters in Go, too (5 min to build them once, then 1 s)
	$(BIN)/python tools/deploy.py --build

faults: $(ALL) parts ## the fault tests alone, with the figures that they print (15 min)
	$(PYTEST) -rP tests/faults

fuzz: $(FUZZ) ## hostile bytes for each parser, FUZZ_SECONDS=60 each (15 min); what is found is kept in build/fuzz
	PYTHONPATH=tests:. $(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS) $(TARGETS)

soak: $(TESTS) ## mixed calls for SOAK_SECONDS=3600, in which no process may grow; prints the slopes (1 h)
	SOAK_SECONDS=$(SOAK_SECONDS) $(PYTEST) -rP tests/soak/test_soak.py

# The limit is for the whole of one test, which waits for Conductor to start and to run every workflow.
conformance: $(ALL) parts ## compare with a real Conductor on each database (5 min; fetches 0.5 GB once)
	$(PYTEST) $(CALMLY) --timeout=900 tests/against_conductor/check_answers.py

bench: $(ALL) parts ## measure against peers, as ratios (20 min)
	$(BIN)/python -m bench

format: $(CHECKS) ## format Python and proto files in place
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python tools/protos.py format

protos: $(CHECKS) ## regenerate stubs, the descriptor set for Envoy, the OpenAPI document, docs/api.md and docs/errors.md
	$(BIN)/python tools/protos.py generate
	$(BIN)/python tools/openapi.py generate
	$(BIN)/python tools/reference.py generate

docs: $(CHECKS) ## build the documents as a site in build/site, and show it at http://127.0.0.1:8000 until Ctrl-C (3 s)
	@exec $(BIN)/python tools/docs_site.py serve

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

$(FUZZ): $(RUNTIME)
	@echo "Setting up $(VENV): what fuzzing needs (once, half a minute)"
	@$(PIP_INSTALL) --editable '.[fuzz]'
	@touch $@

$(ALL): $(RUNTIME)
	@echo "Setting up $(VENV): what all tests and the benchmark need, with Java, Node.js and Go (once, two minutes)"
	@$(PIP_INSTALL) --editable '.[test-all]'
	@touch $@

clean: ## remove .venv and caches
	rm -rf $(VENV) build dist .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache tests/*/javascript/node_modules tools/npm/node_modules \
		examples/*/node_modules examples/*/build examples/ruby/Gemfile.lock examples/*/target examples/*/dist examples/*/src/gen
