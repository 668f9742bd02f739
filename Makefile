# Every target sets up its own environment; nothing needs to be active or installed first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JAX_VENV := .venv-jax
JAX_READY := $(JAX_VENV)/.ready
WHEEL_VENV := .venv-wheel

.PHONY: bench docs example test lint wheel clean

example: $(READY)
	$(BIN)/python examples/linear_regression.py

# One thread for each process: with two, they wait in loops for the two cores, and the
# tests take 10 minutes instead of 7. Each gets half of the tests, and what is left of
# the other's half when it is done: dealt out in turn, tests of a file that share what
# takes long (processes, a wheel) come to both, and so does that. Bytecode is written
# even if the environment forbids it: without, each of the processes rewrites every
# test, and each that they start compiles the package.
test: $(READY)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
		$(BIN)/python -m pytest -n 2 --dist worksteal

# Writes benchmarks/RESULTS.md. Needs Python 3.11, for quadax.
bench: $(READY) $(JAX_READY)
	$(BIN)/python benchmarks/run.py

# Strict: a warning, a broken link or reference, or code that prints something else fails.
docs: $(READY)
	$(BIN)/python -m pytest -q tests/test_docs.py -k page_shows
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Builds what would be published, and tries it in an environment that has nothing else.
wheel: $(READY)
	rm -rf dist $(WHEEL_VENV)
	$(BIN)/python -m build --no-isolation
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/python -m pip install -c constraints.txt torch
	$(WHEEL_VENV)/bin/python -m pip install -c constraints.txt dist/*.whl
	$(WHEEL_VENV)/bin/python tests/wheel_smoke.py $(WHEEL_VENV)

clean:
	rm -rf $(VENV) $(JAX_VENV) $(WHEEL_VENV) build dist docs/_build docs/generated
	rm -rf .mypy_cache .ruff_cache

# torch goes in first and pinned: resolved together with the rest, pip may take a newer
# build with gigabytes of CUDA libraries. The build backends, that of padaquad too, are
# pinned the same way, hence no build isolation.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt hatchling editables setuptools
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e ".[dev]"
	touch $(READY)

# JAX and quadax get an environment of their own: they share numpy and scipy with the
# package, and may want other versions.
$(JAX_READY): benchmarks/constraints-jax.txt
	$(PYTHON) -m venv $(JAX_VENV)
	$(JAX_VENV)/bin/python -m pip install -c benchmarks/constraints-jax.txt jax quadax
	touch $(JAX_READY)
