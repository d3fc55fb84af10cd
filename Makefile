# `make run` shows the demo, `make test` checks everything. Either one is the only command needed.
#
#   PYTHON=python3.12 make test       with another interpreter (3.10 to 3.13)
#   UWSGI=/usr/bin/uwsgi make run     with another uWSGI than the pyuwsgi that gets installed
#   CONFIG=gevent make run            with another file of uwsgi_configs/
#   ADDRESS=127.0.0.1:9000 make run   at another address
#   TESTS=tests/test_x.py make test   a part of the tests

PYTHON  ?= python3
VENV    ?= .venv
CONFIG  ?= waffle
ADDRESS ?= 127.0.0.1:8080
TESTS   ?=

BIN := $(abspath $(VENV))/bin
export UWSGI ?= $(BIN)/uwsgi
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help run test lint check clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

run: $(VENV)/.demo ## Start the demo at http://127.0.0.1:8080 (Ctrl-C ends it)
	@echo "Starting http://$(ADDRESS)/ with uwsgi_configs/$(CONFIG).ini"
	@WAFFLE_DEMO_ADDRESS=$(ADDRESS) exec $(UWSGI) $(BINARY_PATH) --virtualenv $(abspath $(VENV)) \
		--ini uwsgi_configs/$(CONFIG).ini

test: lint ## Check style and types, start throw-away servers, run all tests
	@tests/provision.sh
	$(BIN)/python -m pytest $(TESTS)

lint: $(VENV)/.test ## Check style and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## Remove the virtual environment and the caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

# pyuwsgi's `uwsgi` is a Python script. At a reload (SIGHUP) uWSGI starts itself anew under the path
# it takes for its own, which then is that of the interpreter *behind* the virtual environment: the
# packages are gone and the service dies. `binary-path` names the right one. A compiled uwsgi must
# not get it, so the first two bytes decide.
BINARY_PATH = $$(test "$$(head -c 2 $(UWSGI))" != '\#!' || echo --binary-path $(BIN)/python)

# A stamp for each set of packages; a changed pyproject.toml installs it again.
$(VENV)/.demo $(VENV)/.test: $(VENV)/.%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@

# Debian keeps what venv needs in a package of its own.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "$(PYTHON) is not Python 3.10 or later: PYTHON=python3.12 make ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
		if [ "$$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; \
		then apt-get update && apt-get install --yes $$package; \
		else echo "Python's venv module is not complete here: sudo apt-get install $$package"; exit 1; fi; }
	$(PYTHON) -m venv $(VENV)
