# `make` sets up and runs the pipeline, `make test` sets up and runs the tests.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Spinning threads slow each other down beside a busy neighbour.
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run setup test bench lint clean
run: $(VENV)/run.stamp
	@python -m stages.check_params
	@dvc repro
	@python -m stages.summary

setup: $(VENV)/run.stamp

test: $(VENV)/test.stamp
	@python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST)

bench: $(VENV)/test.stamp
	@python -m bench

lint: $(VENV)/test.stamp
	@ruff check .

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found: install Python 3.11 or newer (Debian, Ubuntu: apt install python3 python3-venv), or name it: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $$($(PYTHON) --version) is too old: headflow needs Python 3.11 or newer; name one with make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) has no venv: install it (Debian, Ubuntu: apt install python3-venv; Fedora: part of python3)"; exit 1; }
	@command -v git >/dev/null || { echo "error: git not found: install it (Debian, Ubuntu: apt install git)"; exit 1; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing headflow and what it needs (some minutes, once)"
	@python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp
	@echo "installing what the tests need"
	@python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) .headflow
