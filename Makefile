# Everything sets itself up: Python 3.11 or newer and make are all that is needed. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := $(VENV)/.core.stamp
TEST := $(VENV)/.test.stamp
LOCK := $(BIN)/uv pip compile --quiet --universal --no-annotate --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11
LOCK_NOTE := '\# Made by make lock from pyproject.toml; do not edit.'
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test test-all lint format bench demo interop lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(CORE) ## start the broker on 127.0.0.1:1883 (WebSocket 8083), data under ./data
	$(BIN)/tideline serve --config config.yaml $(ARGS)

test: $(TEST) ## run the tests; ARGS='-k name' picks some
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow and not interop" $(ARGS)

test-all: $(TEST) ## run the tests, those that take minutes included
	$(BIN)/python -m pytest -m "not interop" $(ARGS)

lint: $(TEST) ## check style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(TEST) ## format the code
	$(BIN)/ruff check --fix-only --quiet . && $(BIN)/ruff format .

bench: $(TEST) ## measure Tideline beside the brokers that are installed
	$(BIN)/python -m bench $(ARGS)

demo: $(TEST) ## see a phone and a laptop survive a killed broker
	$(BIN)/tideline demo $(ARGS)

interop: $(TEST) ## run other people's clients against the broker; names what is missing
	$(BIN)/python -m pytest -m interop -rs tests $(ARGS)

lock: $(TEST) ## resolve the dependencies anew into requirements/
	echo $(LOCK_NOTE) | tee requirements/core.txt > requirements/test.txt
	$(LOCK) $(ARGS) pyproject.toml requirements/build.in >> requirements/core.txt
	$(LOCK) $(ARGS) --extra test --constraint requirements/core.txt pyproject.toml requirements/build.in >> requirements/test.txt

clean: ## remove what make and the tests made, never ./data
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(CORE): requirements/core.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/core.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(TEST): requirements/test.txt $(CORE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/test.txt
	@touch $@
