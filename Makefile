.DEFAULT_GOAL := help
.PHONY: help setup run test lint lock docs train bench-start bench-patterns clean

help: ## List every target
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make .venv with everything that requirements.lock pins
	@scripts/setup

run: setup ## Run the whole platform on this machine, until Ctrl-C
	@.venv/bin/trivium up

test: setup ## Lint, types, import contracts and all tests
	@scripts/check

lint: setup ## Format the code and fix what can be fixed
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

lock: setup ## Pin every dependency but the trainer's, with hashes
	@.venv/bin/uv pip compile pyproject.toml --universal --generate-hashes --no-annotate --quiet \
		--extra gateway --extra batch-worker --extra edge-model --extra local --extra dev \
		--custom-compile-command "make lock" --output-file requirements.lock

docs: setup ## Write the generated parts of docs/ from the code
	@.venv/bin/python scripts/reference.py

DATA ?= train.csv
LABEL ?= label
VERSION ?= 2
CREDIT ?=
train: ## Fine-tune ticket-triage: make train DATA=file.csv LABEL=category VERSION=2
	@test -d .venv-train || python3 -m venv .venv-train
	@.venv-train/bin/python -m pip install --quiet uv 'torch==2.13.*'
	@.venv-train/bin/uv pip install --quiet --python .venv-train/bin/python --editable '.[train]'
	@.venv-train/bin/python -m edge_model.training $(DATA) --name ticket-triage --version $(VERSION) \
		--label-field $(LABEL) --credit "$(CREDIT)"

bench-start: ## Time the first and later starts, from a fresh clone with empty caches
	@scripts/bench-start

bench-patterns: setup ## Time the three patterns on the running platform
	@.venv/bin/python scripts/bench_patterns.py

clean: ## Remove the environments and caches; the state in .trivium stays
	@rm -rf .venv .venv-train .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
