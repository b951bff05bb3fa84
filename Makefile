# Everything runs from here; .ci/run calls the same targets.
#   make quickstart   install, plan a real model for a mixed cluster, train a small one for real, write a report
#   make native       compile src/native again where it changed (`make test` and the others do so by themselves)
#   make test         install, run the whole suite
#   make test-fast    the suite without its slow tests (under two minutes)
#   make test-engines installs Megatron-LM, DeepSpeed, torchtitan and vLLM beside, and reads our exports with their code
#   make test-versions   environments with the oldest and newest torch, a part of the suite in each; docs/install.md
#   make check        formatter, linter, type checker
#   make benchmarks   measure everything again (hours), and write docs/benchmarks.md; ONLY=NAME,... for some
#   make docs         the documentation site, in out/site
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= out
export OMP_NUM_THREADS ?= 1

# the compiled part of drlpp, and when it was last built
BUILT  := build/native.stamp
NATIVE := setup.py $(shell find src/native -name '*.cpp' -o -name '*.h')

.PHONY: install native quickstart test test-fast test-engines test-versions check benchmarks docs format clean

install: $(VENV)/.installed $(BUILT)

native: $(BUILT)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) (torch is large: one to three minutes)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@mkdir -p build && touch $@ $(BUILT) $(VENV)/.quickstart

# what quickstart needs, without the tools of developers
$(VENV)/.quickstart: pyproject.toml constraints.txt $(NATIVE) | $(VENV)/bin/python
	@echo "installing into $(VENV) (torch is large: one to three minutes)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[timm]"
	@touch $@

$(BUILT): $(VENV)/.installed $(NATIVE)
	@echo "compiling src/native"
	$(BIN)/python setup.py --quiet build_ext --inplace
	@mkdir -p build && touch $@ $(VENV)/.quickstart

quickstart: $(VENV)/.quickstart
	@BIN=$(BIN) OUT=$(OUT) sh examples/quickstart.sh

test: install
	$(BIN)/python -m pytest -n 2

test-fast: install
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-engines: install
	sh tests/export/install_engines.sh $(BIN)/python $(VENV)-engines
	$(VENV)-engines/bin/python -m pytest -m engines

test-versions:
	$(PYTHON) tests/versions.py $(if $(ONLY),--only $(ONLY))

check: install
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/mypy

benchmarks: install
	$(BIN)/python benchmarks/all.py --only="$(ONLY)"

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir $(OUT)/site
	@echo "open $(OUT)/site/index.html"

format: install
	$(BIN)/ruff format src tests benchmarks examples
	$(BIN)/ruff check --fix src tests benchmarks examples

clean:
	rm -rf $(OUT) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
