# Two commands on a fresh machine with Python >= 3.11 and make:  make demo,  make test
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-gpu check lint types floors bench limit compare clean

setup: .venv/.ready

.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e '.[torchcodec,dali,bench,dev]'
	touch $@

demo: setup
	$(BIN)/gpuload demo

test: setup
	$(BIN)/python -m pytest -q -n auto tests

# What needs a GPU, and what runs natively on one; without a GPU it fails. In processes of their own: an error that loses
# the CUDA context must not hide the others.
test-gpu: setup
	$(BIN)/python -c "import sys, torch; torch.cuda.is_available() or sys.exit('no usable GPU: see gpuload doctor')"
	eval "$$($(BIN)/gpuload env)" && for part in tests/kernels tests/integration/test_staged*.py tests/integration/test_crossing.py tests/gpu; do \
		GPULOAD_REQUIRE_CUDA=1 $(BIN)/python -m pytest -q $$part || failed=1; done; test -z "$$failed"

check: lint types floors

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

floors: setup
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m benchmarks.parts

limit: setup
	$(BIN)/python -m benchmarks.limit

compare: setup
	$(BIN)/python -m benchmarks.compare

clean:
	rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache
