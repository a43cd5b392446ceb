# `make demo` shows the whole path on sample data, `make test` runs all checks. Both set up what they need.
.PHONY: demo test test-fast lint lock setup clean
PYTHON := .venv/bin/python

setup:
	@./setup_env.sh

demo: setup  ## sample data -> pipeline -> gate -> pushed version -> server -> text
	@$(PYTHON) -m pipeline.demo

test: setup lint  ## lint, types, all tests
	@$(PYTHON) -m pytest

test-fast: setup  ## tests without those that train or start several processes
	@$(PYTHON) -m pytest -m "not slow"

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

lock: setup  ## resolves requirements.txt again from requirements.in
	@.venv/bin/uv pip compile --quiet --no-header --no-emit-index-url --python $(PYTHON) requirements.in -o requirements.lock
	@{ echo "# Exact versions for Python 3.10 (stack A). Made by \`make lock\` from requirements.in; works with plain pip too."; cat requirements.lock; } > requirements.txt
	@rm requirements.lock

clean:
	@rm -rf .venv demo
