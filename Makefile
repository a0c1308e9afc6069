# `make train` and `make test` are all that a fresh machine needs: each sets up .venv first where it is missing.
PYTHON ?= python3
ARGS ?=
REF ?= main
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup train test test-cluster check figures house results reproduce pareto same benchmark benchmark-sweeps torture clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
		uv venv --quiet --allow-existing --python $(PYTHON) .venv && \
		uv pip install --quiet --python $(BIN)/python -c constraints.txt -e ".[dev]"; \
	else \
		$(PYTHON) -m venv .venv && $(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"; \
	fi
	@touch $@

train: $(STAMP)  ## train the default network; ARGS="group=option key=value" changes it
	$(BIN)/python scripts/train.py $(ARGS)

test: $(STAMP)  ## run the tests; ARGS go to pytest
	$(BIN)/python -m pytest -n auto $(ARGS)

test-cluster: $(STAMP)  ## sweeps and jobs on a throw-away Slurm cluster; needs Debian's Slurm, and root or sudo
	$(BIN)/python -m pytest tests/cluster -rs --durations=0 $(ARGS)

check: $(STAMP)  ## everything that must hold before a change lands
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/tools/check_links.py
	$(BIN)/python -m pytest -q --doctest-modules ncsn_lightning
	$(MAKE) test ARGS="--cov --cov-report=term:skip-covered"
	$(BIN)/python scripts/tools/torture.py --trials 2
	$(BIN)/python scripts/tools/check_readme.py README.md docs/lightning.md docs/extending.md docs/your_points.md
	rm -rf outputs/check
	$(MAKE) train ARGS="trainer.max_steps=2000 callbacks.figures.num_samples=2000 hydra.run.dir=outputs/check"
	$(BIN)/python scripts/tools/check_run.py outputs/check

figures: $(STAMP)  ## draw the pictures that README and docs show
	$(BIN)/python scripts/studies/figures.py $(ARGS)

house: $(STAMP)  ## write the page of the package's rooms, files and public names, and its picture
	$(BIN)/python scripts/tools/house.py

pareto: $(STAMP)  ## draw what every sampler makes of its evaluations, on the truth and on networks
	$(BIN)/python scripts/studies/reproduce.py pareto $(ARGS)

same: $(STAMP)  ## prove a refactor: 200 steps here and at REF give the same weights, bit for bit
	$(BIN)/python scripts/tools/same.py $(REF)

results: $(STAMP)  ## run the sweeps of docs/results.md, or what is left of them, and write its tables and pictures
	$(BIN)/python scripts/studies/results.py $(ARGS)

reproduce: $(STAMP)  ## run published experiments anew, or what is left of them; ARGS="ncsn_toy" for one
	$(BIN)/python scripts/studies/reproduce.py $(ARGS)

benchmark: $(STAMP)  ## time training and sampling against the primer's loops
	$(BIN)/python scripts/tools/benchmark.py $(ARGS)

benchmark-sweeps: $(STAMP)  ## time resuming, a further job, and joblib against serial
	$(BIN)/python scripts/tools/benchmark_sweeps.py $(ARGS)

torture: $(STAMP)  ## kill a sweep at random moments and compare its end; ARGS="--trials 100"
	$(BIN)/python scripts/tools/torture.py $(ARGS)

clean:
	rm -rf .venv build dist
