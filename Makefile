# The project's tasks; every target works on a fresh clone with Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test test-long check format models bench peers clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# The demo needs no torch, so it has an installation step of its own.
$(VENV)/demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[samples]'
	touch $@

$(VENV)/dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev]'
	touch $@

demo: $(VENV)/demo ## optimize a trained text detector: proved equal, measured on this machine
	$(BIN)/python samples/demo.py

# Two workers on two cores: threads of numpy's matrix products would only wait for each other.
test: $(VENV)/dev ## run the tests
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not long"

test-long: $(VENV)/dev ## run all tests, the sweeps that take minutes included
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

check: $(VENV)/dev ## lint, formatting, types and layering
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev ## reformat the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

models: $(VENV)/demo ## fetch the trained models that tests, samples and benchmarks use
	$(BIN)/python samples/fetch_models.py

bench: $(VENV)/dev ## compare with other simplifiers on trained models
	$(BIN)/python benchmarks/real_models.py

peers: $(VENV)/dev ## install the other runtimes and optimizers that benchmarks/networks.py runs
	$(BIN)/python benchmarks/peers.py

clean: ## remove what the targets above made
	rm -rf $(VENV) .peers demo build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
