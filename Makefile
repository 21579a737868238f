# `make run` and `make test` install everything they need on a new machine with Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
STAMP := $(VENV)/installed
BIN := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: run test test-all test-portable check mutants bench peers setup browser screenshots clean
run: $(STAMP)
	$(BIN)/numerate run

# Three files at once on two cores, each in a process with one thread: tests spend a third of their time waiting for
# servers and processes. The tests of a file run in one process, because they share fixtures. In alphabetical order most
# of the longest files come first.
test: $(STAMP)
	$(PYTEST) -m "not slow" -n 3 --dist loadfile --no-loadscope-reorder

test-all: $(STAMP)
	$(PYTEST)

# The numeric tests with the settings of other machines; about fifteen minutes.
test-portable: $(STAMP)
	$(BIN)/python -m tests.portable

# Debian's Chromium, for the tests of the UI; without a browser they are skipped.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { test "$$(id -u)" = 0 \
		&& apt-get update -qq >/dev/null && apt-get install -y -qq chromium >/dev/null; } \
		|| echo "chromium cannot be installed here: the tests in a browser are skipped"

screenshots: $(STAMP) browser
	$(BIN)/python -m tests.browser.screenshots

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Mutation tests of the pure core; hours. 'make mutants ONLY="storage.order*"' tests one module.
mutants: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[mutants]"
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m mutmut run $(if $(ONLY),"$(ONLY)") --max-children 2
	$(BIN)/python -m tests.mutants

# Only this target installs the libraries that the benchmarks compare with.
bench: $(STAMP) peers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[benchmarks]"
	$(BIN)/python -m tests.benchmarks

# Peers that pin older libraries have their own environment. streaming installs torchvision, which may not fit torch and
# then breaks its imports; no benchmark needs it.
peers:
	@test -e $(PEERS)/installed || { $(PYTHON) -m venv $(PEERS) \
		&& $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/benchmarks/peers.txt \
		&& $(PEERS)/bin/python -m pip uninstall --quiet --yes torchvision \
		&& touch $(PEERS)/installed; } || echo "$(PEERS) cannot be installed here: its benchmarks are skipped"

setup: $(STAMP)

# The stamp is written last, so an interrupted installation is repeated.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[development]"
	@touch $(STAMP)

clean:
	rm -rf $(VENV) $(PEERS) build *.egg-info
