# `make help` lists the targets. Everything is installed into .venv; nothing else of the machine is touched.
PYTHON ?= python3
CONFIG ?= configs/digits.yaml
ARGS ?=
BIN := .venv/bin

.PHONY: help setup submit check format schema test test-slow test-kaggle clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/runtime  ## build .venv with what a run needs

unexport MESSAGE
submit: export PODIUM_MESSAGE = $(value MESSAGE)
submit: .venv/runtime  ## raw input to a checked submission.csv: CONFIG="a.yaml b.yaml" ARGS="key=value"; UPLOAD=1 MESSAGE="to Kaggle" WAIT=15
	@$(BIN)/python scripts/submit.py $(CONFIG) $(ARGS) $(if $(filter-out 0 no No NO false False FALSE off,$(UPLOAD)),--upload $(if $(value MESSAGE),--message="$$PODIUM_MESSAGE")) $(if $(WAIT),--wait=$(WAIT))

check: .venv/dev  ## lint, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: .venv/dev  ## mend what can be mended by itself
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

schema: .venv/runtime  ## write configs/schema.json anew
	@$(BIN)/python -c "from pathlib import Path; from pipeline.config_files import json_schema; Path('configs/schema.json').write_text(json_schema())"

test: .venv/dev  ## the tests, under 5 minutes
	@$(BIN)/pytest -m "not slow"

test-slow: .venv/dev  ## the long ones: kills, real photographs; under 45 minutes
	@$(BIN)/pytest -m slow

test-kaggle:  ## the fast tests on the versions of Kaggle's image, in .venv/kaggle
	@scripts/test_on_kaggle_versions.sh

clean:  ## remove .venv and caches; input/ and outputs/ stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.12"; exit 2; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; echo "Debian and Ubuntu keep venv in a package of its own: install python3-venv"; exit 2; }

.venv/runtime: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch .venv/runtime $@
