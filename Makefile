# make study   the main job on real CIFAR-10, from nothing to a report
# make test    everything that CI checks
# make docs    the site, in build/docs
# make test-long    the tests that draw examples, at random and ten times as many, and those that take long; then fuzzing
#                   and faults
# make release      what a release is made of, in dist/
# make test-ray     studies on a Ray cluster of three nodes here, of which some die
# All set up their own environment in .venv (PYTHON chooses the interpreter; 3.11 or newer).
# Tests run in JOBS processes, with one thread for each.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?=
JOBS ?= 2
FUZZ ?= 20
# Python compiles what it imports, so pip need not compile all: half of the time.
INSTALL = python -m pip install -q --no-compile

.PHONY: study test docs test-long test-ray test-lowest lint types figures release clean

study: $(VENV)/study
	$(BIN)/secateur study $(ARGS)

test: $(VENV)/dev $(VENV)/docs
	$(MAKE) --no-print-directory -j 3 lint types docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --durations=10

# What fails is drawn again by the line @reproduce_failure that is printed. Then every reader of foreign bytes is fuzzed
# for FUZZ seconds. Faults are done to a study; `benchmarks/faults.py` without --few does some 850 of them.
test-long: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --hypothesis-profile long -m "hypothesis or long"
	$(BIN)/$(INSTALL) -e '.[fuzz]' -c constraints.txt
	$(BIN)/python tests/fuzz.py --seconds $(FUZZ)
	$(BIN)/python tests/fuzz_networks.py --mutants 20000
	$(BIN)/python tests/fuzz_networks.py --mutants 60 --compile
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/faults.py --few

test-ray: $(VENV)/dev
	$(BIN)/$(INSTALL) -e '.[ray]' -c constraints.txt
	$(BIN)/python -m pytest -m cluster

# The same tests with the oldest versions that pyproject.toml allows, in an environment of its own.
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/$(INSTALL) -e '.[lightning,transformers,hub,cross,mlflow,tensorboard]' -c constraints-lowest.txt \
		onnxruntime selenium pytest hypothesis
	$(VENV)-lowest/bin/python -m pytest -o filterwarnings=default

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy

# A warning, such as a link that leads nowhere, ends it.
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

$(VENV)/docs: $(VENV)/base
	$(BIN)/$(INSTALL) -e '.[docs]' -c constraints.txt
	touch $@

# The figures in README and docs other than the study's and benchmarks/accuracy.py's.
# PRETRAINED=resnet20-cifar10.safetensors adds that network's accuracy. A missed goal is printed.
figures: $(VENV)/dev
	-$(BIN)/python benchmarks/training.py
	-$(BIN)/python benchmarks/gates.py
	-$(BIN)/python benchmarks/selection.py
	-$(BIN)/python benchmarks/reconstruct.py
	-$(BIN)/python benchmarks/large_model.py
	-$(BIN)/python benchmarks/coverage.py
	-$(BIN)/python benchmarks/channels.py
	-$(BIN)/python benchmarks/adam_gates.py
	-$(BIN)/python benchmarks/blocks.py
	-$(BIN)/python benchmarks/semi_structured.py
	$(if $(PRETRAINED),$(BIN)/python benchmarks/pretrained.py --weights $(PRETRAINED))

# The wheel, the sdist, and a CycloneDX list of all that the wheel brings with it. Fails where one of those has a known
# weakness, or cannot be looked up, which takes access to PyPI's own service.
release:
	rm -rf dist $(VENV)-tools $(VENV)-release
	$(PYTHON) -m venv $(VENV)-tools
	$(VENV)-tools/bin/$(INSTALL) build cyclonedx-bom pip-audit
	$(VENV)-tools/bin/python -m build --outdir dist .
	$(PYTHON) -m venv --without-pip $(VENV)-release
	$(VENV)-tools/bin/pip --python $(VENV)-release/bin/python install -q dist/*.whl -c constraints.txt
	$(VENV)-tools/bin/cyclonedx-py environment $(VENV)-release/bin/python --pyproject pyproject.toml \
		--output-reproducible -o dist/secateur.cdx.json
	$(VENV)-tools/bin/pip --python $(VENV)-release/bin/python freeze --exclude secateur | sed 's/+.*//' \
		> $(VENV)-release/audited.txt
	$(VENV)-tools/bin/pip-audit --strict --no-deps --disable-pip -r $(VENV)-release/audited.txt

$(VENV)/base: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "secateur needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(INSTALL) -e . -c constraints.txt
	touch $@

# The engines that a study's networks are measured beside; without them it says what is missing.
$(VENV)/study: $(VENV)/base
	-$(BIN)/$(INSTALL) -e '.[peers]' -c constraints.txt
	touch $@

$(VENV)/dev: $(VENV)/base
	$(BIN)/$(INSTALL) -e '.[dev]' -c constraints.txt
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-tools $(VENV)-release dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
