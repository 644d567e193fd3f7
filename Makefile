# Everything that a fresh machine with Python 3.11 or later needs: `make train`, `make test`.
PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/lenet_dsn
BIN := $(VENV)/bin
# The NVIDIA driver answers, or the CPU does the work. The two runtimes overwrite each other's files: only one.
EXTRA := $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)

.PHONY: train test examples lint check wheel benchmark clean

train: $(VENV)/installed
	$(BIN)/netc train lenet_dsn --run $(RUN) $(if $(wildcard $(RUN)/checkpoints/*),--resume)
	$(BIN)/netc eval $(RUN)
	$(BIN)/netc predict $(RUN) test:0-4

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal -rs

# Packages of npm for the examples in JavaScript and C++; without them their tests are skipped.
examples: examples/browser/node_modules examples/cpp/node_modules examples/node/node_modules

examples/%/node_modules: examples/%/package-lock.json
	cd examples/$* && npm ci --no-audit --no-fund --fetch-retries=1
	touch $@

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests benchmarks examples

check: lint test wheel

wheel: $(VENV)/installed-test
	PYTHON=$(BIN)/python scripts/check_wheel

benchmark: $(VENV)/installed-test
	$(BIN)/python benchmarks/step.py lenet lenet_dsn mlp resnet20 --engines cpu,eager
	$(BIN)/python benchmarks/overhead.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$(EXTRA),images]"
	touch $@

$(VENV)/installed-test: pyproject.toml $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build dist
