# Two commands are all that is needed on a fresh Debian or Ubuntu machine: `make demo`, `make test`.
# Each sets everything up the first time; `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types pytest docs bench dist clean distclean

PYTHON ?= python3
DATA ?= digits
OUT ?= runs/demo
ARGS ?=
SEEDS ?= 3
WORKERS ?= 2

PY := .venv/bin/python
STAMP := .venv/.equipoise-setup

# One thread for each worker: more would fight over the cores.
TEST_ENV := OMP_NUM_THREADS=1 MPLBACKEND=Agg

help: ## this list
	@printf 'make TARGET, where TARGET is one of\n\n'
	@sed -nE 's/^([a-z]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14
	@printf '\nThe first one sets up .venv: system packages, PyTorch (about 5 GB), FFCV. PYTHON=python3.12 chooses another Python (3.10 or later).\n'

# Set up again only when one of these files has changed.
$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	@PYTHON='$(PYTHON)' bash scripts/setup.sh
	@touch $@

setup: ## set up again, for example after installing the packages that FFCV needs
	@rm -f $(STAMP)
	@$(MAKE) --no-print-directory $(STAMP)

demo: $(STAMP) ## plain and balanced training side by side; DATA=digits, cifar10, FILE.npz or a folder of images; ARGS="--seeds 5"
	@loader=ffcv; \
	if ! $(PY) -c 'import ffcv' >/dev/null 2>&1; then \
	    loader=torch; echo 'demo: FFCV is not installed; loading through torch.utils.data.DataLoader instead'; \
	fi; \
	set -x; \
	$(PY) -m examples.cifar --data '$(DATA)' --loader $$loader --method plain balancer --seeds $(SEEDS) --out '$(OUT)' $(ARGS)

# All three are run even when the first fails, so that one run tells everything.
test: $(STAMP) ## all checks: ruff, mypy, pytest
	@$(MAKE) --no-print-directory --keep-going lint types pytest

lint: $(STAMP) ## ruff
	$(PY) -m ruff check .

types: $(STAMP) ## mypy
	$(PY) -m mypy

pytest: $(STAMP) ## the tests and the docstring examples; ARGS="-k sampler", WORKERS=0 for one process
	$(TEST_ENV) $(PY) -m pytest -n $(WORKERS) $(ARGS)

docs: $(STAMP) ## the site, in build/docs
	$(PY) -m sphinx -q -W --keep-going -b html docs build/docs
	@echo 'docs: build/docs/index.html'

bench: $(STAMP) ## the measurements of benchmarks/README.md that take minutes
	$(PY) -m benchmarks.samplers.speed
	$(PY) -m benchmarks.losses.speed
	$(PY) -m benchmarks.streams
	$(PY) -m benchmarks.evidence --seeds 10

dist: $(STAMP) ## wheel and source distribution, in dist/
	rm -rf build dist
	$(PY) -c 'from setuptools import build_meta as b; b.build_sdist("dist"); b.build_wheel("dist")' >/dev/null
	@ls dist

clean: ## remove caches and builds; the environment and runs/ stay
	rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

distclean: clean ## remove the environment too
	rm -rf .venv
