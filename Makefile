# make demo: from a fresh machine to lip-synced videos and a report. make test: from a fresh machine to a tested one.
# Both need Python 3.11 and a package registry, nothing else. `make` alone lists what there is.
.PHONY: help setup setup-codeformer setup-parity demo test parity bench-curation bench-generate bench-graph bench-models bench-gpu bench-growth bench-kills fmt lint lock clean
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

setup: $(BIN)/.ready ## the virtual environment with the locked packages
$(BIN)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check uv
	$(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	touch $@

setup-codeformer: setup ## CodeFormer, too; code and weights are for non-commercial use only
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --require-hashes -r requirements-codeformer.lock

setup-parity: setup .venv-parity/.ready ## an environment of its own with the gfpgan package, for make parity
.venv-parity/.ready: requirements-parity.lock
	$(PYTHON) -m venv --clear .venv-parity
	$(BIN)/uv pip install -q --python .venv-parity/bin/python --no-deps --require-hashes -r requirements-parity.lock
	touch $@

demo: setup ## the whole graph on synthetic talkers, then Snakemake's own report
	snakemake --cores all
	snakemake --report results/demo/report/snakemake.zip
	@echo "Done. Open results/demo/report/index.html"

test: setup ## formatting, lint, spelling, types, and every test that needs no GPU
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	codespell latentsync tests docs config workflow README.md CONTRIBUTING.md CHANGELOG.md
	basedpyright
	OPENBLAS_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= pytest -n 2 --dist loadscope --no-loadscope-reorder

parity: setup-parity ## the gfpgan package and this project give the same pictures from one weights file
	REQUIRE_PARITY=1 pytest -q -s tests/parity

bench-curation: setup ## what curation costs by step, as one line of JSON; CLIPS=<folder> for videos of your own
	@python benchmarks/curation.py --workers $(if $(CLIPS),--clips "$(CLIPS)")

bench-generate: setup ## what generation costs without its networks, as one line of JSON
	@python benchmarks/generate.py $(if $(JSON),--json $(JSON))

bench-graph: setup ## what planning 100,000 sources in 500 shards costs; JSON=<file> keeps the figures
	python benchmarks/graph.py $(if $(JSON),--json $(JSON))

bench-models: setup ## time, memory and FLOPs of the U-Net and StableSyncNet; JSON=<file> keeps the figures
	python benchmarks/models.py $(if $(JSON),--json $(JSON))

bench-gpu: setup ## on a machine with a GPU: its tests, none skipped, then generation at full size; SMALL=1: anywhere
	$(if $(SMALL),,FAIL_WITHOUT_CUDA=1 pytest -m needs_cuda)
	python benchmarks/generate_gpu.py $(if $(SMALL),--small) $(if $(JSON),--json $(JSON))

bench-growth: setup ## a hundred sources added to a hundred: what is worked on, and how long it takes
	BEFORE=100 ADDED=100 pytest -q -s tests/workflow/test_growth.py

bench-kills: setup ## twenty kills at random moments of a curation, and what is left of it; SEED=<n> for other moments
	KILLS=20 pytest -q -s tests/workflow/test_kills.py tests/generation/test_stopped_jobs.py

fmt: setup ## format everything
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

lock: setup ## resolve the lock files again, then the conda environments
	uv pip compile pyproject.toml --extra workflow --extra app --extra restorers --extra dev --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header -q -o requirements.lock
	echo 'spandrel-extra-arches>=0.2,<0.3' | uv pip compile - --no-deps --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate -q -o requirements-codeformer.lock
	printf '%s\n' gfpgan==1.3.8 basicsr==1.4.2 facexlib==0.3.0 opencv-python-headless | uv pip compile - \
	  --constraint requirements.lock --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --no-annotate -q -o requirements-parity.lock
	$(BIN)/python envs/generate.py

clean: ## remove the virtual environments; results and your videos stay
	rm -rf .venv .venv-parity
