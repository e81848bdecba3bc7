# Every target sets up what it needs; a second call installs nothing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# a thread each: threads of several processes on the same cores wait for each other
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup --durations=30

.DEFAULT_GOAL := help
.PHONY: help install run test test-slow test-gpu test-data test-all lint types format check docs docs-serve smoke bench-check results pictures wheel clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	@echo "Installing into $(VENV) (torch is large: a few minutes the first time) ..."
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"rotograd needs Python 3.11 to 3.13, found {v[0]}.{v[1]}; run: make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)

install: $(STAMP) ## create .venv and install the package with its development tools

run: $(STAMP) ## train RotoGradNorm on embedded real digits and print the results
	$(BIN)/rotograd train method=rotogradnorm
	@echo "Next: run . $(BIN)/activate, then go on with docs/start.md, or: rotograd report run=DIR"

test: $(STAMP) ## run the default tests (CPU, no network) side by side on all cores
	$(PARALLEL)

test-slow: $(STAMP) ## run the slow checks: whole grids, many processes, kills
	$(PARALLEL) -m slow

test-gpu: $(STAMP) ## run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

test-data: $(STAMP) ## run the tests that need real files under ROTOGRAD_DATA
	$(BIN)/python -m pytest -m data

test-all: $(STAMP) ## run every test, also the slow ones, and those of a GPU and of real files where there are any
	$(PARALLEL) -m ""

lint: $(STAMP) ## check style, formatting (ruff) and spelling (codespell)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m codespell_lib

types: $(STAMP) ## check types (mypy --strict)
	$(BIN)/mypy

format: $(STAMP) ## format the code in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint types test docs ## everything that must pass before a commit

docs: $(STAMP) ## build the documentation site into build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/site/index.html has the documentation; its search needs a server: make docs-serve"

docs-serve: $(STAMP) ## show the documentation site at http://127.0.0.1:8000 while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

smoke: $(STAMP) ## train two steps through the command line
	$(BIN)/rotograd train debug=smoke

bench-check: $(STAMP) ## measure speed and sizes, and print which targets are met; a quiet machine, 14 minutes (rows=default,lenet)
	$(BIN)/python scripts/performance.py --check --only "$(rows)"

results: $(STAMP) ## make the pages of docs/results again; says what is to be trained first (train=1 trains it, pages=NAME, runs=DIR)
	$(BIN)/python scripts/results.py $(pages) train=$(or $(train),0) runs=$(or $(runs),outputs)

pictures: $(STAMP) ## make the pictures of the documentation again (train=1 trains what they need, names=NAME, runs=DIR)
	$(BIN)/python scripts/pictures.py $(names) train=$(or $(train),0) runs=$(or $(runs),outputs)

wheel: $(STAMP) ## build the wheel into dist/
	$(BIN)/python -m build --wheel

clean: ## remove the environment, caches and build output (runs and data stay)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
