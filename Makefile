# `make run` and `make test` do everything on a fresh machine with Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
STAMP := $(VENV)/installed
BIN := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: run test test-all test-portable check mutants bench peers setup browser screenshots clean
run: $(STAMP)
	$(BIN)/numerate run

# Two files at once, each process on one thread: a third of their time is spent on waiting for servers and processes. A
# file's tests stay together, and share what it made. In the order of their names most of the longest come first.
test: $(STAMP)
	$(PYTEST) -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-all: $(STAMP)
	$(PYTEST)

# The numeric tests as other machines would compute; some fifteen minutes.
test-portable: $(STAMP)
	$(BIN)/python -m tests.portable

# Debian's browser, for the tests of the UI: they are skipped where it is missing.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { test "$$(id -u)" = 0 \
		&& apt-get update -qq >/dev/null && apt-get install -y -qq chromium >/dev/null; } \
		|| echo "chromium can't be installed here: the tests in a browser are skipped"

screenshots: $(STAMP) browser
	$(BIN)/python -m tests.browser.screenshots

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Changes of the pure core that the tests have to notice; hours. 'make mutants ONLY="storage.order*"' tries one module.
mutants: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[mutants]"
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m mutmut run $(if $(ONLY),"$(ONLY)") --max-children 2
	$(BIN)/python -m tests.mutants

# The peers that the benchmarks time are installed only here, those with older pins in an environment of their own.
bench: $(STAMP) peers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[benchmarks]"
	$(BIN)/python -m tests.benchmarks

# streaming asks for a torchvision, which may be one for another torch and then breaks what imports it; nothing here does.
peers:
	@test -e $(PEERS)/installed || { $(PYTHON) -m venv $(PEERS) \
		&& $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/benchmarks/peers.txt \
		&& $(PEERS)/bin/python -m pip uninstall --quiet --yes torchvision \
		&& touch $(PEERS)/installed; } || echo "$(PEERS) can't be installed here: its benchmarks are left out"

setup: $(STAMP)

# The stamp is written last: an installation that was cut off is done again.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[development]"
	@touch $(STAMP)

clean:
	rm -rf $(VENV) $(PEERS) build *.egg-info
