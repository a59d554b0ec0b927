# `make demo` and `make test` need Python 3.11 or newer with venv, and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# test,parity also installs what networks are compared with: PyTorch, for which Python 3.11 is needed
EXTRAS ?= test
TESTS ?=
DEMO_CONFIG ?= configs/streets.py
DEMO_WORKDIR ?= runs/streets

.PHONY: demo quick test lint clean

demo: $(VENV)/installed
	$(BIN)/python main.py run --config $(DEMO_CONFIG) --workdir $(DEMO_WORKDIR)

quick: $(VENV)/installed
	$(BIN)/python main.py run --config configs/quick.py --workdir runs/quick

test: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(TESTS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf $(VENV) runs
