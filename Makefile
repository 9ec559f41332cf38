# Everything happens in $(VENV); see `make help`. Set a variable like this: make test WORKERS=4

PYTHON ?= python3
VENV ?= .venv
# The script that `make demo` runs, with its arguments.
DEMO ?= examples/digits_demo.py
# How many processes test at once; more arguments for pytest.
WORKERS ?= auto
PYTEST_ARGS ?=
# Names of benchmarks; all if empty.
BENCHMARKS ?=

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	--constraint constraints.txt

help:
	@echo "make demo         train a population on handwritten digits ($(DEMO))"
	@echo "make test         style, types, layers, then every test"
	@echo "make bench        every benchmark, into tests/benchmarks/results/; takes long"
	@echo "make bench-gpu    those of training and breeding, on a GPU"
	@echo "make screenshots  the pictures in dashboards/README.md; needs chromium"
	@echo "make build        wheel and source distribution, in dist/"
	@echo "make clean        remove what the others left, except $(VENV)"
	@echo "Variables: PYTHON VENV DEMO WORKERS PYTEST_ARGS BENCHMARKS"

demo: $(VENV)/.installed-package
	$(BIN)/python $(DEMO)

# One thread of arithmetic per test process: small networks are slower with two.
test: $(VENV)/.installed-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null \
		|| command -v google-chrome >/dev/null \
		|| echo "There is no chromium: the dashboards are not tested in a browser"
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 $(PYTEST_ARGS)

# One thread of arithmetic per process, as workers have; nothing else should run beside them.
bench: $(VENV)/.installed-tests
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m tests.benchmarks $(BENCHMARKS)

bench-gpu: $(VENV)/.installed-tests
	$(BIN)/python -m tests.benchmarks training models breeding -- --device cuda

screenshots: $(VENV)/.installed-tests
	$(BIN)/python dashboards/take_screenshots.py

build: $(VENV)/.installed-tests
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf build dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find . -path './$(VENV)' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and alone: whatever else asks for it later finds the pinned build in place.
# scikit-learn has the digits of the examples.
$(VENV)/.installed-package: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing optuna_esgd into $(VENV)"
	@$(PIP) torch
	@$(PIP) scikit-learn --editable '.[dashboard]'
	@touch $@

# mysqlclient is compiled, so it is tested where the headers are: the tests do without it.
$(VENV)/.installed-tests: $(VENV)/.installed-package
	@echo "Installing what the tests need into $(VENV)"
	@$(PIP) --editable '.[test]'
	@if command -v mariadb_config >/dev/null || command -v mysql_config >/dev/null; then \
		$(PIP) mysqlclient >/dev/null 2>&1 \
			|| echo "mysqlclient cannot be built here: tested without it"; \
	fi
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "optuna_esgd needs Python 3.11 or newer, and '$(PYTHON)' is not." \
			"Name another one: make PYTHON=python3.12 ..." >&2; \
		exit 1; \
	}
	@$(PYTHON) -m venv $(VENV) || { rm -f $@; exit 1; }

.PHONY: help demo test bench bench-gpu screenshots build clean
