# Each target does all its set-up from a fresh clone: Python 3.11+, make and pip are enough. Quick when repeated.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
comma := ,

.PHONY: demo test nightly torch bench fuzz clean

demo: $(VENV)/.ready-dev
	$(BIN)/stopping demo
	$(BIN)/stopping promise

test: $(VENV)/.ready-dev-llamacpp-notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder --durations=20

# The same tests at full size: more examples, longer recordings.
nightly: $(VENV)/.ready-dev-llamacpp-notebooks
	STOPPING_NIGHTLY=1 $(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder --durations=20

# The tests that `make test` skips where torch is missing, and no others. torch is large, so only this target installs it.
torch: $(VENV)/.ready-dev-llamacpp-notebooks-transformers
	$(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder --durations=20 -m torch

bench: $(VENV)/.ready-dev-bench
	$(BIN)/python -m benchmarks

fuzz: $(VENV)/.ready-dev
	$(BIN)/python -m tests.stopping.artifacts.hostile --count 100000

clean:
	rm -rf .venv .venv-* .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info

# `.ready-dev-bench` marks that the extras dev and bench are installed.
$(VENV)/.ready-%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[$(subst -,$(comma),$*)]'
	touch $@
