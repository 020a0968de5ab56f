# Commands for development. Run `make` to list them; each sets up the environment on first use.
#
#   PYTHON=python3.12 make install              use another interpreter (3.11 or newer)
#   VENV=/some/folder make test                 create the environment in another folder
#   LOCK=some.lock VENV=/some/folder make test  install the versions of another lock file
#   TORCH=cpu make install                      install PyTorch's builds without CUDA, for a machine without a GPU
#
# To use an option in every later command, export it: export TORCH=cpu

PYTHON ?=
VENV ?= .venv
LOCK ?= requirements.lock
TORCH ?=
BIN = $(VENV)/bin
UV_VERSION = 0.13.9
export UV_HTTP_TIMEOUT ?= 180
PIP_AUDIT_VERSION = 2.10.1
SCAFFOLDED = src/toprung/scaffold/template/github/workflows/*.yml
WORKFLOWS = .github/workflows/*.yml $(SCAFFOLDED)

# The slow tests that continuous integration runs.
GUARDS = tests/sweep/test_resume.py tests/cluster/test_two_nodes.py \
  "tests/data/remotes/test_round_trip.py::test_pushed_files_are_pulled_into_an_empty_cache" \
  tests/test_workflows.py

ifneq ($(TORCH),$(filter cpu,$(TORCH)))
$(error TORCH=$(TORCH) is unknown. Type TORCH=cpu, or nothing for the builds with CUDA)
endif

# Two empty files named by checksums record what is installed, so setup depends on content and not on file times.
LOCKED := $(VENV)/.locked-$(firstword $(shell cksum < $(LOCK)))$(TORCH:%=-%)
PACKAGE := $(VENV)/.package-$(firstword $(shell (pwd && cat pyproject.toml) | cksum))

.DEFAULT_GOAL := help
.PHONY: help install sweep test test-guards test-slow test-lowest test-newest chaos lint docs bench lock audit check-data build check-wheel release-notes release-page clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

install: $(PACKAGE)  ## set up the environment (.venv), once per lock file
	@:

sweep: install  ## prepare the digits dataset, run a sweep, export the best model
	@PATH="$$(cd "$(BIN)" && pwd):$$PATH" dvc repro --quiet prepare_digits
	@"$(BIN)/toprung" sweep tune.digits

test: install  ## run all tests but the slow ones, two files at a time
	@"$(BIN)/python" -m pytest -m "not slow" --numprocesses 2 --dist loadfile

test-slow: install  ## run the slow tests, two files at a time, and list the slowest (takes hours)
	@"$(BIN)/python" -m pytest -m "slow and not cluster" --numprocesses 2 --dist loadfile --durations 40
	@"$(BIN)/python" -m pytest -m "slow and cluster" --durations 40

test-guards: install  ## run the slow tests of continuous integration: resume, two nodes, a remote, the mini-sweep
	@"$(BIN)/python" -m pytest $(GUARDS)

test-lowest: build/lowest.lock  ## run the tests with the lowest versions that pyproject.toml allows
	@$(MAKE) test LOCK=build/lowest.lock VENV=build/lowest

test-newest: build/newest.lock  ## run the tests with the newest Ray, Optuna and MLflow that pyproject.toml allows
	@$(MAKE) test LOCK=build/newest.lock VENV=build/newest

chaos: install  ## inject faults into small sweeps and print the results as a table (half an hour)
	@"$(BIN)/python" -m pytest tests/chaos -q

lint: install  ## check style, types, layers, workflows and cluster files
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

audit: build/audit-tools/pip-audit-$(PIP_AUDIT_VERSION)  ## check requirements.lock for known vulnerabilities
	@build/audit-tools/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip --strict --progress-spinner off

# DVC_SERVICE_ACCOUNT is a service account's key (JSON). Without it, or without a remote, the check is skipped.
check-data:  ## pull the data in dvc.lock from the remote and check it
	@if [ -z "$$DVC_SERVICE_ACCOUNT" ]; then echo "DVC_SERVICE_ACCOUNT is not set. Skipping dvc pull."; \
	elif ! grep -qs '^\[.*remote ' .dvc/config; then \
	  echo ".dvc/config has no remote (see toprung data remote add). Skipping dvc pull."; \
	else $(MAKE) install && VENV="$(VENV)" .github/scripts/check-data; fi

build: install  ## build the wheel and the source archive in dist/
	@rm -rf dist && "$(BIN)/python" -m build --no-isolation --outdir dist . >/dev/null && ls dist

check-wheel: build  ## install the wheel in a clean environment, create a project and run a sweep
	@"$(BIN)/python" -m venv --clear build/wheel
	@build/wheel/bin/python -m pip install -qq --disable-pip-version-check --requirement requirements.lock
	@build/wheel/bin/python -m pip install -qq --disable-pip-version-check --no-deps dist/*.whl
	@.github/scripts/check-wheel build/wheel/bin

release-notes: install  ## TAG=v0.2.0: write its section of CHANGELOG.md to build/release-notes.md
	@"$(BIN)/python" .github/scripts/release_notes.py "$(TAG)" build/release-notes.md

release-page:  ## TAG=v0.2.0: create the GitHub release with dist/ and the notes (needs gh)
	@gh release create "$(TAG)" dist/* --verify-tag --title "$(TAG)" --notes-file build/release-notes.md

docs: install  ## build the documentation in build/site, with strict links
	@NO_MKDOCS_2_WARNING=1 "$(BIN)/python" -m mkdocs build --strict --quiet
	@echo "build/site/index.html"

bench: install  ## measure speed and memory (results: bench/README.md)
	@for part in overhead step augment photo_augment data tracking report finetune; do "$(BIN)/python" "bench/$$part.py" || exit 1; done

lock:  ## update requirements.lock (UPGRADE=1: upgrade the versions)
	@$(ENVIRONMENT)
	@"$(BIN)/uv" pip compile pyproject.toml --extra dev --extra docs --universal --python-version 3.11 \
	  --no-emit-index-url --no-emit-find-links --no-python-downloads --custom-compile-command "make lock" \
	  $(if $(UPGRADE),--upgrade) --quiet --output-file requirements.lock

clean:  ## remove the environment and caches (keeps runs/ and data/)
	@rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +

# Find a suitable interpreter, or print what to do.
define FIND_PYTHON
	python="$(PYTHON)"; \
	for try in $${python:-python3 python3.11 python3.12 python3.13}; do \
	  if "$$try" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$try; break; fi; \
	  python=; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "toprung needs Python 3.11 or newer; $(or $(PYTHON),python3) is not." \
	    "Install one, or name one: make PYTHON=/path/to/python3.11 $(firstword $(MAKECMDGOALS))" >&2; exit 1; \
	fi
endef

PIP = "$(BIN)/python" -m pip -qq --disable-pip-version-check

# torch is installed with CUDA's libraries or, with TORCH=cpu, without them from PyTorch's own index. On Linux (x86-64),
# that index names its builds +cpu, which excludes those of any other index that pip is configured to use.
TORCH_PINS = ^(cuda-|nvidia-|torch==|torchvision==|triton==)
CPU_INDEX = https://download.pytorch.org/whl/cpu
CPU_VERSION = $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),+cpu)

# The lock file is complete: nothing is resolved (--no-deps). pip installs torch, from any index that it is configured
# to use, while uv installs and compiles the other packages; uv reads its own configuration (UV_DEFAULT_INDEX, uv.toml).
# Bytecode is compiled at once: code compiled on import would issue warnings, which are errors in tests.
define ENVIRONMENT
	$(FIND_PYTHON); \
	if ! "$(BIN)/python" -c '' 2>/dev/null; then "$$python" -m venv --clear "$(VENV)"; fi && \
	case "$$("$(BIN)/uv" --version 2>/dev/null) " in "uv $(UV_VERSION) "*) ;; *) $(PIP) install uv==$(UV_VERSION) ;; esac
endef

$(LOCKED):
	@echo "Installing $(LOCK) into $(VENV). This takes a few minutes on first use (torch is large)." >&2
	@$(ENVIRONMENT)
ifeq ($(TORCH),cpu)
	@sed -n -E 's/^torch(vision)?==[^ ;]*/&$(CPU_VERSION)/p' $(LOCK) > "$(VENV)/torch.txt"
else
	@grep -E '$(TORCH_PINS)' $(LOCK) > "$(VENV)/torch.txt"
endif
	@grep -v -E '$(TORCH_PINS)' $(LOCK) > "$(VENV)/others.txt"
	@$(PIP) install --no-deps $(TORCH:cpu=--index-url $(CPU_INDEX)) --requirement "$(VENV)/torch.txt" & torch=$$!; \
	"$(BIN)/uv" pip install --quiet --compile-bytecode --python "$(BIN)/python" --no-deps \
	  --requirement "$(VENV)/others.txt"; others=$$?; wait $$torch && exit $$others
	@rm -f "$(VENV)"/.locked-* && touch "$@"

$(PACKAGE): | $(LOCKED)
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@rm -f "$(VENV)"/.package-* && touch "$@"

# --no-config ignores [tool.uv], whose constraints pin torch.
build/lowest.lock: pyproject.toml
	@mkdir -p build && $(ENVIRONMENT)
	@"$(BIN)/uv" pip compile pyproject.toml --extra dev --extra docs --no-config --resolution lowest-direct \
	  --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-python-downloads --quiet --output-file $@

build/newest.lock: pyproject.toml requirements.lock
	@mkdir -p build && $(ENVIRONMENT)
	@cp requirements.lock $@
	@"$(BIN)/uv" pip compile pyproject.toml --extra dev --extra docs --universal --python-version 3.11 \
	  --upgrade-package ray --upgrade-package optuna --upgrade-package mlflow \
	  --no-emit-index-url --no-emit-find-links --no-python-downloads --quiet --output-file $@

build/audit-tools/pip-audit-$(PIP_AUDIT_VERSION):
	@$(FIND_PYTHON); "$$python" -m venv --clear build/audit-tools
	@build/audit-tools/bin/python -m pip install -qq --disable-pip-version-check pip-audit==$(PIP_AUDIT_VERSION)
	@touch "$@"
