# `make demo` shows the whole path on sample data, `make test` runs all checks. Both set up what they need.
.PHONY: demo test test-fast lint lock setup clean airflow-env airflow-demo airflow-test
PYTHON := .venv/bin/python

setup:
	@./setup_env.sh

demo: setup  ## sample data -> pipeline -> gate -> pushed version -> server -> text
	@$(PYTHON) -m pipeline.demo

test: setup lint  ## lint, types, all tests
	@$(PYTHON) -m pytest --numprocesses=2 --dist=loadfile

test-fast: setup  ## tests without those that train or start several processes
	@$(PYTHON) -m pytest -m "not slow"

airflow-env: setup  ## Airflow in an environment of its own, .venv-airflow
	@cksum requirements-airflow.txt | cmp -s - .venv-airflow/.installed || { \
	  .venv/bin/uv venv --quiet --clear --python $(PYTHON) .venv-airflow && \
	  .venv/bin/uv pip install --quiet --python .venv-airflow/bin/python --requirement requirements-airflow.txt && \
	  cksum requirements-airflow.txt > .venv-airflow/.installed; }

airflow-demo: airflow-env  ## the pipeline as a DAG, to a pushed model
	@$(PYTHON) -m pipeline.airflow_demo

airflow-test: airflow-env  ## tests of the DAG with a real Airflow
	@$(PYTHON) -m pytest tests/end_to_end/test_airflow.py

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

lock: setup  ## resolves requirements.txt again from requirements.in
	@.venv/bin/uv pip compile --quiet --no-header --no-emit-index-url --python $(PYTHON) requirements.in -o requirements.lock
	@{ echo "# Exact versions for Python 3.10 (stack A). Made by \`make lock\` from requirements.in; works with plain pip too."; cat requirements.lock; } > requirements.txt
	@# Airflow breaks with libraries newer than itself, hence the date.
	@echo apache-airflow==2.11.2 | .venv/bin/uv pip compile --quiet --no-header --no-emit-index-url --exclude-newer 2026-04-01 --python $(PYTHON) - -o requirements-airflow.lock
	@{ echo "# Exact versions of Airflow and its libraries for Python 3.10, for an environment of its own. Made by \`make lock\`."; cat requirements-airflow.lock; } > requirements-airflow.txt
	@rm requirements.lock requirements-airflow.lock

clean:
	@rm -rf .venv .venv-airflow demo
