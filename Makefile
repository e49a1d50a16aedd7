# setup, demo and test work from a bare checkout with Python 3.11+, make and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
# the release that was made for that torch
TORCHVISION ?= torchvision==0.28.0

.PHONY: setup demo test test-fast lint clean

setup: $(VENV)/.installed

# torch is named first and exactly; where an index has a CPU build, set TORCH to it: other builds
# bring gigabytes of CUDA libraries that nothing here needs.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet "$(TORCH)" "$(TORCHVISION)" -e '.[body,scaling,smplx,torch,eval,eval-oracles,dev]'
	@$(BIN)/python -c 'import torchvision' 2>/dev/null || { echo "note: this torchvision was built for another torch, and transformers would fail with it; it is put aside for the tests (omfa eval leaves out what needs it; set TORCHVISION to one that fits)"; $(BIN)/python -m pip uninstall --quiet --yes torchvision; $(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/aside "$(TORCHVISION)"; }
	@$(BIN)/python -c 'import ctypes.util, sys; ctypes.util.find_library("EGL") or print("note: no libEGL here; pose maps use the built-in renderer (for pyrender: apt-get install libegl1 libgl1)")'
	touch $@

demo: setup
	$(BIN)/omfa demo --workdir runs/demo

test: setup
	$(BIN)/python -m pytest

# without the tests that start processes or compile networks
test-fast: setup
	$(BIN)/python -m pytest -m "not slow"

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) runs build dist *.egg-info
