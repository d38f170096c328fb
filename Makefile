# The environment is made on first use and again when pyproject.toml or constraints.txt change.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: env demo test check slow certify mutants chaos chaos-quick format clean

env: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/rung run pharmacy

test check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

slow: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow

# With a space for the `=`, pytest would take a page that exists for the tests to run.
certify: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --certify=docs/certificate.md

# A sample of N small wrong edits of all of rung, drawn by SEED, tried one by one: about an hour for 400.
SEED ?= 1
N ?= 400
mutants: $(INSTALLED)
	$(BIN)/python benchmarks/mutants.py --seed $(SEED) --number $(N)

# Kills, damaged files, disk errors, concurrent processes, drift and signals; both write docs/reliability.md.
# The first takes about an hour on two cores, the second four minutes.
chaos: $(INSTALLED)
	$(BIN)/python -m benchmarks.chaos --seed $(SEED)

chaos-quick: $(INSTALLED)
	$(BIN)/python -m benchmarks.chaos --quick --seed $(SEED)

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@
