# `make demo` shows the whole path on sample data, `make test` runs the checks. Both set up what they need.
# `make` alone lists the targets.
.DEFAULT_GOAL := help
.PHONY: base-graphs base-line-finder base-model bench help coverage demo page-tools pytest test test-slow test-current lint lock setup clean airflow-env airflow-demo airflow-test fuzz audit
PYTHON := .venv/bin/python

help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

setup:  ## the virtual environment .venv with the locked packages
	@./setup_env.sh

demo: setup  ## sample data -> pipeline -> gate -> pushed version -> server -> text
	@$(PYTHON) -m pipeline.demo

# The order of the files is that of tests/conftest.py.
PARALLEL = --numprocesses=2 --dist=loadfile --no-loadscope-reorder
test: SELECT = not slow and not deployment
test: setup lint pytest  ## lint, types, and the tests that are not slow

test-slow: SELECT = slow and not deployment
test-slow: pytest  ## the others: trainings, whole pipelines, killed processes, servers under load

pytest: setup
	@$(PYTHON) -m pytest $(PARALLEL) $(if $(SELECT),-m "$(SELECT)")

# Python 3.12 and later watch lines at a tenth of the time that older ones take for it, hence the current stack.
coverage: export COVERAGE_CORE := sysmon
coverage: setup  ## all tests on the current stack, and the share of the code that they run
	@rm -f .coverage .coverage.*
	@$(PYTHON) -m coverage run -m pytest $(PARALLEL)
	@$(PYTHON) -m coverage combine --quiet
	@$(PYTHON) -m coverage report --skip-covered --sort=cover

test-current:  ## tests on the current stack; on older systems in a Debian 13 root (as root), without `either_stack`
	@tests/current.sh

fuzz: setup  ## the property tests with 1000 examples instead of 100, where a test sets no number
	@HTR_HYPOTHESIS_PROFILE=thorough $(PYTHON) -m pytest -m hypothesis --numprocesses=2

# Each version of each package once, whatever Python and system its line is for: pip-audit passes over lines that are not
# for those that it runs on, and takes one version of a package at a time.
# --strict: behind a mirror without vulnerability data every package would count as free of them.
LOCKS = portable current portable-cuda current-cuda airflow airflow2
audit: setup  ## known vulnerabilities of the locked packages; asks pypi.org, so it needs the internet
	@lists=$$(mktemp -d) && trap 'rm -rf "$$lists"' EXIT && \
	awk -v lists="$$lists" '/^[^ #]/ { sub(/ *;.*/, ""); if (seen[$$0]++) next; name = $$0; sub(/[[=].*/, "", name); \
	  list = lists "/" (++versions[name]) ".txt"; print > list }' $(LOCKS:%=requirements/%.txt) && \
	for list in "$$lists"/*; do UV_PYTHON_DOWNLOADS=never .venv/bin/uv tool run --quiet \
	  --python $(PYTHON) --from pip-audit==2.10.1 pip-audit --strict --progress-spinner off --no-deps --disable-pip \
	  --requirement "$$list" \
	  $$(sed -n 's/^\([A-Z][A-Z]*-[^ ]*\) .*/--ignore-vuln \1/p' requirements/audit-exceptions.txt) || failed=1; done; \
	[ -z "$$failed" ] \
	  || { echo "Vulnerabilities outside of requirements/audit-exceptions.txt, or packages that pypi.org was not reached for: see above." >&2; exit 1; }

base-model: setup  ## the models that are shipped, trained anew; hours on two cores, goes on where it was stopped; SETS=... holds the real sets
	@$(PYTHON) -m pipeline.recipes.base_model --data "$(or $(SETS),$(error SETS=... names the folder of the real sets))"

base-graphs: setup  ## the models that are shipped, exported anew by today's code; trains nothing
	@$(PYTHON) -m pipeline.recipes.base_graphs

base-line-finder: setup  ## the line finder that is shipped, trained anew; two hours on two cores, goes on where it was stopped; SETS=... as above
	@$(PYTHON) -m pipeline.recipes.base_line_finder --data "$(or $(SETS),$(error SETS=... names the folder of the real sets))"

DATA ?= demo/data
WORKSPACE ?= demo/workspace
MODELS = $(WORKSPACE)/serving_model/htr

bench: export PYTHONWARNINGS := ignore
bench: setup  ## the benchmarks, on the demo's data and model or on DATA=... WORKSPACE=...; half an hour, alone on the machine
	@test -d "$(MODELS)" || { [ "$(WORKSPACE)" = demo/workspace ] && $(MAKE) demo; } || \
	  { echo "There is no pushed version in $(MODELS)." >&2; exit 1; }
	$(PYTHON) -m benchmarks.pipeline --data "$(DATA)" --model "$(MODELS)"
	$(PYTHON) -m benchmarks.training --data "$(DATA)" --preset word
	for workers in 1 2; do $(PYTHON) -m benchmarks.beam --data "$(DATA)" --workers $$workers \
	  --model "$(MODELS)/$$(ls "$(MODELS)" | grep -x '[0-9]*' | sort -n | tail -n 1)" || exit 1; done
	$(PYTHON) -m benchmarks.evaluation --workspace "$(WORKSPACE)"
	$(PYTHON) -m benchmarks.client --spawn "$(MODELS)" --images "$(DATA)/images"
	$(PYTHON) -m benchmarks.serving --spawn="$(MODELS)" --floor=1 --closed=1
	$(PYTHON) -m benchmarks.serving --spawn="$(MODELS)" --floor=16 --closed=64 --overload --overload_callers=64 -- \
	  --enable_batching --batching_parameters_file="$(CURDIR)/benchmarks/batching.config" --grpc_max_threads=96 \
	  --tensorflow_intra_op_parallelism=1 --tensorflow_inter_op_parallelism=2

AIRFLOW ?= 3
AIRFLOW_PYTHON ?= $(PYTHON)
AIRFLOW_LOCK = requirements/$(if $(filter 2,$(AIRFLOW)),airflow2,airflow).txt
export HTR_AIRFLOW_ENV = $(CURDIR)/.venv-airflow$(AIRFLOW)
airflow-env: setup  ## Airflow in an environment of its own; AIRFLOW=2 takes 2.11, for Python 3.12 or older, instead of 3.3
	@cksum $(AIRFLOW_LOCK) | cmp -s - "$(HTR_AIRFLOW_ENV)/.installed" || { \
	  .venv/bin/uv venv --quiet --clear --python "$(AIRFLOW_PYTHON)" "$(HTR_AIRFLOW_ENV)" && \
	  .venv/bin/uv pip install --quiet --python "$(HTR_AIRFLOW_ENV)/bin/python" --requirement $(AIRFLOW_LOCK) && \
	  cksum $(AIRFLOW_LOCK) > "$(HTR_AIRFLOW_ENV)/.installed"; }

airflow-demo: airflow-env  ## the pipeline as a DAG, to a pushed model
	@$(PYTHON) -m pipeline.demo.airflow

airflow-test: airflow-env  ## tests of the DAG with a real Airflow; 3.3 also with its services and two databases, installed as root
	@$(if $(filter 2,$(AIRFLOW)),,tests/tools.sh databases)
	@$(PYTHON) -m pytest -m "" tests/end_to_end/test_airflow.py $(if $(filter 2,$(AIRFLOW)),,tests/end_to_end/test_airflow_deployment.py)

page-tools: setup  ## readers of PAGE, ALTO and hOCR by others, and the schemas, in .venv-page-tools, for one test
	@cksum requirements/page-tools.txt | cmp -s - .venv-page-tools/.installed || { \
	  .venv/bin/uv venv --quiet --clear --python $(PYTHON) .venv-page-tools && \
	  .venv/bin/uv pip install --quiet --python .venv-page-tools/bin/python --requirement requirements/page-tools.txt && \
	  .venv/bin/uv pip install --quiet --no-deps --python-version 3.12 --target .venv-page-tools/schemas \
	    htrflow==0.2.6 ocrd==3.13.3 && \
	  cksum requirements/page-tools.txt > .venv-page-tools/.installed; }

lint: setup  ## ruff, mypy, import contracts
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/lint-imports --no-logo --no-cache
	@.venv/bin/mypy

# What is locked stays where it still fits.
COMPILE = .venv/bin/uv pip compile --quiet --no-header --no-emit-index-url $(addprefix --upgrade-package ,$(UPGRADE))
lock: setup  ## resolves requirements/*.txt again from requirements/*.in; UPGRADE="NAME..." takes the newest of these packages
	@$(COMPILE) --python-version 3.10 requirements/portable.in -o requirements/portable.txt
	@$(COMPILE) --python-version 3.11 --universal requirements/current.in -o requirements/current.txt
	@$(COMPILE) --python-version 3.10 requirements/portable-cuda.in -o requirements/portable-cuda.txt
	@$(COMPILE) --python-version 3.11 --universal requirements/current-cuda.in -o requirements/current-cuda.txt
	@$(COMPILE) --python-version 3.10 --universal requirements/airflow.in -o requirements/airflow.txt
	@# Airflow 2 breaks with libraries newer than itself, hence the date.
	@$(COMPILE) --python-version 3.10 --universal --exclude-newer 2026-04-01 requirements/airflow2.in -o requirements/airflow2.txt
	@$(COMPILE) --python-version 3.10 --universal requirements/page-tools.in -o requirements/page-tools.txt
	@for name in portable current portable-cuda current-cuda airflow airflow2 page-tools; do \
	  sed -i "1i # Exact versions of the environment '$$name'. Made by 'make lock'; works with plain pip too." requirements/$$name.txt; done

clean:  ## deletes the environments and the demo
	@rm -rf .venv .venv-airflow? .venv-page-tools .debian13 demo
