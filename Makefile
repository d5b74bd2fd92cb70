# One definition of every check: people, pre-commit and CI call the same targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup lock quickstart test check audit format layers faults faults-mutants service-test bench-orchestrator bench-trainer bench-analysis bench-coverage validation docs walk clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(VENV)/.installed  ## make .venv with `sweep` in it (locked versions)

# Every file that is fetched must have a hash of the lock; torch's CPU build alone has only its version.
LOCKED := install -q --disable-pip-version-check --no-deps --require-hashes

$(VENV)/.installed: pyproject.toml constraints.txt docker/installers.txt docker/torch-constraints.txt docker/install-torch.sh
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.x")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked dependencies into $(VENV) (once; a few minutes) ..."
	@$(BIN)/python -m pip $(LOCKED) -r docker/installers.txt
	@docker/install-torch.sh $(BIN)/python
	@$(BIN)/python -m pip $(LOCKED) -r constraints.txt
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@$(BIN)/python -m pip check
	@touch $@

quickstart: setup  ## train about 15 small models and print the answer (6 minutes on 2 cores)
	@$(BIN)/sweep run sweeps/quickstart.yaml -y

lock: setup  ## pin anew, with the hashes of all files; UPGRADE=1 takes newer releases, none younger than a week
	@docker/lock.sh $(BIN)/python

# Files run side by side, each on one thread; within a file the order is kept.
JOBS ?= 2
test: setup  ## run the whole test suite (JOBS=4 for more files at a time)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

faults: setup  ## the fault matrix whole: kills, signals, full disks, dead trackers (40 minutes); writes docs/guarantees.md
	@mkdir -p build && rm -f build/faults-*.json
	@export OMP_NUM_THREADS=1; failed=0; \
	  lane() { $(BIN)/python -m pytest -q tests/faults --full-matrix --lane $$1 --account build/faults-$$1.json; }; \
	  lane ray >build/faults-ray.log 2>&1 & ray=$$!; \
	  lane light || failed=1; \
	  wait $$ray || failed=1; cat build/faults-ray.log; \
	  PYTHONPATH=tests $(BIN)/python -m faults.guarantees build/faults-ray.json build/faults-light.json \
	    --kept tests/faults/account.json --write docs/guarantees.md || failed=1; \
	  exit $$failed

service-test: setup  ## the service in earnest: submit, kill it, start it again, follow to the end (3 minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/service --whole-service

faults-mutants: setup  ## take away what guards the promises, one at a time: a row must fail (2 minutes)
	@OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m faults.mutants

check: setup format-check layers audit  ## format, lint, types, layer contracts, known holes
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format-check:
	@$(BIN)/ruff format --check .

layers: setup  ## the walls between the rooms
	@$(BIN)/lint-imports --no-cache

format: setup  ## put the code into the common format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench-trainer: setup  ## speed and memory of a training step against transformers' GPT-2 (10 minutes)
	@PYTHONPATH=. $(BIN)/python tests/bench/bench_trainer.py $(BENCH)

# Where the published tables lie; without them the bench makes a table of its own.
TABLES ?= ../shared/data/laws

# BENCH=--full runs peer and baseline whole (7 minutes).
bench-analysis: setup build/peers/.installed  ## CPU time of the fits beside peers and the published procedure, on one core (1 minute)
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python \
	  tests/bench/bench_analysis.py --table $(TABLES)/epoch_chinchilla.csv \
	  --peer build/peers $(BENCH)

bench-coverage: setup  ## whether intervals hold the truth and wrong designs are refused: 200 random laws each (4 minutes)
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python \
	  tests/bench/bench_coverage.py $(BENCH)

validation: setup  ## write docs/validation.md: the fit of every published table
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python \
	  tests/bench/validate_tables.py $(TABLES)

# Its own environment: whoever trains models needs no site generator.
docs: setup build/docs/.installed  ## build the documentation into build/site, warnings are errors
	@$(BIN)/python docs/generate.py
	@NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build --strict --quiet
	@echo "build/site/index.html"

build/docs/.installed: docs/constraints.txt
	@test -x build/docs/bin/python || $(PYTHON) -m venv build/docs
	@build/docs/bin/python -m pip $(LOCKED) -r docs/constraints.txt
	@touch $@

# Its own environment: a browser driver is nothing that a sweep needs. Chromium and tmux are the
# system's. What the walk saw lies in build/walk/shots.
walk: setup build/walk/.installed  ## a stranger's walk through a real terminal and a real browser (10 minutes)
	@build/walk/bin/python -m pytest -q tests/walk

build/walk/.installed: tests/walk/constraints.txt
	@test -x build/walk/bin/python || $(PYTHON) -m venv build/walk
	@build/walk/bin/python -m pip $(LOCKED) -r tests/walk/constraints.txt
	@touch $@

# Asks PyPI's advisories once a day; without an answer it says so and goes on.
audit: setup build/audit/.installed  ## the pinned packages against known holes (pip-audit)
	@PIPAPI_PYTHON_LOCATION=$(BIN)/python AUDIT_ANSWER=build/audit/answer.txt \
	  $(BIN)/python tests/audit/audit.py build/audit/bin/pip-audit constraints.txt \
	  docker/torch-constraints.txt

build/audit/.installed: tests/audit/constraints.txt
	@test -x build/audit/bin/python || $(BIN)/python -m venv --without-pip build/audit
	@$(BIN)/python -m pip --python build/audit/bin/python $(LOCKED) \
	  -r tests/audit/constraints.txt 2>/dev/null \
	  || echo "audit: pip-audit could not be installed"
	@touch $@

# Its own environment; where it cannot be installed the bench says so and goes on.
build/peers/.installed: tests/bench/peers.txt
	@test -x build/peers/bin/python || $(PYTHON) -m venv build/peers
	@build/peers/bin/python -m pip $(LOCKED) -r tests/bench/peers.txt && touch $@ || true

clean:  ## remove what `setup` and the checks made (never your outputs/)
	@rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

bench-orchestrator: setup  ## planning, what designs know at equal compute, the driver's cost, met or not (10 minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python tests/bench/bench_orchestrator.py
	@OMP_NUM_THREADS=1 $(BIN)/python tests/bench/bench_driver.py
