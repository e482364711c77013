# Two commands do everything on a fresh Debian or Ubuntu machine with Python 3.11 or newer: make demo, make test.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
DEMO := demo/demoland-client-registry
WORKERS ?= 2

.PHONY: help setup demo test unit long lint typecheck lab lab-deploy catalog golden reference site benchmark clean

help: ## list all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## create the virtual environment with everything the targets need

$(STAMP): pyproject.toml tools/setup-python
	@PYTHON="$(PYTHON)" tools/setup-python $(VENV)
	@touch $@

demo: $(STAMP) ## render the plan of Demoland into a committed repository, check it and show its status
	@rm -rf $(DEMO) && mkdir -p demo
	$(BIN)/santescaffold new $(DEMO) --answers tests/plans/valid/demoland-mpi.yml --template "$(CURDIR)"
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(MAKE) --no-print-directory -C $(DEMO) check
	$(BIN)/santescaffold check $(DEMO)
	$(BIN)/santescaffold status $(DEMO)

test: $(STAMP) lint typecheck unit lab ## everything CI runs: linters, types, all tests, the lab where the machine allows

unit: $(STAMP) ## all tests that need no lab
	@tools/setup-test-packages
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not lab and not long" --ignore tests/update/test_safe_update.py tests
	$(BIN)/pytest -n 0 -m "not long" tests/update/test_safe_update.py  # kills and full disks: alone on the machine

long: $(STAMP) ## the predictions of `plan` on the real template: minutes of processor time for one test
	$(BIN)/pytest -n 0 -m long tests

lint: $(STAMP) ## ruff, generated files fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check santescaffold tools tests
	$(BIN)/python -m tools.compile_catalog --check
	$(BIN)/python -m tools.generate_schema --check
	$(BIN)/python -m tools.generate_reference --check

typecheck: $(STAMP) ## mypy --strict
	$(BIN)/mypy

lab: $(STAMP) ## real hosts on this machine: the lab and the stand-in, a split plan and a cluster from bare hosts on, changes, faults, grades (needs root; says why where it cannot)
	@tools/run-lab $(BIN) "$(addprefix tests/lab/,test_harness.py test_split.py test_faults.py)" tests/lab/test_cluster.py

lab-deploy: $(STAMP) ## every deployment scenario on real hosts, some three hours (CONTRIBUTING.md)
	@$(BIN)/python -m tools.lab build wheels
	@tools/run-lab $(BIN) tests/lab

catalog: $(STAMP) ## compile questions/ and catalog/ for the template
	$(BIN)/python -m tools.compile_catalog

golden: $(STAMP) catalog ## write the golden trees of the named plans; review the diff
	$(BIN)/python -m tools.golden

reference: $(STAMP) catalog ## write the reference pages, the schemas and the role pages from the data
	$(BIN)/python -m tools.generate_schema
	$(BIN)/python -m tools.generate_reference
	$(BIN)/python -m tools.generate_role_docs

site: $(STAMP) ## build the documentation site into site/
	$(BIN)/mkdocs build --strict

benchmark: $(STAMP) ## measure rendering against a trivial template, and 1,000 clinics against 10
	$(BIN)/python benchmarks/rendering.py

clean: ## remove what the targets made
	rm -rf $(VENV) demo site .pytest_cache .mypy_cache .ruff_cache .hypothesis
