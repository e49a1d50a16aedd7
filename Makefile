# setup, demo and test need a checkout, Python 3.11 or newer, make and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
# the torchvision release for this torch
TORCHVISION ?= torchvision==0.28.0

.PHONY: setup demo test test-fast lint clean

setup: $(VENV)/.installed

# torch is installed first, in one exact version. If your index has a CPU build, set TORCH to it: the
# other builds pull in gigabytes of CUDA libraries that nothing here needs.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet "$(TORCH)" "$(TORCHVISION)" -e '.[app,body,gcs,heif,s3,scaling,smplx,torch,eval,eval-oracles,dev]'
	@$(BIN)/python -c 'import torchvision' 2>/dev/null || { echo "note: this torchvision was built for another torch and breaks transformers; it is moved to $(VENV)/aside for the tests (omfa eval skips the metrics that need it; set TORCHVISION to a matching version)"; $(BIN)/python -m pip uninstall --quiet --yes torchvision; $(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/aside "$(TORCHVISION)"; }
	@$(BIN)/python -c 'import ctypes.util, sys; ctypes.util.find_library("EGL") or print("note: libEGL is not installed; pose maps use the built-in renderer (for pyrender: apt-get install libegl1 libgl1)")'
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
