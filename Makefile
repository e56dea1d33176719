# Everything here runs in its own .venv, made with uv; the system's Python is only asked for uv where there is none.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/sh
# Bytecode, caches and colors of whoever calls make are no business of ours; a shared PYTHONPATH would shadow the checkout.
unexport PYTHONPATH

VENV ?= .venv
BIN := $(VENV)/bin
RUN := runs/digits
MINUTES ?= 5
# The site has one folder for each minor version.
DOCS_VERSION = $(shell sed -nE 's/^__version__ = "([0-9]+\.[0-9]+).*"/\1/p' src/edgekit/__init__.py)

PRIVATE_UV := build/uv/bin/uv
UV := $(shell if uv --version >/dev/null 2>&1; then command -v uv; else echo $(PRIVATE_UV); fi)

# What a set-up installs: the job on two cores, or the job and everything that checks it.
EXTRAS_demo := train,export,ort,openvino,report
EXTRAS_dev := dev
EXTRAS_docs := docs

.PHONY: help setup demo test test-all test-lowest fuzz kill lint docs docs-update docs-release wheel clean

help: ## list what make can do
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|' 2>/dev/null \
	  || grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST)

setup: $(VENV)/.installed-dev ## make .venv with everything for working on edgekit

demo: $(VENV)/.installed-demo ## the whole job on the embedded digits: train, evaluate, export, bench, report
	$(BIN)/edgekit train examples/digits.yaml
	$(BIN)/edgekit evaluate $(RUN)
	$(BIN)/edgekit export $(RUN)
	$(BIN)/edgekit bench $(RUN)/export --quick
	$(BIN)/edgekit report $(RUN)
	@echo
	@echo "The report is one file; open it in a browser: $(CURDIR)/$(RUN)/report.html"

lint: $(VENV)/.installed-dev ## the house's arrows, spelling, style and types
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint ## lint, then the tests, of slow ones a few of each kind (PYTEST_ARGS='-m "not slow"' for the quick ones)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 25 -m "not extra" $(PYTEST_ARGS)

test-all: lint ## lint, then every test there is
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 25 $(PYTEST_ARGS)

test-lowest: | $(filter $(PRIVATE_UV),$(UV)) ## the quick tests with the lowest versions that pyproject.toml allows, in .venv-lowest
	$(UV) venv --quiet --allow-existing --python '>=3.10' .venv-lowest
	$(UV) pip install --python .venv-lowest/bin/python --resolution lowest-direct --editable '.[dev]'
	.venv-lowest/bin/python -m pytest --numprocesses 2 --dist loadfile -m "not slow" $(PYTEST_ARGS)

fuzz: $(VENV)/.installed-dev ## throw damaged files and hostile devices at the commands, for MINUTES=5
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES)

kill: $(VENV)/.installed-dev ## kill every command at every change to the file system, and fill or break the disk there (over an hour; KILL_ARGS='--command train')
	$(BIN)/python -m tests.kill --all $(KILL_ARGS)

docs: $(VENV)/.installed-docs ## build the documentation site into build/site, and check its links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	$(BIN)/python -m tools.site.check build/site
	@echo "Open it in a browser: $(CURDIR)/build/site/index.html"

docs-update: $(VENV)/.installed-docs ## write the measured tables and charts into docs/, after benchmarks/results/ has changed
	$(BIN)/python -m tools.site

docs-release: $(VENV)/.installed-docs ## commit this version's site to the branch gh-pages, beside those of other versions (DOCS_ARGS=--push publishes it)
	PATH="$(abspath $(BIN)):$$PATH" NO_MKDOCS_2_WARNING=1 EDGEKIT_DOCS_VERSIONED=1 $(BIN)/mike deploy --update-aliases --alias-type copy $(DOCS_ARGS) $(DOCS_VERSION) latest
	$(BIN)/mike set-default $(DOCS_ARGS) latest

wheel: | $(filter $(PRIVATE_UV),$(UV)) ## build the wheel into dist/
	$(UV) build --quiet --wheel --out-dir dist
	@ls -1 dist/*.whl

clean: ## delete caches and built files; .venv/ and runs/ stay
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is younger than pyproject.toml as long as nothing that it asks for has changed.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	@echo "installing edgekit[$(EXTRAS_$*)] into $(VENV) (PyTorch is the large part; once, and again when pyproject.toml changes)"
	$(UV) pip install --python $(BIN)/python --editable '.[$(EXTRAS_$*)]'
	@touch $@

$(BIN)/python: | $(filter $(PRIVATE_UV),$(UV))
	$(UV) venv --quiet --allow-existing --python '>=3.10' $(VENV)

$(PRIVATE_UV):
	@echo "no uv here: installing it into build/uv"
	@python3 -m venv build/uv && build/uv/bin/python -m pip install --quiet uv \
	  || { rm -rf build/uv; python3 -m pip install --quiet --user uv && mkdir -p build/uv/bin \
	       && ln -sf "$$(python3 -m site --user-base)/bin/uv" $(PRIVATE_UV); } \
	  || { echo "error: uv could not be installed; get it from https://docs.astral.sh/uv and run make again" >&2; exit 1; }
