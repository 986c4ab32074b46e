# make setup | demo | test | lint | bench | pictures | ui. Each sets up what it needs in .venv; nothing else is touched.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test lint bench pictures ui clean

# What the tool itself needs; the demo waits for no more than this.
$(VENV)/.core: pyproject.toml constraints.txt hatch_build.py $(wildcard src/ehrseq/nn/kernels/*.[ch])
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; name another with make PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

# What development needs on top: tests, linters, DVC.
$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	@touch $@

setup: $(VENV)/.dev
	@echo "ready: $(BIN)/ehrseq --help, or: source $(BIN)/activate"

demo: $(VENV)/.core
	$(BIN)/ehrseq train experiment=demo
	@echo
	@echo "Look at it: make ui, then open http://127.0.0.1:5000"

test: lint
	$(BIN)/python -m pytest -q -n $$(( $$(nproc) + 1 )) --dist loadfile --no-loadscope-reorder --durations=25

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/waiting.py
	$(BIN)/python benchmarks/data_engine.py --events 1e6,1e7

# The documentation's pictures; PHYSIONET2012=.../set-a.tar.gz shows real data.
pictures: $(VENV)/.dev
	$(BIN)/python benchmarks/pictures.py $(PHYSIONET2012)

ui: $(VENV)/.core
	$(BIN)/ehrseq ui

clean:
	rm -rf $(VENV) .ehrseq runs results multirun mlflow.db mlartifacts .pytest_cache .mypy_cache .ruff_cache
