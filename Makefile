# Each target does its own set-up; on a fresh machine `make demo` and `make test` are all it takes.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
SETUP = .ci/constraints.txt .ci/no-deps.txt pyproject.toml

NETWORKS ?= 10000

.PHONY: demo docs test fuzz matrix package lint format bench bench-quick bench-report zoo clean

$(VENV)/ready: $(SETUP)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c .ci/constraints.txt -e '.[demo,test,lint]'
	$(BIN)/pip install --quiet --no-deps -r .ci/no-deps.txt
	touch $@

demo: $(VENV)/ready  ## The main job: real networks, real photographs, one picture and one table.
	$(BIN)/python docs/examples/demo.py

$(VENV)/docs-ready: $(VENV)/ready
	$(BIN)/pip install --quiet -c .ci/constraints.txt -e '.[docs]'
	touch $@

docs: $(VENV)/docs-ready  ## The site, in build/docs; runs the tutorials. Warnings are errors. Python 3.11.
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -b html -W --keep-going -q docs build/docs

test: $(VENV)/ready  ## Tests, docstring examples and the examples of README and docs.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q

fuzz: $(VENV)/ready  ## Random networks against slow oracles: NETWORKS of them; tests/fuzz/TALLY.json.
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz -n $(NETWORKS)

lint: $(VENV)/ready  ## Lint, format, strict types, and which way imports run.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/ready  ## All benchmarks, about an hour on two idle cores; docs/benchmarks.md.
	$(BIN)/python -m benchmarks --threads 2

bench-quick: $(VENV)/ready  ## A part of them, in a few minutes.
	$(BIN)/python -m benchmarks --threads 2 --quick

bench-report: $(VENV)/ready  ## Tables and plots of the docs, from the stored results.
	$(BIN)/python -m benchmarks.report README.md docs/benchmarks.md docs/speed.md

matrix:  ## The suite on the oldest torch, the newest, and some between: docs/versions.md; hours.
	$(PYTHON) .ci/matrix.py $(TORCH)

package:  ## The sdist and the wheel: built, looked into, and used outside of the checkout.
	PYTHON=$(PYTHON) .ci/package

.venv-zoo/ready: .ci/constraints.txt .ci/zoo.txt
	$(PYTHON) -m venv .venv-zoo
	.venv-zoo/bin/pip install --quiet -c .ci/constraints.txt -e .
	.venv-zoo/bin/pip install --quiet --no-deps -r .ci/zoo.txt
	# Built for CUDA: without them torchaudio falls back on Python.
	rm -f .venv-zoo/lib/python3*/site-packages/torchaudio/lib/*.so
	touch $@

zoo: .venv-zoo/ready  ## Hundreds of models of other libraries, and whether their maps are right; docs/zoo.md.
	.venv-zoo/bin/python -m benchmarks.zoo

clean:
	rm -rf .venv .venv-zoo build docs/gallery *.egg-info
