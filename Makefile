# The commands a developer or a newcomer needs. `make demo CORPUS=DIR` runs the demo on your images.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup check test slow gpu demo bench bench-gpu

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; name another with make PYTHON=…"; exit 2; }
	@echo "installing into $(VENV) (torch with its CUDA libraries: 6 GB, a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,onnx,wandb,parquet,s3,dev]'
	@touch $(READY)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup
	$(BIN)/python -m pytest

slow: setup
	$(BIN)/python -m pytest -m slow

gpu: setup
	$(BIN)/python -m pytest -m gpu

demo: setup
	$(BIN)/python -m downstream.demo $(if $(CORPUS),--corpus '$(CORPUS)')

bench: setup
	for name in duplicates loader write; do $(BIN)/python benchmarks/bench_$$name.py || exit 1; done

bench-gpu: setup
	$(BIN)/python benchmarks/bench_gpu.py
