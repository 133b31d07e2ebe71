# Two commands do everything on a fresh machine with Python 3.11, pip, make and git:
#   make main   the main job        make test   every check that CI runs
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
TANGENTS := $(VENV)/.neural-tangents
PEER := .venv-peer
# the quick tests do without most of the compiler's optimisations (tests/conftest.py)
OPTIMISED := --xla_backend_optimization_level=3 --xla_cpu_use_fusion_emitters=true
PEER_OUT ?= results/peer_mlgeometry.json

.PHONY: help main test test-heavy test-browser lint docs benchmark neural-tangents peers lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /: /'

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'metricflow needs Python 3.11 or newer')"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --require-hashes -r requirements.lock
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

$(TANGENTS): $(READY) requirements-neural-tangents.lock
	$(RUN) -m pip install --quiet --no-deps --require-hashes -r requirements-neural-tangents.lock
	touch $@

main: $(READY) ## fixed-kernel metric flows on the Fermat quintic: figures and numbers in results/
	$(RUN) -m experiments.quintic_kernel --name main --resume

lint: $(READY) ## style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

test: lint $(TANGENTS) ## style, types, tests, documentation
	$(RUN) -m pytest -n 2 --dist loadscope --no-loadscope-reorder
	$(MAKE) docs

test-heavy: $(READY) ## the tests that take minutes
	XLA_FLAGS="$(XLA_FLAGS) $(OPTIMISED)" $(RUN) -m pytest -m heavy

test-browser: $(READY) ## the interactive quintic in a headless Chromium, which has to be installed
	$(RUN) -m pytest -m browser tests/experiments/test_quintic_slice_browser.py

docs: $(READY) ## the documentation site, warnings are errors
	$(RUN) -m sphinx -W --keep-going -q -b html docs docs/_build/html

benchmark: $(TANGENTS) ## speed against bounds and peers
	$(RUN) -m benchmarks

neural-tangents: $(TANGENTS) ## the archived package neural-tangents, without the TensorFlow it asks for

peers: ## MLGeometry, in an environment of its own, on the Fermat quintic (PEER_FLAGS for more)
	@mkdir -p results
	@if { $(PYTHON) -m venv $(PEER) && \
		$(PEER)/bin/python -m pip install --quiet -r benchmarks/peer_requirements.txt; \
	} > results/peer_install.log 2>&1; \
	then $(PEER)/bin/python benchmarks/peer_mlgeometry.py --out $(PEER_OUT) $(PEER_FLAGS); \
	else $(PYTHON) benchmarks/peer_mlgeometry.py --out $(PEER_OUT) --not-run results/peer_install.log; fi

lock: $(READY) ## resolve the dependencies anew (needs uv)
	uv pip compile pyproject.toml --all-extras --generate-hashes --no-emit-index-url \
		--no-annotate --no-header --python-version 3.11 -o requirements.lock

clean: ## remove the environment and build products
	rm -rf $(VENV) $(PEER) build dist docs/_build .pytest_cache .mypy_cache .ruff_cache *.egg-info
