# `make lab` opens the course, `make test` checks it. Each does all of its own set-up in .venv:
# the first call installs, later calls start at once (a stamp file depends on pyproject.toml).

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check install -q

TORCH     := torch==2.13.0
CPU_INDEX := https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help lab test test-all gpu fuzz outputs world bench lint stamp

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

lab: $(VENV)/.ready-lab  ## open the course in JupyterLab
	@$(VENV)/bin/ftlab lab

# Two processes share the files, each computes in one thread: threads that wait for
# a core that another process holds would cost more than they bring.
test: $(VENV)/.ready-test  ## tests, and every notebook from top to bottom
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

test-all: test  ## the same, and every notebook with its exercises solved
	@$(PY) -m tools.notebooks solve

gpu: $(VENV)/.ready-gpu  ## the tests that need an NVIDIA GPU (installs Unsloth and Liger)
	@$(PY) -m pytest -o addopts="" -q -rs -m gpu tests/gpu

fuzz: $(VENV)/.ready-test  ## damage 10,000 data files: only a clear message may come out
	@FTLAB_FUZZ=10000 $(PY) -m pytest -o addopts="" -q tests/test_fuzz_data.py

outputs: $(VENV)/.ready-test  ## run every notebook and store its outputs (NB=notebooks/00_... for one)
	@$(PY) -m tools.notebooks outputs $(NB)

world: $(VENV)/.ready-lab  ## rebuild the small world's text, datasets and tokenizer, byte for byte
	@$(PY) -m ftlab.world

bench: $(VENV)/.ready-test  ## measure and write the table in README.md
	@$(PY) -m benchmarks

lint: $(VENV)/.ready-test  ## ruff and mypy
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(PY) -m mypy

stamp: $(VENV)/.ready-test  ## write the repository's address into the notebooks (REPO=owner/name)
	@$(PY) -m tools.stamp "$(REPO)"

# --- set-up -------------------------------------------------------------------------------------

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "ftlab needs Python 3.11 or newer, and $(PYTHON) is not."; \
	  echo "Name another one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "$(PYTHON) cannot make virtual environments."; \
	  echo "On Debian or Ubuntu: sudo apt install python3-venv"; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)

# Without an NVIDIA GPU on Linux, PyTorch's CPU build saves 4 GB. It comes from PyTorch's own index;
# where that host cannot be reached, pip falls back to the other places it knows.
$(VENV)/.ready-lab: pyproject.toml | $(PY)
	@echo "Installing ftlab into $(VENV) (once; a few minutes, about 1.5 GB) ..."
	@if [ "$$(uname -s)" = Linux ] && ! nvidia-smi -L >/dev/null 2>&1; then \
	  $(PIP) --no-deps --retries 1 --timeout 15 --extra-index-url $(CPU_INDEX) $(TORCH); fi
	@$(PIP) -e '.[lab,track,serve,quant]'
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready-lab tools/colab_kernel.py
	@echo "Installing the test tools ..."
	@$(PIP) -e '.[lab,track,serve,quant,optim,dev]'
	@$(PY) tools/colab_kernel.py
	@touch $@

$(VENV)/.ready-gpu: $(VENV)/.ready-test
	@echo "Installing the kernels for GPUs ..."
	@$(PIP) -e '.[lab,track,serve,quant,optim,dev,gpu]'
	@touch $@
