# All targets work from a bare clone with Python, pip and make, and again when repeated. On Windows they need
# the shell of Git, and PYTHON=python.
PYTHON ?= python3
SCRIPTS := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN := .venv/$(SCRIPTS)

.PHONY: demo docs test test-minimal fuzz package clean

# Installed again only when the declared dependencies change.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: .venv/installed
	@rm -rf runs/demo
	$(BIN)/sogclr pretrain digits --out runs/demo --epochs 30
	$(BIN)/sogclr evaluate runs/demo digits

docs: .venv/installed
	$(BIN)/zensical build --strict --clean
	@echo 'open build/site/index.html'

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPY_NUM_WORKERS=2 $(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -q --numprocesses logical --maxprocesses 8 --dist worksteal
	$(MAKE) package

# The source distribution and, from it, the wheel.
package: .venv/installed
	@rm -rf dist
	$(BIN)/python -m build --outdir dist . > /dev/null
	$(BIN)/twine check --strict dist/*

# The losses with the lowest torch that they run with, and nothing else but the tests' own needs.
.venv-losses/installed: pyproject.toml
	$(PYTHON) -m venv .venv-losses
	.venv-losses/$(SCRIPTS)/python -m pip install --quiet --disable-pip-version-check uv
	.venv-losses/$(SCRIPTS)/uv pip install --quiet --python .venv-losses --resolution lowest-direct --group losses
	.venv-losses/$(SCRIPTS)/uv pip install --quiet --python .venv-losses --no-deps --editable .
	@touch $@

# The lowest versions of all that pyproject.toml names.
.venv-lowest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/$(SCRIPTS)/python -m pip install --quiet --disable-pip-version-check uv
	.venv-lowest/$(SCRIPTS)/uv pip install --quiet --python .venv-lowest --resolution lowest-direct --editable '.[dev]'
	@touch $@

# Some gigabytes and a quarter of an hour. Old releases warn of what is newer than they are.
test-minimal: .venv-losses/installed .venv-lowest/installed
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 .venv-losses/$(SCRIPTS)/pytest -q -W default --confcutdir=tests/losses tests/losses
	OMP_NUM_THREADS=1 .venv-lowest/$(SCRIPTS)/pytest -q -W default --numprocesses logical --maxprocesses 8 --dist worksteal

# Some minutes, on one core. It writes its counts into the page.
fuzz: .venv/installed
	OMP_NUM_THREADS=1 FUZZ_COUNTS=docs/reliability.md $(BIN)/pytest -q -m fuzz --capture=sys tests/fuzz

clean:
	rm -rf .venv .venv-losses .venv-lowest .cache dist build runs
