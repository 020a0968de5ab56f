# The project's commands. Each does its own set-up; `make` alone lists them.
#
#   PYTHON=python3.12 make install    another interpreter (3.11 or newer)
#   VENV=/some/folder make test       another place for the environment
#   LOCK=some.lock VENV=/some/folder make test        other versions

PYTHON ?=
VENV ?= .venv
LOCK ?= requirements.lock
BIN = $(VENV)/bin
UV_VERSION = 0.13.9
PIP_AUDIT_VERSION = 2.10.1
SCAFFOLDED = src/toprung/scaffold/template/github/workflows/*.yml
WORKFLOWS = .github/workflows/*.yml $(SCAFFOLDED)

# The slow tests that continuous integration runs.
GUARDS = tests/sweep/test_resume.py tests/cluster/test_two_nodes.py \
  "tests/data/remotes/test_round_trip.py::test_pushed_files_are_pulled_into_an_empty_cache" \
  tests/test_workflows.py

# Set-up is keyed by content, not by time: what is installed is written into the names of two empty files.
LOCKED := $(VENV)/.locked-$(firstword $(shell cksum < $(LOCK)))
ENGINE := $(VENV)/.engine-$(firstword $(shell (pwd && cat pyproject.toml) | cksum))

.DEFAULT_GOAL := help
.PHONY: help install sweep test test-guards test-slow test-lowest test-newest chaos lint docs bench lock audit check-data build check-wheel release-notes release-page clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

install: $(ENGINE)  ## set up the environment (.venv), once for each lock file
	@:

sweep: install  ## sweep the digits: prepare the data, search, export the best model
	@PATH="$$(cd "$(BIN)" && pwd):$$PATH" dvc repro --quiet prepare_digits
	@"$(BIN)/toprung" sweep tune.digits

test: install  ## run the tests (all but the slow ones), two files at a time
	@"$(BIN)/python" -m pytest -m "not slow" --numprocesses 2 --dist loadfile

test-slow: install  ## run the slow tests, two files at a time, with a table of what each file took (hours)
	@"$(BIN)/python" -m pytest -m "slow and not cluster" --numprocesses 2 --dist loadfile --durations 40
	@"$(BIN)/python" -m pytest -m "slow and cluster" --durations 40

test-guards: install  ## run the slow tests that guard most: resume, two nodes, the pull request's mini-sweep, a remote
	@"$(BIN)/python" -m pytest $(GUARDS)

test-lowest: build/lowest.lock  ## run the tests with the lowest versions that pyproject.toml allows
	@$(MAKE) test LOCK=build/lowest.lock VENV=build/lowest

test-newest: build/newest.lock  ## run the tests with the newest Ray, Optuna and MLflow that pyproject.toml allows
	@$(MAKE) test LOCK=build/newest.lock VENV=build/newest

chaos: install  ## harm small sweeps in every way we know, and print what they survived (half an hour)
	@"$(BIN)/python" -m pytest tests/chaos -q

lint: install  ## check style, types, floors, the workflows and the cluster files
	@"$(BIN)/ruff" check .
	@"$(BIN)/ruff" format --check .
	@"$(BIN)/mypy"
	@"$(BIN)/lint-imports" --no-logo
	@"$(BIN)/check-jsonschema" --builtin-schema vendor.github-workflows $(WORKFLOWS)
	@"$(BIN)/check-jsonschema" --builtin-schema vendor.dependabot .github/dependabot.yml
	@"$(BIN)/zizmor" --offline --quiet --no-progress --persona auditor .github $(SCAFFOLDED)
	@"$(BIN)/check-jsonschema" --schemafile "$$("$(BIN)/python" -c \
	  'import importlib.util as u; print(u.find_spec("ray").submodule_search_locations[0])')/autoscaler/ray-schema.json" \
	  cluster.yaml clusters/aws.yaml clusters/local.yaml

audit: build/audit-tools/pip-audit-$(PIP_AUDIT_VERSION)  ## look requirements.lock up among known vulnerabilities
	@build/audit-tools/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip --strict --progress-spinner off

# DVC_SERVICE_ACCOUNT holds a service account's key (JSON); without it, or without a remote, nothing is checked.
check-data:  ## pull what dvc.lock names from the remote, and compare
	@if [ -z "$$DVC_SERVICE_ACCOUNT" ]; then echo "No DVC_SERVICE_ACCOUNT here: dvc pull is skipped."; \
	elif ! grep -qs '^\[.*remote ' .dvc/config; then \
	  echo "No DVC remote in .dvc/config (toprung data remote add): dvc pull is skipped."; \
	else $(MAKE) install && VENV="$(VENV)" .github/scripts/check-data; fi

build: install  ## build the wheel and the source archive into dist/
	@rm -rf dist && "$(BIN)/python" -m build --no-isolation --outdir dist . >/dev/null && ls dist

check-wheel: build  ## install the wheel into an environment of its own; begin a workbench there, and sweep
	@"$(BIN)/python" -m venv --clear build/wheel
	@build/wheel/bin/python -m pip install -qq --disable-pip-version-check --requirement requirements.lock
	@build/wheel/bin/python -m pip install -qq --disable-pip-version-check --no-deps dist/*.whl
	@.github/scripts/check-wheel build/wheel/bin

release-notes: install  ## TAG=v0.2.0: what CHANGELOG.md says of it, in build/release-notes.md
	@"$(BIN)/python" .github/scripts/release_notes.py "$(TAG)" build/release-notes.md

release-page:  ## TAG=v0.2.0: the page on GitHub, with dist/ and the notes (needs gh)
	@gh release create "$(TAG)" dist/* --verify-tag --title "$(TAG)" --notes-file build/release-notes.md

docs: install  ## build the pages into build/site, with strict links
	@NO_MKDOCS_2_WARNING=1 "$(BIN)/python" -m mkdocs build --strict --quiet
	@echo "build/site/index.html"

bench: install  ## measure speed and memory (figures: bench/README.md)
	@for part in overhead step augment data tracking report; do "$(BIN)/python" "bench/$$part.py" || exit 1; done

lock: build/lock-tools/uv-$(UV_VERSION)  ## write requirements.lock anew (UPGRADE=1: with newer versions)
	@build/lock-tools/bin/uv pip compile pyproject.toml --extra dev --extra docs --universal --python-version 3.11 \
	  --no-emit-index-url --no-emit-find-links --no-python-downloads --custom-compile-command "make lock" \
	  $(if $(UPGRADE),--upgrade) --quiet --output-file requirements.lock

clean:  ## remove the environment and caches (runs/ and data/ stay)
	@rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +

# An interpreter that is new enough, or a line that says what to do.
define FIND_PYTHON
	python="$(PYTHON)"; \
	for try in $${python:-python3 python3.11 python3.12 python3.13}; do \
	  if "$$try" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$try; break; fi; \
	  python=; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "toprung needs Python 3.11 or newer; $(or $(PYTHON),python3) is not." \
	    "Install one, or name it: make PYTHON=/path/to/python3.11 $(firstword $(MAKECMDGOALS))" >&2; exit 1; \
	fi
endef

$(LOCKED):
	@$(FIND_PYTHON); \
	if ! "$(BIN)/python" -c '' 2>/dev/null; then "$$python" -m venv --clear "$(VENV)"; fi
	@echo "Installing $(LOCK) into $(VENV): once, some minutes (torch is large)." >&2
	@"$(BIN)/python" -m pip install -qq --disable-pip-version-check --requirement $(LOCK)
	@rm -f "$(VENV)"/.locked-* && touch "$@"

$(ENGINE): | $(LOCKED)
	@"$(BIN)/python" -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@rm -f "$(VENV)"/.engine-* && touch "$@"

# Without [tool.uv]: its constraints hold torch where it is.
build/lowest.lock: pyproject.toml build/lock-tools/uv-$(UV_VERSION)
	@build/lock-tools/bin/uv pip compile pyproject.toml --extra dev --extra docs --no-config --resolution lowest-direct \
	  --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-python-downloads --quiet --output-file $@

build/newest.lock: pyproject.toml requirements.lock build/lock-tools/uv-$(UV_VERSION)
	@cp requirements.lock $@
	@build/lock-tools/bin/uv pip compile pyproject.toml --extra dev --extra docs --universal --python-version 3.11 \
	  --upgrade-package ray --upgrade-package optuna --upgrade-package mlflow \
	  --no-emit-index-url --no-emit-find-links --no-python-downloads --quiet --output-file $@

build/audit-tools/pip-audit-$(PIP_AUDIT_VERSION):
	@$(FIND_PYTHON); "$$python" -m venv --clear build/audit-tools
	@build/audit-tools/bin/python -m pip install -qq --disable-pip-version-check pip-audit==$(PIP_AUDIT_VERSION)
	@touch "$@"

build/lock-tools/uv-$(UV_VERSION):
	@$(FIND_PYTHON); "$$python" -m venv --clear build/lock-tools
	@build/lock-tools/bin/python -m pip install -qq --disable-pip-version-check uv==$(UV_VERSION)
	@touch "$@"
