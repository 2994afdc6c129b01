.DEFAULT_GOAL := help
.PHONY: help setup run test lint lock images images-check lock-images docs proto train load-test soak soak-gateway bench-start bench-patterns bench-edge bench-batching bench-precompute bench-gateway bench-peers drill dashboards fuzz clean

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
		--extra gateway --extra batch-worker --extra edge-model --extra evals --extra local --extra load --extra otel --extra dev \
		--custom-compile-command "make lock" --output-file requirements.lock

IMAGES ?= gateway batch-worker edge-model cli local-llm
TAG ?= 0.1.0
BASE_IMAGE ?= python:3.13-slim
images: ## Build the container images, which needs Docker
	@for name in $(IMAGES); do docker build --build-arg BASE_IMAGE=$(BASE_IMAGE) \
		--file deploy/docker/$$name.Dockerfile --tag trivium/$$name:$(TAG) . || exit 1; done

images-check: setup ## Build what the images hold without Docker, and measure it
	@.venv/bin/python scripts/measure-images $(IMAGES)

lock-images: setup ## Pin what each image installs, with hashes, out of requirements.lock
	@scripts/lock-images

docs: setup ## Write the generated parts of docs/ from the code
	@.venv/bin/python scripts/reference.py

proto: setup ## Write the gRPC messages from the protocol's definition
	@.venv/bin/python -m grpc_tools.protoc -Iservices/edge-model/edge_model/doors \
		--python_out=services/edge-model/edge_model/doors --pyi_out=services/edge-model/edge_model/doors \
		open_inference.proto

DATA ?= train.csv
LABEL ?= label
VERSION ?=
CREDIT ?=
train: setup ## Fine-tune ticket-triage: make train DATA=file.csv LABEL=category
	@scripts/setup-trainer .venv-train
	@.venv-train/bin/trivium train ticket-triage --data $(DATA) --label-field $(LABEL) \
		--credit "$(CREDIT)" $(if $(VERSION),--version $(VERSION))

ARGS ?=
load-test: setup ## Find the edge model's knee: make load-test ARGS="--url … --model …", or one of its own
	@.venv/bin/python scripts/load_test.py $(ARGS)

soak: setup ## 200,000 requests of mixed lengths; memory must stay flat
	@.venv/bin/python scripts/soak.py $(ARGS)

soak-gateway: setup ## 500,000 chats through one gateway, with broken providers; nothing may grow
	@.venv/bin/python scripts/soak_gateway.py $(ARGS)

drill: setup ## Break each part in turn under load: what is answered, lost, and when it is over
	@.venv/bin/python scripts/drill.py $(ARGS)

dashboards: setup ## Write deploy/grafana/dashboards from scripts/boards
	@.venv/bin/python scripts/dashboards.py

fuzz: setup ## Ask every operation of every service far more than the tests do
	@FUZZ_EXAMPLES=1000 .venv/bin/pytest -q -s tests/security/test_generated_requests.py $(ARGS)

bench-start: ## Time the first and later starts, from a fresh clone with empty caches
	@scripts/bench-start

bench-patterns: setup ## Time the three patterns on the running platform
	@.venv/bin/python scripts/bench_patterns.py

bench-edge: setup ## The edge model beside its peers that are installed, and the bare loop
	@.venv/bin/python scripts/bench_edge.py $(ARGS)

bench-batching: setup ## What batching gains on this CPU, and what it does to the answers
	@.venv/bin/python scripts/bench_batching.py $(ARGS)

bench-precompute: setup ## Whole runs of pre-computation: make bench-precompute ARGS=ledger
	@.venv/bin/python scripts/bench_precompute.py $(ARGS)

bench-gateway: setup ## Our OpenAI-compatible endpoint beside a bare pass-through and other gateways
	@.venv/bin/python scripts/bench_gateway.py $(ARGS)

bench-peers: setup ## Install MLServer, a transformers service and infinity for bench-edge
	@scripts/setup-peers

clean: ## Remove the environments and caches; the state in .trivium stays
	@rm -rf .venv .venv-train .venv-peers .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
