# The commands that people and CI share. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test lint type arch bench fmt fuzz lock bundle clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' Makefile

$(VENV)/.run: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

run: $(VENV)/.run ## set up and run the product with embedded defaults, until Ctrl-C
	@deploy/debian-packages run
	@exec $(BIN)/digitalid serve $(ARGS)

test: $(VENV)/.dev ## set up and pass all tests (ARGS=... goes to pytest)
	@deploy/debian-packages test
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/.dev ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(VENV)/.dev ## mypy --strict
	$(BIN)/mypy

arch: $(VENV)/.dev ## imports point down
	$(BIN)/lint-imports

fmt: $(VENV)/.dev ## mend style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## every benchmark, a JSON line a figure (ARGS="issue --quick")
	@deploy/debian-packages bench
	@$(BIN)/python -m bench $(ARGS)

fuzz: $(VENV)/.dev ## fuzz every parser of outside bytes for longer (SECONDS_EACH=60, INPUTS=5000000)
	DIGITALID_FUZZ_SECONDS=$${SECONDS_EACH:-60} DIGITALID_FUZZ_INPUTS=$${INPUTS:-5000000} \
		$(BIN)/python -m pytest tests/fuzz -n 2 --dist loadfile -o timeout=7200 $(ARGS)

lock: ## write the lock files anew (needs pip-tools on PATH)
	pip-compile --quiet --no-header --no-emit-index-url --no-emit-find-links --generate-hashes --strip-extras --allow-unsafe --extra build pyproject.toml -o requirements.lock
	pip-compile --quiet --no-header --no-emit-index-url --no-emit-find-links --generate-hashes --strip-extras --allow-unsafe --extra build --extra dev pyproject.toml -o requirements-dev.lock

bundle: $(VENV)/.run ## all that a machine without a network needs, in build/bundle
	@$(BIN)/python deploy/bundle build/bundle

clean: ## remove what the commands above made, but not the state in ./var
	rm -rf $(VENV) *.egg-info build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
