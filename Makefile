# Two commands for a fresh clone: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check clean

# torch is pinned and installed first: a plain request could pull gigabytes of CUDA.
# torchvision and timm are only used by tests; without dependencies they leave torch alone.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet "torch==2.13.0" -c constraints.txt
	$(BIN)/python -m pip install --quiet -e ".[demo,dev,fast,gpytorch,hf,pandas,replay,rl,video]" -c constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps "torchvision==0.28.0" timm -c constraints.txt
	touch $(READY)

demo: $(READY)
	$(BIN)/recollect demo --report demo_report

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes of one thread each: most tests are many small tensor operations. Files stay in
# the order of tests/conftest.py, the longest first.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=25

clean:
	rm -rf $(VENV) demo_report
