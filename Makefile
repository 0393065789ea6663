# Every target does the set-up that it needs; the first one to do so takes some minutes.
#   make run PYTHON=/path/to/python3.12     another Python for the virtual environment
#   make run ARGS="--set rounds=50"         further arguments for watershed, pytest

.DEFAULT_GOAL := help
.PHONY: help run up test types suite screenshots proof-slurm proof-zero check bench setup \
    cluster-packages browser-packages database-packages constraints clean distclean

VENV := .venv
BIN := $(VENV)/bin
# The stamp carries a checksum, so that a fresh checkout of the same versions installs nothing.
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
IS_SUPPORTED := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))

help:  ## Say what can be made
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(STAMP)  ## Run the main study: anarchic federated averaging on handwritten digits (90 s)
	@$(BIN)/watershed run configs/studies/digits.yaml $(ARGS)

up: $(STAMP)  ## Start the Prefect and MLflow servers and a worker (ARGS="--data DIR"); Ctrl-C ends them
	@$(BIN)/watershed up $(ARGS)

test: $(STAMP)  ## Check style, types and import contracts, and run all tests (10 to 20 minutes)
	@tests/cluster/install-packages.sh cluster || test "$$REQUIRE_SLURM" != 1
	@tests/cluster/install-packages.sh browser || test "$$REQUIRE_BROWSER" != 1
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory -j2 types suite

# Beside the tests, which leave a core idle now and then: types take a minute.
types: $(STAMP)
	$(BIN)/mypy

suite: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder \
	    --benchmark-disable $(ARGS)

screenshots: $(STAMP)  ## Take the pictures of docs/images in a browser (2 minutes)
	@tests/cluster/install-packages.sh browser
	REQUIRE_BROWSER=1 OMP_NUM_THREADS=1 $(BIN)/pytest -p no:xdist tests/browser \
	    --screenshots docs/images $(ARGS)

proof-slurm: $(STAMP)  ## Kill and disturb studies on real clusters and servers (needs root; takes long)
	@for group in cluster browser database; do tests/cluster/install-packages.sh $$group; done
	REQUIRE_SLURM=1 REQUIRE_BROWSER=1 REQUIRE_DATABASE=1 OMP_NUM_THREADS=1 $(BIN)/pytest --slow -s \
	    --benchmark-disable tests/cluster tests/integration tests/browser tests/unit/slurm $(ARGS)

proof-zero: $(STAMP)  ## The long proofs: all partitions of 8 ranks, engines, rates (half an hour)
	OMP_NUM_THREADS=1 $(BIN)/pytest --slow -s --benchmark-disable \
	    tests/unit/zero tests/proof $(ARGS)

check: $(STAMP)  ## Check all studies without running them
	@$(BIN)/watershed check configs/studies/*.yaml $(ARGS)

bench: $(STAMP)  ## Measure the speed beside a plain loop over the workers
	$(BIN)/pytest tests/benchmarks --benchmark-only $(ARGS)

setup: $(STAMP)  ## Make the virtual environment in .venv and install

cluster-packages:  ## Install Slurm and MariaDB for tests/cluster (as root, on Debian or Ubuntu)
	@tests/cluster/install-packages.sh cluster

browser-packages:  ## Install Chromium for tests/browser (as root, on Debian)
	@tests/cluster/install-packages.sh browser

database-packages:  ## Install PostgreSQL for its tests (as root, on Debian or Ubuntu)
	@tests/cluster/install-packages.sh database

$(STAMP):
	@set -e; \
	if ! $(BIN)/python -c '$(IS_SUPPORTED)' >/dev/null 2>&1; then \
	    python=; \
	    for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	        if "$$candidate" -c '$(IS_SUPPORTED)' >/dev/null 2>&1; then python=$$candidate; break; fi; \
	    done; \
	    if [ -z "$$python" ]; then \
	        echo "Watershed needs Python 3.11, 3.12 or 3.13 with its venv module (on Debian and" >&2; \
	        echo "Ubuntu the package python3-venv); found: $$(python3 --version 2>&1 || echo none)." >&2; \
	        echo "Name another with: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; \
	        exit 1; \
	    fi; \
	    echo "Making $(VENV) with $$($$python --version) ..."; \
	    rm -rf $(VENV); \
	    "$$python" -m venv $(VENV); \
	fi; \
	echo "Installing; the first time this takes 3 to 8 minutes ..."; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'; \
	rm -f $(VENV)/.installed-*; \
	touch $@

constraints:  ## Renew constraints.txt: the newest versions that resolve together
	@set -e; \
	directory=$$(mktemp -d); trap 'rm -rf "$$directory"' EXIT; \
	$(BIN)/python -m venv "$$directory/venv"; \
	"$$directory/venv/bin/python" -m pip install --quiet -e '.[dev]'; \
	{ head -1 constraints.txt; \
	  "$$directory/venv/bin/python" -m pip freeze --exclude-editable | sed 's/+cpu$$//'; \
	} > "$$directory/constraints.txt"; \
	cp "$$directory/constraints.txt" constraints.txt

clean:  ## Remove caches; runs and .venv stay
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks .import_linter_cache
	find configs flows models tasks tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## Remove .venv, too
	rm -rf $(VENV)
