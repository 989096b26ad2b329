# The two commands: `make demo` and `make test`. Both set up what they need, and do it once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# neither torch nor the tools that only collector-config and the documentation need
LIGHT := .venv-light
# the newest torch that is tested; the older ones are below
TORCH := torch==2.15.0
OTHER_PYTHONS := 3.10 3.12 3.13 3.14 3.15
# tests marked pure run on the oldest and the newest Python alone
PURE_PYTHONS := 3.10 3.15
PYTEST_FLAGS ?=
# empty: the many processes of the tests would each compile torch and the tests again
export PYTHONDONTWRITEBYTECODE :=
# a stage collects only the files that have tests of it (tests/repository/test_stages.py)
CRASH_TESTS := tests/crash tests/spool/test_store.py
LIVE_TESTS := tests/live tests/cli/test_run.py tests/demo/test_command.py tests/instrument
# unit tests wait more than they compute
WORKERS ?= $(shell echo $$(($$(nproc) < 4 ? 2 * $$(nproc) : 8)))
PARALLEL := -n $(WORKERS) --dist worksteal
# tests that share a real job or other expensive fixtures run in one process (tests/backends/conftest.py)
PARALLEL_GROUPS := -n $(WORKERS) --dist loadgroup
# tests that read files of the repository run on one Python
FILES := --ignore=tests/documents --ignore=tests/repository
NEEDS_NEITHER := --ignore=tests/backends --ignore=tests/collector_config

# pages whose tables are written from the code
TABLES := README.md ARCHITECTURE.md $(wildcard docs/*/*.md)
SPHINX := $(BIN)/sphinx-build -W -n --keep-going -q

.PHONY: help demo test lint format types contracts unit unit-torch coverage build crash live backends backends-live backends-early pythons light environment environments environments-early torch2.2 torch2.8 nvrx bench dashboards docs docs-check tables clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

demo: environment  ## a real two-node job on this machine, its events watched as they arrive
	@$(BIN)/torchelastic-otel demo $(ARGS)

test: backends-early environments-early lint types contracts docs-check build unit unit-torch crash live backends-live pythons  ## format, lint, types, contracts, all tests
	@echo "make test: everything passed"
	@$(PYTHON) scripts/backends --paths >/dev/null 2>&1 || \
	    echo "make test: but the tests with real backends did NOT run; make backends says how to get them"

lint: light  ## format and lint
	@$(LIGHT)/bin/ruff format --check --quiet . || { echo "lint: not formatted; run make format"; exit 1; }
	@$(LIGHT)/bin/ruff check --quiet .
	@$(LIGHT)/bin/interrogate --quiet tests || { echo "lint: every test has a docstring of one line that states its reason"; exit 1; }
	@$(LIGHT)/bin/cog --check -r $(TABLES)
	@$(LIGHT)/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(LIGHT)/bin/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
	@$(LIGHT)/bin/check-jsonschema --quiet --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	@$(LIGHT)/bin/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml

format: light  ## format the code, and repair what ruff can repair
	@$(LIGHT)/bin/ruff check --fix --quiet . ; $(LIGHT)/bin/ruff format --quiet .

types: light  ## mypy, strict
	@$(LIGHT)/bin/mypy

contracts: light  ## the package layers
	@$(LIGHT)/bin/lint-imports > .import-contracts.log 2>&1 || { cat .import-contracts.log; exit 1; }

unit: light  ## the tests that need neither torch, nor torchrun, nor a kill
	@$(LIGHT)/bin/python -m pytest $(PARALLEL) -m "not (torch or config or build or live or crash or backends)" \
	    $(NEEDS_NEITHER) $(PYTEST_FLAGS)

unit-torch: environment  ## the other unit tests: with torch, and of collector-config
	@$(BIN)/python -m pytest $(PARALLEL) -m "(torch or torch_unloaded or config) and not (live or crash or backends)" \
	    $(PYTEST_FLAGS)

coverage: environment  ## branch coverage of the unit tests; it must reach the floor in pyproject.toml
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report= \
	    -m "not (unmeasured or torch_unloaded or build or live or crash or backends)" $(PYTEST_FLAGS)
	@$(BIN)/coverage report --skip-covered --sort=miss

build: light  ## build sdist and wheel into dist/; install and start the wheel in an empty environment
	@rm -rf dist
	@$(LIGHT)/bin/uv build --quiet --build-constraints constraints.txt --out-dir dist
	@$(LIGHT)/bin/python -m pytest -m build tests/packaging $(PYTEST_FLAGS)

crash: environment  ## kills, outages, full and hung disks
	@$(BIN)/python -m pytest $(CRASH_TESTS) $(PARALLEL) -m "crash and not backends" $(PYTEST_FLAGS)

live: environments  ## real torchrun jobs, on three versions of torch
	@$(BIN)/python -m pytest $(LIVE_TESTS) $(PARALLEL) -m "live and not backends" $(PYTEST_FLAGS)

# its exit status 3: there is no Go here that could build them
backends:  ## the real Collector, VictoriaLogs, Prometheus and Jaeger, built once and cached
	@$(PYTHON) scripts/backends

# make test builds them while other tests run, which mostly wait; backends-live waits for the end of that
backends-early:
	@$(PYTHON) scripts/backends >/dev/null 2>&1 &

backends-live: environment  ## real torchrun jobs, into the real Collector and backends
	@$(PYTHON) scripts/backends; status=$$?; \
	if [ $$status -eq 3 ]; then \
	    echo "backends: the tests with real backends did NOT run; the line above says how to get them"; \
	else \
	    [ $$status -eq 0 ] && $(BIN)/python -m pytest tests/backends $(PARALLEL_GROUPS) $(PYTEST_FLAGS); \
	fi

pythons:  ## the tests that need no torch, on every other Python that is installed
	@for version in $(OTHER_PYTHONS); do \
	    case " $(PURE_PYTHONS) " in *" $$version "*) pure= ;; *) pure=" or pure" ;; esac; \
	    if python=$$(scripts/find-python $$version); then \
	        scripts/environment .venv-python$$version $$python -e . --group test || exit 1; \
	        echo "pythons: $$version"; \
	        .venv-python$$version/bin/python -m pytest -q -p no:cacheprovider $(PARALLEL) \
	            -m "not (torch or config or build or live or crash or backends$$pure)" $(NEEDS_NEITHER) $(FILES) $(PYTEST_FLAGS) || exit 1; \
	    else \
	        echo "pythons: no Python $$version here: its tests did NOT run; install it to run them"; \
	    fi; \
	done

light:
	@scripts/environment $(LIGHT) $(PYTHON) -e '.[instrument]' --group light

environment:
	@scripts/environment $(VENV) $(PYTHON) -e '.[torch,instrument]' '$(TORCH)' numpy --group dev

environments:  ## one environment for each older torch that is tested
	@$(MAKE) --no-print-directory -j4 environment torch2.2 torch2.8 nvrx

# in the background: downloads take minutes
environments-early:
	@$(MAKE) environments >/dev/null 2>&1 &

# torch 2.2 has no wheels for Python 3.13
torch2.2:
	@scripts/environment .venv-torch2.2 $$(scripts/find-python 3.11 || echo $(PYTHON)) -e '.[instrument]' 'torch==2.2.2' 'numpy<2'

nvrx:
	@scripts/environment .venv-nvrx $$(scripts/find-python 3.12 || echo $(PYTHON)) -e '.[instrument]' '$(TORCH)' numpy nvidia-resiliency-ext

torch2.8:
	@scripts/environment .venv-torch2.8 $(PYTHON) -e '.[instrument]' 'torch==2.8.0' numpy

bench: environment  ## the measurements of benchmarks/RESULTS.md, anew
	@$(BIN)/python benchmarks/run.py $(ARGS)

docs: tables  ## build the documentation site into docs/_build/html
	@$(SPHINX) -b html docs docs/_build/html
	@echo "docs: open docs/_build/html/index.html"

docs-check: environment  ## build the site with warnings as errors; no file of the repository is changed
	@$(SPHINX) -b html docs docs/_build/check

tables: light  ## write the tables of README.md and docs/ from the code
	@$(LIGHT)/bin/cog -r $(TABLES)

dashboards: environment  ## write collector-config/dashboards/*.json anew from scripts/dashboard_source
	@$(BIN)/python scripts/dashboards

clean:  ## remove what was set up
	rm -rf .venv .venv-* .make .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .import-contracts.log .coverage .coverage.* dist docs/_build
