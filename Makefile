# Both targets work from a bare clone with Python, pip and make, and again when repeated.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo docs test fuzz clean

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
	$(BIN)/python -m build --wheel --outdir dist . > /dev/null

# Some minutes, on one core. It writes its counts into the page.
fuzz: .venv/installed
	OMP_NUM_THREADS=1 FUZZ_COUNTS=docs/reliability.md $(BIN)/pytest -q -m fuzz --capture=sys tests/fuzz

clean:
	rm -rf .venv .cache dist build runs
