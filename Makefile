# The LLFC book. `make help` lists what there is.
PROFILE ?= smoke
CHAPTERS ?=
PYTHON ?= python3
PIP_FLAGS ?=
DEVICE ?= cpu
RECIPES ?=
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# `make runs` without a profile works through all of them
RUNS_PROFILE := $(if $(filter command line environment,$(origin PROFILE)),--profile $(PROFILE),)
RUNS_RECIPES := $(if $(strip $(RECIPES)),--recipes $(RECIPES),)
.DEFAULT_GOAL := help
.PHONY: help setup book site pdf lint test refresh runs runs-status publish bench clean

help: ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(STAMP) ## make the virtual environment (PIP_FLAGS=... goes to pip)

$(STAMP): requirements.txt pyproject.toml book/pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q $(PIP_FLAGS) -r requirements.txt
	touch $(STAMP)

book: $(STAMP) ## execute every chapter and render (PROFILE=smoke|lite|paper, CHAPTERS="B2_llfc ...")
	$(PY) book/_tools/execute.py $(CHAPTERS) --profile $(PROFILE)
	$(PY) book/_tools/site.py --profile $(PROFILE)

site: $(STAMP) ## render the tracked chapters without executing them
	$(PY) book/_tools/site.py --tracked

pdf: $(STAMP) ## the tracked chapters as one PDF, _build/llfc-book.pdf (needs Chromium)
	$(PY) book/_tools/site.py --tracked --pdf

lint: $(STAMP) ## formatter, linter and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy llfc_lib

# chapters are executed beside the unit tests, of which the one with sabotaged copies waits at times
test: $(STAMP) ## everything: lint, a strict build, its pages, unit tests, nbval (an empty cache each time)
	@set -e; cache=$$(mktemp -d); export LLFC_CACHE="$$cache" OMP_NUM_THREADS=1; \
	trap 'kill $$lint $$chapters 2> /dev/null || true; rm -rf "$$cache"' EXIT; trap 'exit 130' INT TERM; \
	$(MAKE) --no-print-directory lint & lint=$$!; $(PY) book/_tools/site.py --tracked; wait $$lint; lint=; \
	PYTHONPATH=tests $(PY) -m pytest -p forked_kernels --nbval --nbval-current-env notebooks > "$$cache/chapters" 2>&1 & chapters=$$!; \
	failed=0; $(PY) -m pytest -n 2 --dist loadfile tests || failed=$$?; \
	wait $$chapters || failed=$$?; chapters=; cat "$$cache/chapters"; exit $$failed

refresh: $(STAMP) ## bring the tracked pairs notebooks/NAME.ipynb up to date (profile smoke)
	$(PY) book/_tools/execute.py $(CHAPTERS) --refresh

runs: $(STAMP) ## train and measure everything still missing, resumable (PROFILE=..., RECIPES="a b", DEVICE=cuda)
	nice -n 19 $(PY) -m llfc_book.study.queue run $(RUNS_PROFILE) $(RUNS_RECIPES) --device $(DEVICE)

runs-status: $(STAMP) ## what is done and what is missing (RECIPES="a b")
	@$(PY) -m llfc_book.study.queue status $(RUNS_PROFILE) $(RUNS_RECIPES)

publish: $(STAMP) ## take finished records and networks into book/
	$(PY) -m llfc_book.study.queue publish $(RUNS_PROFILE)

bench: $(STAMP) ## speed of training and weight matching, as ratios from one interleaved run
	$(PY) tests/bench.py

clean: ## remove what was built (not the cache)
	rm -rf _build
