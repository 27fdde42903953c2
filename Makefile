# Set-up is part of every target: .venv is made when it is missing, and again when what it was made from changes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

export TOKENIZERS_PARALLELISM := false

.PHONY: help setup quickstart test test-slow test-whole lint format clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "make %-12s %s\n", $$1, $$2}'

setup: $(INSTALLED)  ## Make .venv with align and its tools in it

quickstart: $(INSTALLED)  ## Train three toy assistants on the CPU and compare them (minutes, no network)
	$(BIN)/align run quickstart

test: lint  ## Lint, check types and run the default tests
	$(BIN)/pytest -m "not slow"

test-slow: $(INSTALLED)  ## Run the long tests
	$(BIN)/pytest -m "slow and not whole"

test-whole: $(INSTALLED)  ## Run recipes from end to end on several seeds (many minutes)
	$(BIN)/pytest -m whole

lint: $(INSTALLED)  ## Lint and check types
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(INSTALLED)  ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove .venv and what tools left behind (runs/ stays)
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "align needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo missing)." >&2; \
		echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
