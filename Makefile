# Requires git, make and Python >= 3.12 (or uv). `make help` lists the targets.
# Every target first runs scripts/venv.sh, which updates .venv; this takes no time if nothing changed.

PYTHON ?=
ARGS ?=
BIN := .venv/bin
# settings of other Python environments must not affect .venv
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE
export PIP_USER := 0
VENV := PYTHON='$(PYTHON)' sh scripts/venv.sh

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-slow lint coverage docs docs-check tutorials bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo "  PYTHON=/path/to/python chooses the Python, ARGS='...' is passed to the command of the target"

demo: ## install, then train on three sections and predict a fourth (ARGS="--help" lists options)
	@$(VENV) demo
	$(BIN)/python -m stpredict demo $(ARGS)

test: lint ## install the test tools, then run lint and all tests, in two processes
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-slow: ## run the tests that make test leaves out: more kills, damaged folders and clusters, the trial of the GPU script
	@$(VENV) test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "slow and not network and not gpu" $(ARGS)

lint: ## check style, format, types and import contracts
	@$(VENV) test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-cache

coverage: ## run the tests and list the lines that no test executes
	@$(VENV) test
	$(BIN)/python -m pytest --cov $(ARGS)

docs: ## build the documentation into docs/_build/html
	@$(VENV) doc
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

docs-check: docs ## check every built page in headless Chromium: links, images, width on a phone, search
	@$(VENV) test
	$(BIN)/python docs/check.py

tutorials: ## run all notebooks with small settings, to test every cell (ten minutes on two cores)
	@$(VENV) test
	@$(VENV) doc
	$(BIN)/python tutorials/run.py --fast $(ARGS)

bench: ## measure patches, networks and whole runs, and write the tables (ten minutes on two cores)
	@$(VENV) test
	$(BIN)/python benchmarks/patches.py $(ARGS)
	$(BIN)/python benchmarks/network.py $(ARGS)
	$(BIN)/python benchmarks/end_to_end.py $(ARGS)

clean: ## remove caches and built files (but not the environment: rm -rf .venv removes it)
	rm -rf build dist docs/_build docs/generated docs/tutorials .coverage htmlcov .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
