# A fresh machine needs Python 3.11 or later with venv, and make. Everything else is installed into .venv.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PIP_FLAGS ?=
# Processes that run tests side by side; 0: all in one, in an order that is random throughout.
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test check format soak lock clean

help:
	@echo "make demo    a year of real flights: watch CLS keep a model accurate"
	@echo "make test    the test suite, without the long soak runs"
	@echo "make check   lint, format, types and import contracts"
	@echo "make soak    kill and restart everything, for a long time"
	@echo "make lock    write requirements.txt from what is installed"
	@echo "make clean   remove the environment and the caches"

install: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "CLS needs Python 3.11 or later: make PYTHON=/path/to/python ..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m cls.demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not soak" -n $(WORKERS) --dist loadscope --no-loadscope-reorder

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

soak: $(STAMP)
	$(BIN)/python -m benchmarks.soak

# Local versions (torch 2.13.0+cpu) are locked as the public ones; the lock names no host and no path.
lock: $(STAMP)
	@echo "# The exact versions that this release was tested with, for running and for developing. Written by: make lock" > requirements.txt.new
	@$(BIN)/python -m pip list --format=freeze --disable-pip-version-check --exclude pip --exclude cls-continual \
		| sed -E 's/\+.*$$//' >> requirements.txt.new
	@mv requirements.txt.new requirements.txt
	@touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
