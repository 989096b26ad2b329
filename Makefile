# The two commands: `make demo` and `make test`. Both set up what they need, and do it once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# the newest torch that is tested; the older ones are below
TORCH := torch==2.15.0
TOOLS := pytest hypothesis mypy ruff import-linter interrogate cogapp jsonschema types-requests
INSTRUMENTATIONS := opentelemetry-instrumentation-requests opentelemetry-instrumentation-grpc
OTHER_PYTHONS := 3.10 3.12 3.13
PYTEST_FLAGS ?=

.PHONY: help demo test lint types contracts unit crash live pythons environment environments bench docs clean

help:  ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

demo: environment  ## a real two-node job on this machine, its events watched as they arrive
	@$(BIN)/torchelastic-otel demo $(ARGS)

test: lint types contracts unit crash live pythons  ## format, lint, types, contracts, all tests
	@echo "make test: everything passed"

lint: environment  ## format and lint
	@$(BIN)/ruff format --check --quiet . || { echo "lint: not formatted; run $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/interrogate --quiet tests || { echo "lint: every test says in one line why it is there"; exit 1; }
	@$(BIN)/cog --check -r README.md ARCHITECTURE.md

types: environment  ## mypy, strict
	@$(BIN)/mypy

contracts: environment  ## which room may import which
	@$(BIN)/lint-imports > .import-contracts.log 2>&1 || { cat .import-contracts.log; exit 1; }

unit: environment  ## everything that needs neither torchrun nor a kill
	@$(BIN)/python -m pytest -m "not live and not crash" $(PYTEST_FLAGS)

crash: environment  ## kills, outages, full and hung disks
	@$(BIN)/python -m pytest -m crash $(PYTEST_FLAGS)

live: environment environments  ## real torchrun jobs, on three versions of torch
	@$(BIN)/python -m pytest -m live $(PYTEST_FLAGS)

pythons: environment  ## what runs without torch, on every other Python that is here
	@for version in $(OTHER_PYTHONS); do \
	    if python=$$(scripts/find-python $$version); then \
	        scripts/environment .venv-python$$version $$python -e . pytest hypothesis jsonschema $(INSTRUMENTATIONS) || exit 1; \
	        echo "pythons: $$version"; \
	        .venv-python$$version/bin/python -m pytest -q -p no:cacheprovider -m "not live and not crash and not torch" $(PYTEST_FLAGS) || exit 1; \
	    else \
	        echo "pythons: no Python $$version here: its tests did NOT run; install it to run them"; \
	    fi; \
	done

environment:
	@scripts/environment $(VENV) $(PYTHON) -e '.[torch,instrument]' '$(TORCH)' numpy $(TOOLS) $(INSTRUMENTATIONS)

# torch 2.2 has no wheels for Python 3.13
environments: environment  ## one environment for each older torch that is tested
	@scripts/environment .venv-torch2.2 $$(scripts/find-python 3.11 || echo $(PYTHON)) -e '.[instrument]' 'torch==2.2.2' 'numpy<2'
	@scripts/environment .venv-nvrx $$(scripts/find-python 3.12 || echo $(PYTHON)) -e '.[instrument]' '$(TORCH)' numpy nvidia-resiliency-ext
	@scripts/environment .venv-torch2.8 $(PYTHON) -e '.[instrument]' 'torch==2.8.0' numpy

bench: environment  ## the measurements of benchmarks/RESULTS.md, anew
	@$(BIN)/python benchmarks/run.py $(ARGS)

docs: environment  ## write the tables of README.md anew from the code
	@$(BIN)/cog -r README.md ARCHITECTURE.md

clean:  ## remove what was set up
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .import-contracts.log
