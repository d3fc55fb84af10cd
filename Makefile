# `make run` shows the demo, `make test` checks everything. Either one is the only command needed.
#
#   PYTHON=python3.12 make test       with another interpreter (3.10 or later)
#   UWSGI=/usr/bin/uwsgi make run     with another uWSGI than the pyuwsgi that gets installed
#   CONFIG=gevent make run            with another file of uwsgi_configs/
#   ADDRESS=127.0.0.1:9000 make run   at another address
#   TESTS=tests/bus make test         a part of the tests
#   JOBS=1 make test                  one test at a time
#   HOSTS=1000 make bench-scale       a fleet of one size
#   make soak MINUTES=60              all faults mixed for so long, and one table at the end
#   make fuzz INPUTS=1000             so many damaged inputs for each reader of bytes and each interface

PYTHON  ?= python3
VENV    ?= .venv
CONFIG  ?= waffle
ADDRESS ?= 127.0.0.1:8080
TESTS   ?=
HOSTS   ?=
MINUTES ?=
INPUTS  ?= 1000000
# More arguments of the mixed soak, such as `--seed 7 --database mariadb`.
SOAK    ?=
# Tests wait as much as they compute, so there are more of them at once than cores. Those of a file
# stay together, as they share servers.
JOBS    ?= 4

BIN := $(abspath $(VENV))/bin
export UWSGI ?= $(BIN)/uwsgi
export PIP_DISABLE_PIP_VERSION_CHECK = 1

PYTEST = $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder
# What the tests need of the package's extras.
EXTRAS = admin,encryption,gevent,mysql,postgresql
FLASK_WAFFLE = $(BIN)/flask --app $(abspath uwsgi_configs/demo.py) waffle

.DEFAULT_GOAL := help
.PHONY: help run test suite provision soak fuzz lint verifytypes coverage lowest wheel-test pictures applications bench bench-scale clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 19

run: $(VENV)/.demo ## Start the demo at http://127.0.0.1:8080 (Ctrl-C ends it)
	@echo "Starting http://$(ADDRESS)/ with uwsgi_configs/$(CONFIG).ini"
	@echo "To change a setting from another shell:"
	@echo "    $(FLASK_WAFFLE) set SITENAME=Hello"
	@WAFFLE_DEMO_ADDRESS=$(ADDRESS) exec $(UWSGI) $(BINARY_PATH) --virtualenv $(abspath $(VENV)) \
		--ini uwsgi_configs/$(CONFIG).ini

test: lint suite ## Check style and types, start throw-away servers, run all tests

# Not its own flags for the `make` that a test runs.
suite: $(VENV)/.dev provision
	MAKEFLAGS= $(PYTEST) $(TESTS)

provision:
	@tests/provision.sh

soak: $(VENV)/.dev $(VENV)/.servers provision ## Run the tests at full counts; with MINUTES=60, all faults mixed for so long
	$(if $(MINUTES),$(BIN)/python -m tests.machine.soak --minutes $(MINUTES) $(SOAK), \
		TEST_SOAK=1 $(PYTEST) --timeout 3600 --hypothesis-profile default $(TESTS))

fuzz: $(VENV)/.dev ## Give each reader of bytes and each interface a million damaged inputs
	$(BIN)/python -m tests.machine.fuzz --inputs $(INPUTS)

lint: $(VENV)/.dev ## Check style, types, the direction of imports and dangerous calls only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive uwsgi_waffle uwsgi_configs

verifytypes: $(VENV)/.dev ## Check that every public name is typed in full
	$(BIN)/python -m pytest tests/project/test_types.py

coverage: export COVERAGE_FILE = $(abspath .coverage)
coverage: $(VENV)/.dev provision ## Run the tests and show what they do not reach, in any process
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder --timeout 300 $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lowest: ## Run the tests of the core on the oldest versions that pyproject.toml allows
	tests/lowest.sh $(PYTHON)

wheel-test: $(VENV)/.dev ## Build the package, install it elsewhere, and test it there
	tests/wheel.sh $(BIN)/python

pictures: $(VENV)/.dev provision ## Take the pictures of docs/images anew
	$(BIN)/python -m tests.admin.pictures

applications: $(VENV)/.dev ## Fetch applications by others, and test them with the extension
	$(BIN)/python tests/applications/fetch.py
	$(BIN)/python -m pytest tests/applications

bench: provision ## Measure, and write the tables and plots of docs/performance.md
	@$(MAKE) --no-print-directory VENV=$(VENV)-bench $(VENV)-bench/.bench
	for name in reads peers start catch_up updates propagation budget looks beside_updates report; do \
		UWSGI=$(abspath $(VENV)-bench)/bin/uwsgi $(VENV)-bench/bin/python -m tests.bench.$$name || exit 1; \
	done

bench-scale: $(VENV)/.dev provision ## Measure fleets of 100 to 3,000 hosts; HOSTS="1000" for one, in half an hour all
	$(BIN)/python -m tests.bench.fleet $(if $(HOSTS),--hosts $(HOSTS))

clean: ## Remove the virtual environment and the caches
	rm -rf $(VENV) $(VENV)-bench build dist .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis

# pyuwsgi's `uwsgi` is a Python script. At a reload (SIGHUP) uWSGI starts itself anew under the path
# it takes for its own, which then is that of the interpreter *behind* the virtual environment: the
# packages are gone and the service dies. `binary-path` names the right one. A compiled uwsgi must
# not get it, so the first two bytes decide.
BINARY_PATH = $$(test "$$(head -c 2 $(UWSGI))" != '\#!' || echo --binary-path $(BIN)/python)

# A stamp for each set of packages; a changed pyproject.toml installs it again.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[admin,gevent]' --group demo
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]' --group dev
	@touch $@

$(VENV)/.servers: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --group servers
	@touch $@

$(VENV)/.bench: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]' --group bench
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
