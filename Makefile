# Everything starts here: a fresh machine needs Python 3.11 with venv, and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
ARGS ?=

.PHONY: help setup report test test-fast serve lab bench chaos benchmark-data benchmark-anomaly difficulty drift fuzz sequence day-two lint lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

setup: $(STAMP) ## build .venv from requirements.lock (no-op when nothing changed)

# Compiling once pays: a report starts about ten Python processes that import the same packages.
$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed; name another with make PYTHON=..." >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m uv --version >/dev/null 2>&1 || { awk '/^uv==/ { on = 1 } on { print } on && !/\\$$/ { exit }' requirements.lock \
		> $(VENV)/uv.lock && $(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement $(VENV)/uv.lock; }
	$(BIN)/python -m uv pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(STAMP)

report: setup ## main job: tune three models, judge them, write reports/<source>/report.html (ARGS="--source ...")
	$(BIN)/aiops report $(ARGS)

# Notebooks and services mostly wait, so two processes share the tests; ARGS="-n 0" keeps them in one.
test: setup ## all tests: fast ones, notebooks, serving and faults
	$(BIN)/python -m pytest -n 2 --dist loadscope $(ARGS)

test-fast: setup ## the fast tests only
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow and not notebook and not serve" $(ARGS)

serve: setup ## HTTP service of the champions on port 8100
	$(BIN)/aiops serve $(ARGS)

lab: setup ## JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks $(ARGS)

bench: setup ## throughput and latency side by side, as ratios, to reports/benchmark.md
	$(BIN)/python tests/benchmarks/serving.py --write reports/benchmark.md $(ARGS)

chaos: setup ## hurt a real service on purpose, fault by fault, to reports/reliability.md (ARGS="--only replica")
	$(BIN)/python tests/benchmarks/chaos $(ARGS)

benchmark-data: setup ## all real data sets against their floors, to reports/real-data.md
	$(BIN)/python tests/benchmarks/real_data $(ARGS)

benchmark-anomaly: setup ## the anomaly detector on labelled series, to reports/anomaly.md (needs AIOPS_DATASETS_DIR)
	$(BIN)/python tests/benchmarks/anomaly.py $(ARGS)

day-two: setup ## four weeks after the promotion, against the real service in a few minutes, to reports/day-two
	$(BIN)/python tests/benchmarks/day_two.py $(ARGS)

fuzz: setup ## 10,000 requests and more from the description, with all checks, to reports/reliability.md
	$(BIN)/python tests/benchmarks/fuzz.py --write reports/reliability.md $(ARGS)

difficulty: setup ## how hard the synthetic data are for simple and strong methods, to reports/difficulty.md
	$(BIN)/python tests/benchmarks/difficulty.py $(ARGS)

sequence: setup ## how far the running judgement of two versions can be trusted, to reports/sequence.md
	$(BIN)/python tests/benchmarks/sequence.py $(ARGS)

drift: setup ## quiet weeks and drifts through monitoring, to reports/drift.md (ARGS="--tasks threat --weeks 30")
	$(BIN)/python tests/benchmarks/drift.py $(ARGS)

lint: setup ## ruff, format check, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: $(BIN)/python ## resolve pyproject.toml anew into requirements.lock
	$(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --generate-hashes --upgrade pyproject.toml --output-file requirements.lock

clean: ## remove the environment and caches, keep reports and the registry
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
