# Each target does all its set-up from a fresh clone: Python 3.11+, make and pip are enough. Quick when repeated.
PYTHON ?= python3
EXTRAS ?=
comma := ,
VENV := .venv
BIN := $(VENV)/bin
# torch has no small build for every platform: it is installed only when asked for.
READY := $(VENV)/.ready-$(if $(EXTRAS),$(subst $(comma),-,$(EXTRAS)),base)

.PHONY: demo test bench fuzz clean

demo: $(READY)
	$(BIN)/stopping demo
	$(BIN)/stopping promise

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n auto

bench:
	$(MAKE) $(VENV)/.ready-bench EXTRAS=bench
	$(BIN)/python -m benchmarks

fuzz: $(READY)
	$(BIN)/python -m tests.stopping.artifacts.hostile --count 100000

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev$(if $(EXTRAS),$(comma)$(EXTRAS))]'
	touch $@
