# Each target sets up everything it needs in a virtual environment of its own; Python 3.11 or newer is all that must be there.
PYTHON ?= python3
QUICKSTART := .venvs/quickstart
CHECK := .venvs/check

# Spinning OpenMP threads slow two-thread torch down many times over as soon as another process wants a core.
export OMP_WAIT_POLICY := passive

.PHONY: help quickstart check check-fast format bench clean

help:
	@echo "make quickstart   train a signed supermask and its dense baseline on real data (under 3 minutes)"
	@echo "make check        format, lint, types, every test, docs; what CI runs"
	@echo "make check-fast   the same without slow tests (under 5 minutes)"
	@echo "make format       rewrite the code in the project's format"
	@echo "make bench        the figures of docs/performance.md"
	@echo "make clean        remove the virtual environments and caches"

quickstart: $(QUICKSTART)/.installed
	$(QUICKSTART)/bin/supermask run quickstart --out runs

check: export OMP_NUM_THREADS := 1
check: $(CHECK)/.installed
	$(CHECK)/bin/ruff format --check .
	$(CHECK)/bin/ruff check .
	$(CHECK)/bin/mypy
	$(CHECK)/bin/python -m pytest -n 2 --dist worksteal

check-fast: export OMP_NUM_THREADS := 1
check-fast: $(CHECK)/.installed
	$(CHECK)/bin/ruff format --check .
	$(CHECK)/bin/ruff check .
	$(CHECK)/bin/mypy
	$(CHECK)/bin/python -m pytest -n 2 --dist worksteal -m "not slow"

format: $(CHECK)/.installed
	$(CHECK)/bin/ruff format .
	$(CHECK)/bin/ruff check --fix .

bench: $(CHECK)/.installed
	$(CHECK)/bin/python benchmarks/step.py
	$(CHECK)/bin/python benchmarks/selection.py
	$(CHECK)/bin/python benchmarks/epoch.py
	$(CHECK)/bin/python benchmarks/memory.py
	$(CHECK)/bin/python benchmarks/lab.py

clean:
	rm -rf .venvs .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

$(QUICKSTART)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(QUICKSTART)
	$(QUICKSTART)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lab,data]'
	touch $@

$(CHECK)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(CHECK)
	$(CHECK)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
