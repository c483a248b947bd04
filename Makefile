# Ebb: `make run` goes the whole way on the bundled data set, `make test` checks the code,
# `make help` lists the rest.

DATASET ?= online_retail
CONFIG  ?= configs/$(DATASET).yaml
SERVE_CONFIG ?= configs/serve.yaml
SERVE_ENV ?= infra/serve.env
VENV    ?= .venv
# The tested set of packages. Leave it out for torch's CUDA build: make CONSTRAINTS= run
CONSTRAINTS ?= constraints.txt
# More for the job or for pytest: make train ARGS='--set seed=2', make test ARGS='-k ring'
ARGS    ?=

# The first of these that is there and new enough.
PYTHON  ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && exit; \
	done; echo python3)

# Ray and W&B on one machine: no token, no reports, no login. Whoever set these already wins.
RAY_AUTH_MODE           ?= disabled
RAY_USAGE_STATS_ENABLED ?= 0
WANDB_MODE              ?= offline
PYTHONUNBUFFERED        ?= 1
export RAY_AUTH_MODE RAY_USAGE_STATS_ENABLED WANDB_MODE PYTHONUNBUFFERED

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

BIN := $(VENV)/bin
READY := $(VENV)/.installed
PIDFILE := runs/serve.pid
# /proc first: slim images come without ps, macOS without /proc.
IS_OURS := is_ours() { [ -n "$$pid" ] && { tr '\0' ' ' < /proc/$$pid/cmdline || \
	ps -o args= -p $$pid; } 2>/dev/null | grep -q -- '-m serve'; }
SAY := printf '\n\033[1m== %s\033[0m\n'

.PHONY: help run test venv prepare train tune evaluate release serve stop check format bench clean

help: ## List these verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  DATASET=$(DATASET)  CONFIG=$(CONFIG)  VENV=$(VENV)  PYTHON=$(PYTHON)"

run: $(READY) ## Install, then prepare, train, evaluate, release and serve DATASET
	@$(SAY) "1/5 prepare: events and requests from $(CONFIG)"
	@$(MAKE) prepare
	@$(SAY) "2/5 train: the retriever and the ranker"
	@$(MAKE) train
	@$(SAY) "3/5 evaluate: metrics, baselines and the memory ablation"
	@$(MAKE) evaluate
	@$(SAY) "4/5 release: one folder with everything that serving needs"
	@$(MAKE) release
	@$(SAY) "5/5 serve: Ctrl-C stops it"
	@$(MAKE) serve

test: check ## Lint, types, import rules and tests (ARGS goes to pytest)
	@$(SAY) "tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ARGS)

venv: $(READY) ## Make the virtual environment and install into it

prepare: $(READY) ## Clean the events, write requests and histories
	@$(BIN)/python -m jobs.prepare --config $(CONFIG) $(ARGS)

train: $(READY) ## Train the retriever and the ranker
	@$(BIN)/python -m jobs.train --config $(CONFIG) $(ARGS)

tune: $(READY) ## Search values of the document: ARGS="--trials 20"
	@$(BIN)/python -m jobs.tune --config $(CONFIG) $(ARGS)

evaluate: $(READY) ## Metrics, baselines and the memory ablation
	@$(BIN)/python -m jobs.evaluate --config $(CONFIG) $(ARGS)

release: $(READY) ## Pack weights, index, catalogue and memory into one folder
	@$(BIN)/python -m jobs.release --config $(CONFIG) $(ARGS)

# exec: the shell's process id, written first, stays that of the service.
serve: $(READY) ## Serve the release until Ctrl-C or `make stop`
	@pid=$$(cat $(PIDFILE) 2>/dev/null || true); $(IS_OURS); \
	if is_ours; then echo "process $$pid serves already: make stop ends it" >&2; exit 1; fi; \
	mkdir -p $(dir $(PIDFILE)); set -a; . ./$(SERVE_ENV); set +a; echo $$$$ > $(PIDFILE); \
	exec $(BIN)/python -m serve --config $(SERVE_CONFIG) --set release=runs/$(DATASET)/release \
		--set store.path=runs/$(DATASET)/store $(ARGS)

# Only the process that `make serve` started here; `ray stop` would end every Ray on the machine.
stop: ## Stop the service that `make serve` started
	@pid=$$(cat $(PIDFILE) 2>/dev/null || true); rm -f $(PIDFILE); $(IS_OURS); \
	if ! is_ours; then echo "no service of this checkout is running"; exit 0; fi; \
	echo "stopping process $$pid (requests under way may finish)"; kill $$pid; \
	for _ in {1..60}; do is_ours || { echo "stopped"; exit 0; }; sleep 1; done; \
	echo "process $$pid still runs after 60 s: kill -9 $$pid ends it" >&2; exit 1

check: $(READY) ## Lint, formatting, types and import rules, without the tests
	@$(SAY) "lint (ruff)"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(SAY) "types (mypy, strict, models and configs)"
	@$(BIN)/mypy
	@$(SAY) "import rules (import-linter)"
	@$(BIN)/lint-imports --no-logo

format: $(READY) ## Format the code and fix what lint can fix
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY) ## Run every benchmark, one after the other, side by side figures
	@for file in tests/benchmarks/bench_*.py; do \
		[ -e "$$file" ] || { echo "no benchmarks in tests/benchmarks" >&2; exit 1; }; \
		name=$$(basename "$$file" .py); $(SAY) "$$name"; \
		$(BIN)/python -m "tests.benchmarks.$$name" $(ARGS); \
	done

clean: ## Remove runs/, build leftovers and caches (keeps the virtual environment)
	@rm -rf runs build dist *.egg-info
	@rm -rf .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Ebb needs Python 3.11 or newer, but '$(PYTHON)' is" \
			"$$($(PYTHON) --version 2>/dev/null || echo 'not there')." \
			"Name one that is: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "could not make $(VENV): on Debian and Ubuntu install python3-venv" >&2; exit 1; }

# pip is quiet for minutes and then loud about every package: its full account goes to a file, and
# one line in twenty-five packages says that it is alive. --no-compile: compiling all of it takes a
# minute, compiling what is imported some eight seconds, at its first import.
$(READY): pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@echo "installing Ebb and what it needs into $(VENV) (once; 2 to 4 minutes, 2 GB)"
	@start=$$SECONDS; num=0; \
	$(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar off \
		--no-compile \
		$(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[dev,redis]' 2>&1 \
	| tee $(VENV)/install.log \
	| while read -r line; do case "$$line" in \
		Collecting*|Processing*) num=$$((num + 1)); \
			[ $$((num % 25)) != 0 ] || echo "  $$num packages found ($$((SECONDS - start)) s)";; \
		"Installing collected"*) echo "  unpacking ($$((SECONDS - start)) s)";; \
		"Successfully installed"*) echo "  installed ($$((SECONDS - start)) s)";; \
	esac; done \
	|| { tail -n 30 $(VENV)/install.log >&2; \
		echo "pip failed: the end of $(VENV)/install.log stands above" >&2; exit 1; }
	@touch $@
