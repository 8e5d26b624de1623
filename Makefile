# `make demo` and `make test` need nothing but Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test test-all gpu-ops gpu checks format clean

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing torch, ray, deepspeed and the rest: about 2 minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[png]' || \
		echo "Pillow decodes PNGs, more slowly: the extra 'png' could not be installed, as said above. It needs a C++" \
			"compiler and Python's headers; then: $(BIN)/pip install -e '.[png]'"
	@touch $@

demo: install
	$(BIN)/plca demo --out demo

# Two processes: one runs the tests on Ray and Slurm clusters, the other meanwhile the rest. tests/conftest.py groups them.
PARALLEL := --numprocesses 2 --dist loadfile --no-loadscope-reorder

# The whole suite but the tests marked slow or ci; at most 12 minutes on 2 cores, no GPU.
test: install
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not ci"

test-all: install
	$(BIN)/python -m pytest $(PARALLEL)

# On a machine with a GPU, torch, triton and pytest, and nothing else of this project's packages: PYTHON is theirs.
gpu-ops:
	@$(PYTHON) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || \
		{ echo "there is no GPU that $(PYTHON)'s torch can use; set PYTHON to one whose torch can"; exit 1; }
	$(PYTHON) -m pytest tests/ops -rs
	$(PYTHON) benchmarks/association.py
	$(PYTHON) benchmarks/gpu_step.py

# On a machine with a GPU or more: all that needs one, then the whole way on it.
gpu: install
	$(BIN)/plca doctor --gpu
	$(BIN)/python -m pytest -m gpu -rs
	$(BIN)/python -m benchmarks.gpu_smoke
	$(BIN)/torchrun --standalone --nproc-per-node gpu benchmarks/gpu_step.py

checks: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_imports.py

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
