# Needs python3 (3.11 or newer) and make; everything else is put into .venv.
PYTHON ?= python3
BIN := .venv/bin
comma := ,
# What `make test-torch` puts into its own environment, .venv-torch.
TORCH ?= torch==2.13.0
# What `make test-browser` puts into its own environment, .venv-browser, beside
# what the explorer needs.
PLAYWRIGHT ?= playwright>=1.50
# What `make formats` puts into its own environment, .venv-formats: runtimes, a
# server, and the converter of TensorFlow.js, which needs an older TensorFlow.
# ydf 0.13 and later do not go with the protobuf of that TensorFlow.
RUNTIMES ?= ai-edge-litert onnxruntime openvino starlette uvicorn \
    tensorflowjs "ydf<0.13"
TFJS ?= @tensorflow/tfjs@4.22.0
# What `make test-slow` runs on.
BACKEND ?= tensorflow
# Hides the messages that TensorFlow prints when it is imported.
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help demo test test-tensorflow test-jax \
    test-torch test-lowest test-lowest-tensorflow test-lowest-jax \
    test-lowest-torch test-slow test-browser test-formats fuzz lint format \
    benchmark networks evidence results formats stroke docs notebooks fixtures \
    release clean

help:
	@echo "make demo       train on real digits, look inside, export, reload"
	@echo "make test       the tests, on TensorFlow and on JAX"
	@echo "make test-torch the tests on PyTorch, in an environment of their own"
	@echo "make test-lowest the tests, with the lowest supported versions"
	@echo "make test-slow  the tests that take longest; BACKEND=jax or torch"
	@echo "make test-browser the page of the explorer, in Chromium"
	@echo "make test-formats exported files in their own runtimes"
	@echo "make fuzz       10,000 random cases, on TensorFlow"
	@echo "make lint       check the style and the types of the code"
	@echo "make format     bring the code into that style"
	@echo "make benchmark  measure speed and memory, into benchmarks/results"
	@echo "make networks   train all networks, into benchmarks/results"
	@echo "make evidence   train the networks of docs/evidence.md: many hours"
	@echo "make results    tables of measurements, into docs and README"
	@echo "make formats    run exported networks in their runtimes, into docs"
	@echo "make stroke     how long the explorer takes to answer, in Chromium"
	@echo "make docs       the site of the documentation, into site/"
	@echo "make notebooks  write examples/notebooks again, from the guides"
	@echo "make fixtures   files of this version that later ones have to load"
	@echo "make release    wheel and sdist, checked; nothing is uploaded"
	@echo "make clean      remove environments and what the examples wrote"

demo: .venv/ready
	$(BIN)/python examples/quickstart.py

test: test-tensorflow test-jax

test-tensorflow test-jax: test-%: .venv/ready
	KERAS_BACKEND=$* $(BIN)/python -m pytest -n 2 --dist worksteal

# Prints the names of skipped tests with their reasons.
test-torch: .venv-torch/ready
	KERAS_BACKEND=torch .venv-torch/bin/python -m pytest -n 2 \
	    --dist worksteal -ra

test-lowest: test-lowest-tensorflow test-lowest-jax test-lowest-torch

# Old versions of packages call what newer ones of others deprecate.
LOWEST_TESTS := -m pytest -n 2 --dist worksteal \
    -W ignore::DeprecationWarning -W ignore::FutureWarning
test-lowest-tensorflow test-lowest-jax: test-lowest-%: .venv-lowest/ready
	KERAS_BACKEND=$* .venv-lowest/bin/python $(LOWEST_TESTS)

test-lowest-torch: .venv-lowest-torch/ready
	KERAS_BACKEND=torch .venv-lowest-torch/bin/python $(LOWEST_TESTS)

# PyTorch has an environment of its own.
test-slow: $(if $(findstring torch,$(BACKEND)),.venv-torch,.venv)/ready
	KERAS_BACKEND=$(BACKEND) $(<D)/bin/python -m pytest -n 2 \
	    --dist worksteal -m slow

stroke: .venv-browser/ready
	.venv-browser/bin/python benchmarks/stroke.py

test-formats: .venv/ready .venv-formats/ready
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest \
	    tests/test_formats_benchmark.py

# Where Chromium is neither found nor installed, the reason is printed.
test-browser: .venv-browser/ready
	command -v chromium > /dev/null || [ "$$(id -u)" != 0 ] || { \
	    timeout 120 apt-get -qq update && timeout 300 apt-get -qq install --yes \
	    --no-install-recommends chromium; } > /dev/null 2>&1 || true
	.venv-browser/bin/python -m pytest -m browser tests/browser

# 10,000 random cases; `make test` has a few of them. It takes about an hour.
fuzz: .venv/ready
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -n 2 \
	    --hypothesis-profile=fuzz tests/test_fuzz.py

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# make benchmark BASELINE=PATH measures the package at PATH as well, and with
# BIN=.venv-torch/bin, after make test-torch, also PyTorch.
benchmark: .venv/ready
	$(BIN)/python benchmarks/speed.py $(addprefix --baseline=,$(BASELINE))
	$(BIN)/python benchmarks/memory.py $(addprefix --baseline=,$(BASELINE))
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/devices.py
	KERAS_BACKEND=tensorflow $(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/network.py $(addprefix --baseline=,$(BASELINE))

# make evidence COIL20=FILE, because the file of COIL-20 is not downloaded.
evidence: .venv/ready
	KERAS_BACKEND=tensorflow $(BIN)/python benchmarks/trainings.py \
	    $(addprefix --coil20=,$(COIL20))
	KERAS_BACKEND=tensorflow $(BIN)/python benchmarks/claims.py
	KERAS_BACKEND=tensorflow $(BIN)/python benchmarks/equivariance.py
	KERAS_BACKEND=tensorflow $(BIN)/python benchmarks/cost.py

results: .venv/ready
	$(BIN)/python benchmarks/evidence.py
	$(BIN)/python benchmarks/weights.py
	$(BIN)/python benchmarks/readme.py

networks: .venv/ready
	KERAS_BACKEND=tensorflow $(BIN)/python benchmarks/networks.py

formats: .venv/ready .venv-formats/ready
	KERAS_BACKEND=tensorflow $(BIN)/python benchmarks/formats.py
	KERAS_BACKEND=tensorflow $(BIN)/python benchmarks/pruning.py \
	    --networks EfficientCapsNet
	KERAS_BACKEND=tensorflow $(BIN)/python benchmarks/serving.py

docs: .venv-docs/ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

notebooks: .venv/ready
	$(BIN)/python -c '$(EXTRA)' notebooks > .venv/notebooks.txt
	$(BIN)/python -m pip install --quiet -r .venv/notebooks.txt
	$(BIN)/python docs/make_notebooks.py

# Files of the lowest versions load in all later ones.
fixtures: .venv-lowest/ready
	KERAS_BACKEND=tensorflow .venv-lowest/bin/python -m tests.fixtures.make

# An older list of files would be part of the new one.
release: .venv/ready .venv-release/ready
	rm -rf build dist *.egg-info
	.venv-release/bin/python -m build --outdir dist . > /dev/null
	.venv-release/bin/python -m twine check --strict dist/*
	.venv-release/bin/python release/check.py $(BIN)/python

clean:
	rm -rf .venv .venv-* build dist outputs site

CHECK_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
    "keras_capsules needs Python 3.11 or newer: make PYTHON=python3.12")'

# The mark is set last, so that an installation that failed is begun again.
.venv/ready .venv-torch/ready: %/ready: pyproject.toml
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --quiet --editable ".[dev]" \
	    $(if $(findstring torch,$*),$(TORCH))
	touch $@

# Make it with PYTHON=python3.11, the lowest, if python3 is newer.
.venv-lowest/ready .venv-lowest-torch/ready: %/ready: pyproject.toml
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $*
	$(PYTHON) release/lowest.py > $*/constraints.txt
	$*/bin/python -m pip install --quiet --constraint $*/constraints.txt \
	    --editable ".[test$(if $(findstring torch,$*),$(comma)torch)]"
	touch $@

.venv-release/ready:
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install --quiet build twine
	touch $@

# Prints the packages of an extra, for environments without this package.
EXTRA = import sys, tomllib; \
    extras = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
    print(*extras["optional-dependencies"][sys.argv[1]], sep="\n")

# An environment that also has the packages of .venv, unless its own differ.
SITE := import sysconfig; \
    print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))
.venv-browser/ready: .venv/ready
	$(BIN)/python -m venv .venv-browser
	$(BIN)/python -c '$(SITE)' > "$$(echo \
	    .venv-browser/lib/python3*/site-packages)/venv.pth"
	$(BIN)/python -c '$(EXTRA)' explorer > .venv-browser/requirements.txt
	.venv-browser/bin/python -m pip install --quiet "$(PLAYWRIGHT)" \
	    -r .venv-browser/requirements.txt
	touch $@

# Neither this package nor the Keras of .venv is in it. Needs node and npm.
.venv-formats/ready: Makefile
	$(PYTHON) -m venv .venv-formats
	.venv-formats/bin/python -m pip install --quiet $(RUNTIMES)
	npm install --silent --no-audit --no-fund --prefix .venv-formats $(TFJS)
	touch $@

# The site is made of pages and docstrings: the package is not imported.
.venv-docs/ready: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	$(PYTHON) -c '$(EXTRA)' docs > .venv-docs/requirements.txt
	.venv-docs/bin/python -m pip install --quiet \
	    -r .venv-docs/requirements.txt
	touch $@
