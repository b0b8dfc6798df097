# make env | test | test-slow | lint | demo | clean. PYTHON is the interpreter .venv is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# What the compiled extension is made of: a change rebuilds it.
SOURCES := $(shell find kernels -name CMakeLists.txt -o -name '*.cpp' -o -name '*.h')

.PHONY: env lint test test-slow demo clean

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev]' -c constraints.txt
	touch $@

lint: env
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -q -m "not slow"

test-slow: env
	$(BIN)/python -m pytest -q -m slow

# In a folder of its own that ignores itself, with the built-in set: nothing is downloaded.
demo: env
	mkdir -p .demo
	echo '*' > .demo/.gitignore
	cd .demo && ../$(BIN)/rsquant train --arch resnet18 --wbits 2 --abits 2 --exist-ok --name demo
	cd .demo && ../$(BIN)/rsquant eval
	cd .demo && ../$(BIN)/rsquant export --all
	cd .demo && ../$(BIN)/rsquant bench

# Leaves .venv, runs/ and .data/ alone: they took someone time.
clean:
	rm -rf build dist .demo .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find rsquant tests -name __pycache__ -type d -prune -exec rm -rf {} +
