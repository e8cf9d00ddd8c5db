# Two commands for a fresh Linux machine: `make demo` and `make test`. Both set up .venv by themselves.
#   PYTHON=python3.12 make demo      another interpreter (3.10 or newer)
#   TORCH=torch==2.9.0 make demo     another torch; default below (with its CUDA libraries about 6 GB)
SHELL := /bin/bash
PYTHON ?= python3
TORCH ?= torch==2.14.1
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --prefer-binary --retries 10
PHOTO ?= assets/raccoon.jpg
MOTION ?= zoom in
DYNAMICS ?= 14
VIDEO ?= demo/$(basename $(notdir $(PHOTO))).mp4
MUTANTS := tests/kernels/interpreted/test_mutants.py
PYTEST := $(PY) -m pytest -p no:cacheprovider --timeout 900
# Two workers of one thread each, for long runs: each of them imports torch and collects all tests; tests/helpers/worker_groups.py says what stays together.
WORKERS := -n 2
INTERPRETED := tests/kernels -m "not slow and not gpu" -rs
FAST := --ignore tests/kernels/compiled -m "not host and not browser and not slow and not gpu"
# T=motion/io: its tests stand in tests/motion/io; those of the file motion/photo.py in tests/motion/io/media/test_photo.py.
ROOM = $(firstword $(wildcard tests/$(T) tests/$(dir $(T))test_$(basename $(notdir $(T))).py))
# Several parts at once keep two cores busy; logs of those behind are shown at the end, and Ctrl-C stops them all.
TOGETHER := set -e; logs=$$(mktemp -d); export OMP_NUM_THREADS=1; \
	trap 'kill $$(jobs -p) 2>/dev/null || true; wait; rm -rf "$$logs"' EXIT
NOTE_FAILURE := || { failed=$$?; [ $$failed -ne 2 ] || exit 2; }

.PHONY: help demo test check quick nodes kernels kernels-matrix host faults bench evidence lint clean
.DELETE_ON_ERROR:

help:
	@echo "make demo     set up .venv and animate a shipped photo"
	@echo "make test     set up .venv, lint, run every test (host tests where a ComfyUI is found)"
	@echo "make check    lint and the fast tests      make check T=motion/io   of one room or file"
	@echo "make quick    the same for the rooms changed against main"
	@echo "make nodes    tests inside the newest host found   make nodes K=lora  those with a word in their name"
	@echo "make kernels  operators against float64 loops, in Triton's interpreter, spoilt on purpose, and"
	@echo "              compiled for every card (no card needed)"
	@echo "make kernels-matrix   the same with other versions of Triton (fetches each, about 1 GB)"
	@echo "make host     tests against real hosts     make faults   bad input, kill, cancel, full disk"
	@echo "make bench    print the figures of docs/numbers.md  make evidence those of docs/evidence.md (about a hundred small trainings, hours)"
	@echo "make clean    remove .venv and demo/"

$(PY):
	@command -v "$(PYTHON)" >/dev/null || { echo "No '$(PYTHON)' found: install Python 3.10 or newer, or say PYTHON=/path/to/python make ..."; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$$("$(PYTHON)" --version) is too old: Python 3.10 or newer is needed; say PYTHON=python3.12 make ..."; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "This Python cannot make a virtual environment: install python3-venv (Debian and Ubuntu: sudo apt-get install python3-venv), or say PYTHON=/path/to/python make ..."; exit 1; }
	@echo "Making $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv $(VENV)

$(VENV)/.torch: | $(PY)
	@echo "Installing $(TORCH) (the large one, some minutes)"
	@$(subst --quiet,,$(PIP)) $(TORCH)
	@touch $@

$(VENV)/.base: requirements.txt $(VENV)/.torch
	@$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.test: requirements-test.txt $(VENV)/.base
	@echo "Installing what the tests need"
	@$(PIP) -r requirements-test.txt
	@touch $@

demo: $(VENV)/.base
	@mkdir -p $(dir $(VIDEO))
	@$(PY) . animate "$(PHOTO)" --motion "$(MOTION)" --dynamics $(DYNAMICS) --frames 16 --overwrite -o "$(VIDEO)"
	@echo "The video is at $(abspath $(VIDEO))"

lint: $(VENV)/.test
	@$(PY) -m ruff check .

test: lint
	@$(TOGETHER); \
	$(if $(KERNELS_FOLLOW),,TRITON_INTERPRET=1 $(PYTEST) $(INTERPRETED) > "$$logs/interpreted" 2>&1 & interpreted=$$!;) \
	$(PYTEST) $(WORKERS) tests --ignore tests/kernels/compiled -rs $(NOTE_FAILURE); \
	$(if $(KERNELS_FOLLOW),,wait $$interpreted || failed=1; cat "$$logs"/*;) exit $${failed:-0}

check: lint
	@$(if $(T),$(if $(ROOM),,echo "No tests for $(T): neither tests/$(T) nor a file test_$(notdir $(T)).py there"; exit 1))
	@OMP_NUM_THREADS=1 $(PYTEST) $(if $(T),$(ROOM),tests) $(FAST)

quick: lint
	@tests=$$($(PY) tools/changed_rooms.py); [ -n "$$tests" ] || { echo "nothing differs from main"; exit 0; }; \
	OMP_NUM_THREADS=1 $(PYTEST) $$tests $(FAST)

nodes: $(VENV)/.test
	@OMP_NUM_THREADS=1 COMFYUI_PATH=$$($(PY) tests/helpers/real_hosts.py) $(PYTEST) tests/nodes $(if $(K),-k "$(K)")

kernels: $(VENV)/.test
	@$(TOGETHER); \
	$(PYTEST) tests/kernels/compiled -rs > "$$logs/compiled" 2>&1 & compiled=$$!; \
	TRITON_INTERPRET=1 $(PYTEST) $(MUTANTS) -rs > "$$logs/mutants" 2>&1 & mutants=$$!; \
	TRITON_INTERPRET=1 $(PYTEST) tests/kernels --ignore $(MUTANTS) -rs $(NOTE_FAILURE); \
	wait $$compiled || failed=1; wait $$mutants || failed=1; cat "$$logs"/*; exit $${failed:-0}

kernels-matrix: $(VENV)/.test
	@$(PY) tools/compile_matrix.py --folder $(VENV)/matrix

host: $(VENV)/.test
	@OMP_NUM_THREADS=1 $(PYTEST) $(WORKERS) tests/host tests/nodes -m host -rs

faults: $(VENV)/.test
	@$(PYTEST) tests/faults -rs

bench: $(VENV)/.test
	@set -e; for script in $(filter-out %_common.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(PY) $$script; done

evidence: $(VENV)/.test
	@set -e; for script in $(wildcard benchmarks/evidence/e?_*.py benchmarks/evidence/e??_*.py); do echo "== $$script"; $(PY) $$script; done
	@$(PY) tools/fill_evidence.py

clean:
	rm -rf $(VENV) demo
