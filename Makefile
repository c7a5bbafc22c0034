# Everything sets itself up: Python 3.11 or newer and make are all that is needed. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := $(VENV)/.core.stamp
DEMO := $(VENV)/.demo.stamp
TEST := $(VENV)/.test.stamp
OTHER := $(VENV)/other
COMPILED := build/compiled
COMPILED_STAMP := $(COMPILED)/.stamp
# What tests read, or run, beside the core.
LOOKED_AT := tests bench clients deploy docs requirements config.yaml pyproject.toml setup.py compiler.py README.md LICENSE Makefile .ci
# The C compiler that PyPI has, and all that it keeps: only where the system has none.
ZIG := $(VENV)/zig
SOURCES := $(shell find broker plugins storage -name '*.py' 2>/dev/null)
# Once `make compile` was run, `make run` uses what it made, and makes it anew when a source is newer.
HAVE_COMPILED := $(wildcard $(COMPILED_STAMP))
LOCK := $(BIN)/uv pip compile --quiet --universal --no-annotate --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11
LOCK_NOTE := '\# Made by make lock from pyproject.toml; do not edit.'
# Many tests wait, for a process, a disk or a clock: more at once than twice the cores of the smallest machine. Each goes to whoever is idle.
AT_ONCE := -n 5 --dist worksteal
# Random examples and plays: other examples each time, the other plays in make test-all.
FEWER := TIDELINE_EXAMPLES=30 TIDELINE_PLAYS=50
# What another Python may break first: importing, starting, stopping, publishing, SQLite; the rules, whose library has a version for newer Pythons; the client in Python.
SHORT := tests/deploy/test_imports.py tests/cli/test_serve.py tests/laws/test_lifecycle.py tests/protocol/test_publish.py tests/rules/test_rules.py tests/python_client
# Else each of those that begin at once would do so by itself.
COMPILED_ONCE := broker plugins storage tests bench clients/python
INTEROP := $(VENV)/interop/.stamp
# The tests start hundreds of brokers: where the environment forbids to keep bytecode, each would compile all its modules anew.
export PYTHONDONTWRITEBYTECODE :=
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run compile test test-compiled test-other test-all mutants fuzz audit lint format bench demo interop lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(CORE) $(HAVE_COMPILED) ## start the broker on 127.0.0.1:1883 (WebSocket 8083), data under ./data
	$(if $(HAVE_COMPILED),PYTHONPATH=$(COMPILED)) $(BIN)/tideline serve --config config.yaml $(ARGS)

compile: $(COMPILED_STAMP) ## turn the core into C: the broker is two to three times as fast

test: $(TEST) ## run the tests; ARGS='-k name' picks some
	$(BIN)/python -m compileall -q $(COMPILED_ONCE)
	$(FEWER) $(BIN)/python -m pytest $(AT_ONCE) -m "not slow and not interop" --ignore=tests/interop $(ARGS)

test-compiled: $(COMPILED_STAMP) ## run the tests again on the compiled core, but for those that reach inside it
	rm -rf $(COMPILED)/tests && cp -r $(LOOKED_AT) $(COMPILED)/
	cd $(COMPILED) && $(FEWER) $(CURDIR)/$(BIN)/python -m pytest $(AT_ONCE) -m "not slow and not interop and not inside" $(ARGS)

test-other: $(TEST) ## start on another Python, and run a short part of the tests there: PYTHON=/path/to/python3.13
	$(BIN)/uv venv --quiet --clear --no-python-downloads --python $(PYTHON) $(OTHER)
	$(BIN)/uv pip install --quiet --python $(OTHER)/bin/python -r requirements/test.txt
	$(OTHER)/bin/python -m broker.cli check --config config.yaml
	$(OTHER)/bin/python -m pytest -n 3 -m "not slow and not interop" -k "not mongo" $(SHORT) $(ARGS)

test-all: $(TEST) ## run the tests, those that take minutes included
	$(BIN)/python -m pytest -m "not interop" $(ARGS)

mutants: $(TEST) ## break the laws on purpose, and see the tests notice; ARGS='words of names' picks some
	$(BIN)/python -m tests.mutants $(ARGS)

fuzz: $(TEST) ## feed the codec, WebSocket and PROXY headers with bytes; ARGS='--seconds 3600'
	$(BIN)/uv pip install --quiet --python $(BIN)/python atheris
	$(BIN)/python -m tests.fuzz $(ARGS)

audit: $(TEST) ## look for known mistakes in the code (bandit), and known faults of the dependencies (pip-audit; asks pypi.org)
	$(BIN)/uv tool run --quiet bandit --quiet --recursive --configfile pyproject.toml broker plugins storage
	$(BIN)/uv tool run --quiet pip-audit --requirement requirements/core.txt --no-deps --disable-pip

lint: $(TEST) ## check style, types and the order of the rooms
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-cache

format: $(TEST) ## format the code
	$(BIN)/ruff check --fix-only --quiet . && $(BIN)/ruff format .

bench: $(TEST) ## measure Tideline, compiled where it can be, beside the brokers that are installed
	@$(MAKE) --no-print-directory compile || echo "no compiled core: Tideline is measured in pure Python"
	$(BIN)/python -m bench $(ARGS)

demo: $(DEMO) ## see a phone and a laptop survive a killed broker
	$(BIN)/tideline demo $(ARGS)

interop: $(TEST) $(INTEROP) ## run other people's clients and a second MongoDB wire server; names what is missing
	$(BIN)/python -m pytest -n 2 --dist loadscope -m interop tests/interop $(ARGS)
	@$(BIN)/python -c 'import secantus' 2>/dev/null || { echo "not run: the cluster on a second MongoDB wire server (secantusdb is not for this Python)"; exit 0; }; \
	TIDELINE_TEST_MONGODB=secantusdb $(BIN)/python -m pytest -n 2 tests/cluster_storage tests/cluster/test_over_mongodb.py -k mongo

lock: $(TEST) ## resolve the dependencies anew into requirements/
	rm -rf build/lock && mkdir -p build/lock
	echo $(LOCK_NOTE) | tee build/lock/core.txt build/lock/zig.txt build/lock/image.txt > build/lock/test.txt
	$(LOCK) $(ARGS) pyproject.toml requirements/build.in >> build/lock/core.txt
	$(LOCK) $(ARGS) --extra test --constraint build/lock/core.txt pyproject.toml requirements/build.in >> build/lock/test.txt
	$(LOCK) $(ARGS) --extra mongodb --extra otel --constraint build/lock/test.txt pyproject.toml >> build/lock/image.txt
	$(LOCK) $(ARGS) requirements/zig.in >> build/lock/zig.txt
	mv build/lock/*.txt requirements/

clean: ## remove what make and the tests made, never ./data
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(CORE): requirements/core.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/core.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(DEMO): requirements/test.txt $(CORE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements/test.txt paho-mqtt
	@touch $@

$(COMPILED_STAMP): setup.py compiler.py pyproject.toml requirements/zig.txt $(SOURCES) | $(TEST)
	@rm -rf build && mkdir -p $(COMPILED)
	@$(BIN)/python compiler.py $(ZIG) $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target $(COMPILED) .
	@rm -rf build/c build/lib* build/temp* build/bdist*
	@touch $@

$(TEST): requirements/test.txt $(CORE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/test.txt
	@touch $@

# What drives the console's browser (Debian's chromium), Home Assistant, and the clients that come from npm. Where there is no npm, or it finds nothing, the tests that need one say so.
$(INTEROP): tests/interop/npm/package-lock.json tests/interop/node-red/package-lock.json tests/interop/home-assistant/requirements.txt | $(TEST)
	@for name in npm node-red; do mkdir -p $(VENV)/interop/$$name && cp tests/interop/$$name/package*.json $(VENV)/interop/$$name/; done
	@$(BIN)/uv pip install --quiet --python $(BIN)/python 'playwright>=1.49' 'axe-core-python>=0.1' 'standardwebhooks>=1.0' || echo "PyPI is missing: neither a browser nor the library of webhooks is tried"
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)/interop/home-assistant && \
	$(BIN)/uv pip install --quiet --python $(VENV)/interop/home-assistant/bin/python -r tests/interop/home-assistant/requirements.txt || echo "PyPI is missing, or has no Home Assistant for this Python"
	@npm ci --silent --no-audit --no-fund --ignore-scripts --prefix $(VENV)/interop/node-red || echo "npm is missing, or could not install Node-RED"
	@npm ci --silent --no-audit --no-fund --ignore-scripts --prefix $(VENV)/interop/npm && touch $@ || echo "npm is missing, or could not install the clients"
