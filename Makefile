# The project's commands. Each does its own set-up; `make` alone lists them.
#
#   PYTHON=python3.12 make install    another interpreter (3.11 or newer)
#   VENV=/some/folder make test       another place for the environment

PYTHON ?=
VENV ?= .venv
BIN = $(VENV)/bin
UV_VERSION = 0.13.9

# Set-up is keyed by content, not by time: what is installed is written into the names of two empty files.
LOCKED := $(VENV)/.locked-$(firstword $(shell cksum < requirements.lock))
ENGINE := $(VENV)/.engine-$(firstword $(shell (pwd && cat pyproject.toml) | cksum))

.DEFAULT_GOAL := help
.PHONY: help install sweep test test-slow chaos lint bench lock clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

install: $(ENGINE)  ## set up the environment (.venv), once for each lock file
	@:

sweep: install  ## sweep the digits: prepare the data, search, export the best model
	@PATH="$$(cd "$(BIN)" && pwd):$$PATH" dvc repro --quiet prepare_digits
	@"$(BIN)/toprung" sweep tune.digits

test: install  ## run the tests (all but the slow ones)
	@"$(BIN)/python" -m pytest -m "not slow"

test-slow: install  ## run the slow tests
	@"$(BIN)/python" -m pytest -m slow

chaos: install  ## harm small sweeps in every way we know, and print what they survived (half an hour)
	@"$(BIN)/python" -m pytest tests/chaos -q

lint: install  ## check style, types, floors, the workflows and the cluster files
	@"$(BIN)/ruff" check .
	@"$(BIN)/ruff" format --check .
	@"$(BIN)/mypy"
	@"$(BIN)/lint-imports" --no-logo
	@"$(BIN)/check-jsonschema" --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@"$(BIN)/check-jsonschema" --schemafile "$$("$(BIN)/python" -c \
	  'import importlib.util as u; print(u.find_spec("ray").submodule_search_locations[0])')/autoscaler/ray-schema.json" \
	  cluster.yaml clusters/aws.yaml clusters/local.yaml

bench: install  ## measure speed and memory (figures: bench/README.md)
	@for part in overhead step augment data tracking; do "$(BIN)/python" "bench/$$part.py" || exit 1; done

lock: build/lock-tools/uv-$(UV_VERSION)  ## write requirements.lock anew (UPGRADE=1: with newer versions)
	@build/lock-tools/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
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
	@echo "Installing requirements.lock into $(VENV): once, some minutes (torch is large)." >&2
	@"$(BIN)/python" -m pip install -qq --disable-pip-version-check --requirement requirements.lock
	@rm -f "$(VENV)"/.locked-* && touch "$@"

$(ENGINE): | $(LOCKED)
	@"$(BIN)/python" -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@rm -f "$(VENV)"/.engine-* && touch "$@"

build/lock-tools/uv-$(UV_VERSION):
	@$(FIND_PYTHON); "$$python" -m venv --clear build/lock-tools
	@build/lock-tools/bin/python -m pip install -qq --disable-pip-version-check uv==$(UV_VERSION)
	@touch "$@"
