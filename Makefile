# Every target makes the environment it needs in .venv; `make` alone lists the targets.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

.PHONY: help venv check test torture libraries demo golden docs simulation gpu gpu-test gpu-profile gpu-accuracy gpu-runtime
.PHONY: bench clean pictures
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

venv: .venv/ready ## make the environment in .venv

# A torch that $(PYTHON) already imports is used as it is, numpy with it: boards such as NVIDIA's Jetson come with a
# torch of their own that no package index has.
.venv/ready: pyproject.toml constraints.txt
	@rm -f $@
	@if $(PYTHON) -c 'import sys, torch; sys.exit(sys.prefix != sys.base_prefix)' 2>/dev/null; then \
	  echo "making .venv around the installed torch"; \
	  $(PYTHON) -m venv --system-site-packages .venv && grep -vE '^(torch|numpy)==' constraints.txt >.venv/constraints.txt; \
	else \
	  echo "making .venv (downloads torch, about 1 GB in all)"; \
	  $(PYTHON) -m venv .venv && cp constraints.txt .venv/; \
	fi
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c .venv/constraints.txt -e '.[dev]'
	@touch $@

check: .venv/ready ## format, lint, types and contracts, in under a minute
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-logo

# Two lanes: tests that run beside each other, and then those marked `alone`, as they time this machine; only the files
# that have some are read. Bytecode is kept whatever the environment says: the tests start several hundred processes.
WORKERS ?= 2
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest
test: libraries ## all tests; ARGS='tests/test_layers.py -x' for some
ifeq ($(strip $(ARGS)),)
	@$(PYTEST) -m "not alone" -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=10; beside=$$?; \
	$(PYTEST) -m alone --durations=10 $$(grep -l pytest.mark.alone tests/*.py) && exit $$beside
else
	$(PYTEST) $(ARGS)
endif

# Each fault is told with what makes it again: the kind and number of its file, the seed. Each part runs alone too.
COUNT ?= 6000
SIGNALS ?= 40
KILLS ?= 5
DISKS ?= 60
CLOCKS ?= 100
torture: .venv/ready ## hostile files, devices, signals, disks, clocks; COUNT=20000 SIGNALS=200 KILLS=100 DISKS=500 for more
	$(BIN)/python tests/torture/files.py --count $(COUNT) $(ARGS)
	$(BIN)/python tests/torture/devices.py
	$(BIN)/python tests/torture/signals.py --count $(SIGNALS) --kills $(KILLS) $(ARGS)
	$(BIN)/python tests/torture/disks.py --count $(DISKS) $(ARGS)
	$(BIN)/python tests/torture/clocks.py --count $(CLOCKS) $(ARGS)

libraries: .venv/ready ## the real cuDNN 8 and 9, and oneDNN 2, that tests need, into your cache (1 GB, once)
	$(BIN)/python tests/cudnn_libraries.py
	-$(BIN)/python tests/onednn_libraries.py

# The three devices of docs/fleet.yaml, each with rows of its own: all threads, one thread, 16-bit in another layout.
# A profile whose budget runs out keeps what it measured, and ends as any other does. A slow or busy machine may have
# measured too little for a selector: the estimate and the plan do without. A plan that has no sub-model for a device
# that is too slow ends with 3.
DEMO := .demo
MODEL := $(DEMO)/resnet18.onnx
WIDTHS := 1,0.5
PROFILE = $(LATTE) profile --suite network $(MODEL) --batch-size 8 --widths $(WIDTHS)
demo: export LATTE_STORE := $(CURDIR)/$(DEMO)/store
demo: LATTE := $(BIN)/latte
demo: .venv/ready ## profile this machine for three minutes; an estimate and a plan from what was measured
	@mkdir -p $(DEMO)
	$(LATTE) zoo export resnet18 $(MODEL) --force
	$(PROFILE) --budget 100s
	$(PROFILE) --budget 24s --threads 1
	$(PROFILE) --budget 26s --precision bf16 --layout channels_last
	$(LATTE) train-selector || echo "going on without a selector"
	$(LATTE) estimate $(MODEL) --batch-size 8
	$(LATTE) allocate $(MODEL) --fleet docs/fleet.yaml --widths $(WIDTHS) --round-duration 60s || [ $$? -eq 3 ]

golden: .venv/ready ## rewrite the expected output in tests/golden and tests/frozen; look at the diff
	LATTE_GOLDEN=1 $(BIN)/python -m pytest tests/test_golden.py tests/test_layer_values.py tests/test_frozen.py \
	  tests/test_document_examples.py

docs: .venv/ready ## the documentation as pages in build/docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

pictures: docs ## the report, the terminal and two pages of docs as a browser shows them, into build/pictures; look at them
	$(BIN)/python tests/pictures.py build/pictures

# It needs Ray, which is not in .venv by itself; where it is absent, one line says how to install it.
simulation: .venv/ready ## docs/federation/simulation.md run and checked; ARGS='--devices 20 --rounds 1' for less
	@$(BIN)/python benchmarks/simulation.py $(ARGS)

# On a machine with an NVIDIA GPU. Each part stands alone, takes under nine minutes and goes on where it stopped; it
# needs no network and no XGBoost. GPU_PYTHON=python3 takes an environment that is there already instead of .venv.
BUDGET ?= 8m
STORE ?= build/gpu-store
OUT ?= build/gpu
GPU_PYTHON ?= $(BIN)/python
GPU_READY := $(if $(filter $(BIN)/python,$(GPU_PYTHON)),.venv/ready)

gpu: gpu-test gpu-profile gpu-accuracy gpu-runtime ## all that needs an NVIDIA GPU; BUDGET=8m STORE=DIR OUT=DIR

gpu-test: gpu-ready ## the tests in tests/gpu
	$(GPU_PYTHON) -m pytest tests/gpu -p no:cacheprovider $(ARGS)

gpu-profile: gpu-ready ## profile the GPU: the zoo's layers, then the suite `paper`
	$(GPU_PYTHON) benchmarks/gpu_profile.py --store $(STORE) --output $(OUT) --budget $(BUDGET) $(ARGS)

gpu-accuracy: gpu-ready ## estimates against real training steps
	$(GPU_PYTHON) benchmarks/gpu_accuracy.py --store $(STORE) --output $(OUT) --budget $(BUDGET) $(ARGS)

gpu-runtime: gpu-ready ## training steps with the chosen algorithms
	$(GPU_PYTHON) benchmarks/runtime.py --device cuda --store $(STORE)-runtime --output $(OUT)/runtime.md $(ARGS)

.PHONY: gpu-ready
gpu-ready: $(GPU_READY)
	@$(GPU_PYTHON) -m latte_cli doctor --device cuda >&2

bench: ## list the benchmarks; run one with .venv/bin/python benchmarks/NAME.py
	@for file in benchmarks/*.py; do \
	  if [ -f "$$file" ]; then printf '%s\t%s\n' "$$file" "$$(sed -n '1s/"""//gp' "$$file")"; fi; \
	done | expand -t 40

clean: ## remove the environment, the demo and all caches
	rm -rf .venv $(DEMO) build dist *.egg-info .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis
	find latte_cli tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
