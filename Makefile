# The one list of commands. Each installs what it needs: on a bare Debian 12 with root, git and make, `make test` and `make demo` work.
PYTHON  := .venv/bin/python
export PYTHONPATH := $(CURDIR)/src

.PHONY: help setup native check test clean
help:           ## what can be made
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 14

setup:          ## Debian packages and the virtual environment (nothing is done twice)
	@scripts/setup

native: setup   ## the static monitor and the extension modules, in place
	$(MAKE) --no-print-directory -C native

check: native   ## seconds: lint, types, layers, unit tests
	.venv/bin/ruff check src tests
	.venv/bin/ruff format --check src tests
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PYTHON) -m pytest -q tests/unit

test: check     ## everything that CI runs
	$(PYTHON) -m pytest -q tests --ignore=tests/unit || test $$? -eq 5

clean:          ## what the build made
	$(MAKE) --no-print-directory -C native clean
