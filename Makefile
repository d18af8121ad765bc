# The one list of commands. Each installs what it needs: on a bare Debian 12 with root, git and make, `make test` and `make demo` work.
PYTHON  := .venv/bin/python
PYTEST  := $(PYTHON) -m pytest -q
export PYTHONPATH := $(CURDIR)/src:$(CURDIR)

.PHONY: help setup native tools check unit test sanitized conformance churn faults demo bench wheel install clean
help:           ## what can be made
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 14

setup:          ## Debian packages and the virtual environment (nothing is done twice)
	@scripts/setup

native: setup   ## the static monitor and the extension modules, in place
	@$(MAKE) --no-print-directory -C native

tools: setup    ## crictl, critest and the images' busybox, from pinned sources (once)
	@scripts/build-tools
	@scripts/build-busybox

check: native   ## seconds: lint, types, layers, unit tests
	.venv/bin/ruff check src tests scripts/apt-derived scripts/requirements
	.venv/bin/ruff format --check src tests
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PYTEST) tests/unit

test: check tools   ## everything that CI runs: kernel, CRI, conformance, faults, bounded fuzz, sanitizers
	$(PYTEST) tests --ignore=tests/unit
	scripts/test-sanitized

sanitized: native   ## executor, monitor and unpacker built with ASan, LSan and UBSan pass their kernel tests
	scripts/test-sanitized

conformance: native tools   ## critest and crictl only; critest with crun and runc as handlers as well
	ORLOP_CONFORMANCE=all $(PYTEST) -s tests/conformance

churn: native tools   ## 2,000 pods, 8 at a time, 20 kills of the daemon (ORLOP_CHURN_PODS, ORLOP_CHURN_KILLS)
	ORLOP_CHURN_PODS=$${ORLOP_CHURN_PODS:-2000} ORLOP_CHURN_KILLS=$${ORLOP_CHURN_KILLS:-20} $(PYTEST) -s tests/churn

faults: native tools   ## the daemon is killed at every fault point
	$(PYTEST) tests/faults

demo: native    ## a pod from a registry to a running web page that outlives the daemon
	@$(PYTHON) scripts/demo

bench: native tools   ## orlop beside containerd with runc and crun; ARGS="--quick" or ARGS="--rows start,exec"
	$(PYTHON) -m tests.bench $(ARGS)

wheel: setup    ## dist/orlop-*.whl, with the native part in it
	PATH=$(CURDIR)/.venv/bin:$$PATH .venv/bin/pip wheel -q --disable-pip-version-check --no-build-isolation --no-deps -w dist .

install: wheel  ## orlopd and orlop into /opt/orlop, with links in /usr/local/bin
	@scripts/install

clean:          ## what the build made
	$(MAKE) --no-print-directory -C native clean
	rm -rf dist
