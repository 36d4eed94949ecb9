# Every target makes what it needs; nothing has to be installed by hand but Python (3.11 or newer).
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
SAM := .venv-sam/bin/sam
export SAM_CLI_TELEMETRY := 0
export AWS_DEFAULT_REGION ?= us-east-1

.PHONY: help
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

$(VENV)/.installed: requirements/dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Kickstand needs Python 3.11 or newer on PATH (or make PYTHON=/path/to/python)"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv-sam/.installed: requirements/sam.txt
	$(PYTHON) -m venv --clear .venv-sam
	.venv-sam/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/sam.txt
	@touch $@

.PHONY: demo
demo: $(VENV)/.installed  ## upload the sample photos, watch them being decided, locally; writes demo-output/
	$(BIN)/kickstand demo

.PHONY: test
test: $(VENV)/.installed  ## all tests that this machine can run
	$(BIN)/python -m pytest

.PHONY: check
check: $(VENV)/.installed .venv-sam/.installed  ## formatting, lint, types, template, state machines
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(SAM) validate --lint
	$(BIN)/cfn-lint template.yaml
	$(BIN)/python tests/template/validate_asl.py

.PHONY: build
build: .venv-sam/.installed  ## sam build
	$(SAM) build

.PHONY: deploy
deploy: build  ## sam deploy (the dev stack; CONFIG_ENV=prod for the other)
	$(SAM) deploy --config-env $(or $(CONFIG_ENV),default)

.PHONY: lock
lock: $(VENV)/.installed  ## pin every dependency anew, with hashes
	$(BIN)/python requirements/lock.py

.PHONY: clean
clean:  ## remove what was built and installed here; never touches AWS
	rm -rf .venv .venv-sam .aws-sam build demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis
