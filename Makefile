# A new clone needs two commands: `make demo` and `make test`. `make help` lists the others.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: setup demo test bench check notebooks gallery schema architecture lock studio clean help

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin

# The stamp holds the name of the lock that is installed, so that LOCK=requirements-gpu.lock has to be given only once.
STAMP := $(VENV)/.imagelab-lock
INSTALLED := $(shell cat $(STAMP) 2>/dev/null)
LOCK ?= $(or $(INSTALLED),requirements.lock)
ifneq ($(LOCK),$(INSTALLED))
.PHONY: $(STAMP)
endif

setup: $(STAMP) ## create .venv with the locked packages and imagelab itself (LOCK=requirements-gpu.lock for CUDA)

# uv installs the lock several times faster than pip, but reads none of pip's configuration. So pip installs where it has
# been given an index of its own, and wherever uv fails. --no-deps in every case: docs/decisions/0001. pip compiles what it
# installs, uv only when told to: docs/decisions/0024.
$(STAMP): $(LOCK) pyproject.toml
	@[ -x $(BIN)/python ] || { \
	  $(PYTHON) -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) or sys.exit("imagelab needs Python 3.11, 3.12 or 3.13, this is %d.%d: make PYTHON=/path/to/python3.12" % sys.version_info[:2])'; \
	  $(PYTHON) -m venv $(VENV); }
	@if $(BIN)/python -m pip config list | grep '\.index-url=' >/dev/null \
	  || ! $(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' $(LOCK))" \
	  || ! $(BIN)/python -m uv pip sync --compile-bytecode --python $(BIN)/python $(LOCK); then \
	  $(BIN)/python -m pip install --disable-pip-version-check --no-deps -r $(LOCK); fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@echo $(LOCK) > $@

demo: setup ## draw 20 pictures of luca, keep the consistent ones: reports/runs/demo/
	@$(BIN)/python -m imagelab run 22_filter_batches -p num_images=20 --run-id demo

# One process per core and one thread per process: the models are too small to be worth splitting.
test: check ## check, then the whole test suite, notebooks included
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope \
	  --nbval --nbval-current-env --nbval-sanitize-with tests/notebooks/sanitize.cfg tests notebooks

# One after the other, and nothing beside them: what others took of the machine is written into each file.
bench: setup ## measure what needs no GPU, on a machine that does nothing else: reports/benchmarks/, reports/summary.md
	@status=0; OMP_NUM_THREADS=1 $(BIN)/python -m pytest --capture=sys -m bench tests/bench || status=$$?; \
	  $(BIN)/python -m imagelab report; exit $$status

check: setup ## ruff (notebooks too), formatting, mypy, import floors
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# The outputs are the reference that nbval compares with: run this after a change that is meant to change them.
notebooks: setup ## run the notebooks and store what their summaries print
	@$(BIN)/python -m imagelab refresh

# What is passed over in the file is said on stderr, by each notebook that has no such parameter.
gallery: setup ## run every notebook once, small, as pages to look at: reports/runs/gallery-*/
	@for notebook in notebooks/*.ipynb; do name=$$(basename $$notebook .ipynb); \
	  $(BIN)/python -m imagelab run $$name --params configs/runs/smoke.yaml --run-id gallery-$$name; done

schema: setup ## write the JSON schemas of the YAML files
	@$(BIN)/python -m imagelab schema

architecture: setup ## draw the picture of the architecture from the imports
	@$(BIN)/python docs/draw_architecture.py

# insightface asks for opencv-python and for onnxruntime, each of which overwrites its sibling: they are left out here, by name.
# So are rfc3987-syntax and its lark, which jsonschema does without: importing them takes seconds (docs/decisions/0024).
# The markers go, because the few lines that one Python version alone needs do no harm to the others.
RESOLVE = $(BIN)/python -m uv pip compile --quiet --no-header --no-annotate --universal --python-version 3.11 --fork-strategy fewest \
  --only-binary :all: --upgrade --extra notebook --extra ray --extra dev --no-emit-package opencv-python \
  --no-emit-package rfc3987-syntax --no-emit-package lark
NOTE = '\# Written by `make lock` from pyproject.toml. Install it with --no-deps: docs/decisions/0001 says why.'
lock: setup ## resolve the newest versions into the two lock files
	@{ echo $(NOTE); $(RESOLVE) --extra cpu pyproject.toml | sed 's/ *;.*//'; } > requirements.lock.new
	@{ echo $(NOTE); $(RESOLVE) --extra gpu --no-emit-package onnxruntime pyproject.toml | sed 's/ *;.*//'; } > requirements-gpu.lock.new
	@for lock in requirements requirements-gpu; do mv $$lock.lock.new $$lock.lock; done

studio: setup ## train the puppet studio's models again, from nothing (hours on two cores)
	@$(BIN)/python -m imagelab.puppets.train --install

clean: ## remove .venv and every cache; pictures and reports stay
	@rm -rf .venv build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18
