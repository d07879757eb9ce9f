# Needs git, make and a Python >= 3.12 (or uv), nothing else. `make help` lists the targets.
# Every target first lets scripts/venv.sh bring .venv up to date; that takes no time when nothing changed.

PYTHON ?=
ARGS ?=
BIN := .venv/bin
# what belongs to other environments stays out of ours
unexport PYTHONPATH PYTHONHOME
export PIP_USER := 0
VENV := PYTHON='$(PYTHON)' sh scripts/venv.sh

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint coverage docs docs-check tutorials bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo "  PYTHON=/path/to/python chooses the Python, ARGS='...' is passed on to demo and test"

demo: ## install, then train on three sections and predict a fourth (ARGS="--help" lists options)
	@$(VENV) demo
	$(BIN)/python -m stpredict demo $(ARGS)

test: lint ## install with the test tools, then lint, types, import contracts and all tests, in two processes
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: ## style, format, types and import contracts only
	@$(VENV) test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-cache

coverage: ## the tests, with a table of lines that none of them reaches
	@$(VENV) test
	$(BIN)/python -m pytest --cov $(ARGS)

docs: ## build the documentation into docs/_build/html
	@$(VENV) doc
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

docs-check: docs ## open every built page in headless Chromium: links, images, width on a phone, search
	@$(VENV) test
	$(BIN)/python docs/check.py

tutorials: ## run all notebooks with small settings, to see that every cell works (ten minutes on two cores)
	@$(VENV) test
	@$(VENV) doc
	$(BIN)/python tutorials/run.py --fast $(ARGS)

bench: ## measure patches, networks and whole runs, and write the tables (ten minutes on two cores)
	@$(VENV) test
	$(BIN)/python benchmarks/patches.py $(ARGS)
	$(BIN)/python benchmarks/network.py $(ARGS)
	$(BIN)/python benchmarks/end_to_end.py $(ARGS)

clean: ## remove caches and built files (the environment stays: rm -rf .venv removes it)
	rm -rf build dist docs/_build docs/generated docs/tutorials .coverage htmlcov .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
