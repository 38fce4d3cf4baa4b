# `make demo` and `make test` need python3 (3.10 or newer) and pip; everything else is installed into .venv.
#   PYTHON   interpreter that makes the environment          make test PYTHON=python3.12
#   VENV     where the environment lies                      make test VENV=/somewhere/venv
#   FUZZ_SECONDS, FUZZ_SEED   budget and seed of the fuzzers     make fuzz FUZZ_SECONDS=3600
#   ARGS     further arguments of pytest or facezoo demo     make test ARGS="-k convnext"

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
FUZZ_SECONDS ?= 600
FUZZ_SEED ?= 0

BIN := $(VENV)/bin
# Those left out need a data folder, or a GPU; run them by themselves.
BENCHMARKS := $(filter-out benchmarks/common.py benchmarks/peers.py benchmarks/real_faces.py benchmarks/margins_on_faces.py benchmarks/whole_step.py benchmarks/quick.py,$(wildcard benchmarks/*.py))
SOURCES := pyproject.toml src/facezoo/_version.py

# The tests start hundreds of processes; without this each of them would compile facezoo and the tests anew.
unexport PYTHONDONTWRITEBYTECODE

# Two cores or more share the tests; each process has one thread (tests/conftest.py).
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

.PHONY: help demo test test-ci test-slow fuzz lint format docs bench bench-quick clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 18

demo: $(VENV)/.plot  ## faces, training, evaluation, submission, report: the whole job in minutes on a CPU
	$(BIN)/facezoo demo $(ARGS)

test: $(VENV)/.dev  ## run the tests
	$(PYTEST) $(ARGS)

test-ci: $(VENV)/.dev  ## the slow tests that .ci/run runs too
	$(PYTEST) -m ci $(ARGS)

test-slow: $(VENV)/.dev  ## all slow tests
	$(PYTEST) -m 'slow or ci' $(ARGS)

fuzz: $(VENV)/.dev  ## mutated files for every reader, for FUZZ_SECONDS (600) in all; counts are printed
	FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_SEED=$(FUZZ_SEED) $(BIN)/python -m pytest -m fuzz -s --tb=line tests/fuzz $(ARGS)

lint: $(VENV)/.dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## let ruff format and fix what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.docs  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.dev  ## run the benchmarks; results with machine and versions go to benchmarks/results/
	for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

bench-quick: $(VENV)/.dev  ## some of the benchmarks in a few minutes: does this machine agree with the committed ratios
	$(BIN)/python benchmarks/quick.py

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis

# One stamp file per set of extras; a change of pyproject.toml installs again. Files are compiled when they are imported, not all 13,000 here.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and f"facezoo needs Python 3.10 or newer, this is {sys.version}; say make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: $(SOURCES) | $(BIN)/python
	@echo "installing facezoo[$*] into $(VENV) (minutes, the first time)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[$*]'
	@touch $@
