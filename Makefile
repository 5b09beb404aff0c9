# Each target makes what it needs: the first run creates a virtual environment and installs the
# package into it, later runs reuse it.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
PYTEST_FLAGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint $(CONSTRAINTS)

export MPLBACKEND ?= Agg

.DEFAULT_GOAL := help
.PHONY: help demo test test-all bench bench-gpu mutants docs lint format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## run the quickstart; pictures and results go to examples/output/
	$(BIN)/python examples/quickstart.py

# The tests' tensors are small: processes use the cores better than threads do. A process takes tests
# that follow each other, which share fixtures and kernels, and at the end some of the others'.
test test-all: export OMP_NUM_THREADS ?= 1
# Memory of a tensor that is gone serves the next one. By default glibc gives it back to the system,
# which clears every page again: a fifth of the time of a check.
test test-all: export MALLOC_MMAP_THRESHOLD_ ?= 33554432
test test-all: export MALLOC_TRIM_THRESHOLD_ ?= 536870912
IN_PROCESSES := --numprocesses auto --dist worksteal

test: $(VENV)/.installed ## run the tests, all but the slow ones
	$(BIN)/python -m pytest $(IN_PROCESSES) $(PYTEST_FLAGS)

test-all: $(VENV)/.installed ## run the tests, the slow ones too
	$(BIN)/python -m pytest $(IN_PROCESSES) -m "not gpu" $(PYTEST_FLAGS)

lint: $(VENV)/.installed ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed ## put all files into the common format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-docs ## run the gallery, and build the documentation into docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

bench-gpu: $(VENV)/.installed ## measure the kernels on a CUDA device and write the results there too
	$(BIN)/python tests/benchmarks/gpu.py

mutants: $(VENV)/.installed-mutation ## change the package at random and count what the tests notice
	$(BIN)/python tests/mutation/run.py

bench: $(VENV)/.installed-bench ## measure speed and write the results to docs/performance.md
	$(BIN)/python tests/benchmarks/run.py

clean: ## remove everything that was made, the virtual environment too
	rm -rf $(VENV) build dist *.egg-info examples/output
	rm -rf docs/_build docs/gallery docs/start docs/sg_execution_times.rst
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(wildcard pyro_expfam tests examples docs) -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): a few minutes, most of them for PyTorch"
	$(PIP) --editable '.[examples,test]'
	touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(PIP) --editable '.[$*]'
	touch $@
