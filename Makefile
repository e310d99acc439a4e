# make demo    install into .venv, run the suite `demo`, print the leaderboard
# make test    install the test extra, run the test suite
# make long    more of it that takes minutes: real models exported and tracked
# make chaos   kill engines, cells and containers, fill disks, let cells hang: takes some minutes more
# make check   what CI checks besides the tests
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test long chaos check clean

demo: .venv/.demo
	$(BIN)/moodbench run demo --run demo

test: .venv/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not chaos and not long"

long: .venv/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "long and not chaos"

chaos: .venv/.test
	$(BIN)/python -m pytest -n 2 --dist load -m chaos

check: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/harness/test_shipped_config.py

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "MoodBench needs Python 3.11 or newer; set PYTHON=/path/to/python"; exit 3; }
	$(PYTHON) -m venv .venv

.venv/.%: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@

clean:
	rm -rf .venv build dist
