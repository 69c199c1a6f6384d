# Each target sets up everything it needs in a virtual environment of its own; Python 3.11 or newer is all that must be there.
PYTHON ?= python3
QUICKSTART := .venvs/quickstart
CHECK := .venvs/check

# Spinning OpenMP threads slow two-thread torch down many times over as soon as another process wants a core.
export OMP_WAIT_POLICY := passive

# minutes of `make fuzz`
MINUTES ?= 10

.PHONY: docs soak fuzz browser help quickstart kernels sanitize check check-fast format bench clean

help:
	@echo "make quickstart   train a signed supermask and its dense baseline on real data (under 3 minutes)"
	@echo "make check        format, lint, types, every test, docs; what CI runs"
	@echo "make check-fast   the same without slow tests (under 5 minutes)"
	@echo "make kernels      compile the kernels again, in place, after a change of their C sources"
	@echo "make docs         the documentation site, in build/site (seconds)"
	@echo "make soak         long tests of faults and scale, up to hours; SOAK_RUNS=20 for a short look"
	@echo "make fuzz         throw damaged files at every reader of packed files, for MINUTES=10"
	@echo "make browser      fetch a headless Chromium (66 MB, Linux x86-64, needs npm) for the test of the JavaScript decoder"
	@echo "make sanitize     the kernels under AddressSanitizer, UndefinedBehaviorSanitizer and, if it is there, valgrind"
	@echo "make format       rewrite the code in the project's format"
	@echo "make bench        the figures of docs/performance.md"
	@echo "make clean        remove the virtual environments and caches"

quickstart: $(QUICKSTART)/.installed
	$(QUICKSTART)/bin/supermask run quickstart --out runs

# without a compiler the checks go on, with numpy and torch in place of the kernels
kernels: $(CHECK)/.installed
	-$(CHECK)/bin/python src/supermask/kernels/build.py

sanitize: $(CHECK)/.installed
	$(CHECK)/bin/python tests/kernels/sanitize.py

check: export OMP_NUM_THREADS := 1
check: kernels
	$(CHECK)/bin/ruff format --check .
	$(CHECK)/bin/ruff check .
	$(CHECK)/bin/mypy
	$(CHECK)/bin/python -m pytest -n 2 --dist worksteal

check-fast: export OMP_NUM_THREADS := 1
check-fast: kernels
	$(CHECK)/bin/ruff format --check .
	$(CHECK)/bin/ruff check .
	$(CHECK)/bin/mypy
	$(CHECK)/bin/python -m pytest -n 2 --dist worksteal -m "not slow"

docs: $(CHECK)/.installed
	$(CHECK)/bin/python -m sphinx -q -W --keep-going docs build/site

soak: export OMP_NUM_THREADS := 1
soak: kernels
	$(CHECK)/bin/python -m pytest tests/soak -m soak -s --durations=0

format: $(CHECK)/.installed
	$(CHECK)/bin/ruff format .
	$(CHECK)/bin/ruff check --fix .

bench: $(CHECK)/.installed
	$(CHECK)/bin/python benchmarks/step.py
	$(CHECK)/bin/python benchmarks/selection.py
	$(CHECK)/bin/python benchmarks/epoch.py
	$(CHECK)/bin/python benchmarks/memory.py
	$(CHECK)/bin/python benchmarks/lab.py

fuzz: kernels
	$(CHECK)/bin/python tests/deploy/fuzz_packed.py --minutes $(MINUTES)

browser:
	npm install --prefix .cache/browser --ignore-scripts --no-audit --no-fund @sparticuz/chromium@147
	cd .cache/browser && TMPDIR=$$PWD AWS_EXECUTION_ENV=AWS_Lambda_nodejs22.x node --input-type=module \
		-e 'import chromium from "@sparticuz/chromium"; console.log(await chromium.executablePath())'

clean:
	rm -rf .venvs .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

$(QUICKSTART)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(QUICKSTART)
	$(QUICKSTART)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lab,data]'
	touch $@

$(CHECK)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(CHECK)
	$(CHECK)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(CHECK)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps trackio
	touch $@
