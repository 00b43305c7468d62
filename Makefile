# `make demo` and `make test` need Python 3.11 or newer and make; all else goes into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where PyTorch keeps its wheels for CPUs: asked first outside CI, so that nobody without CUDA downloads gigabytes of it.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH_INDEX_SECONDS ?= 3
REQUIREMENTS := pyproject.toml constraints.txt

.PHONY: demo test slow bench check format protos monitoring lock readme bundled help clean

help:  ## say what there is
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' $(MAKEFILE_LIST)

demo: $(VENV)/.train  ## train LeNet-5 on real digits, serve it, classify, drain
	$(BIN)/saccade demo

test: $(VENV)/.dev  ## run the test suite, but for what takes minutes
	$(BIN)/python -m pytest

slow: $(VENV)/.dev  ## export and serve every architecture, the large ones too
	$(BIN)/python -m pytest -m slow

bench: $(VENV)/.dev  ## one table of what serving costs, beside its ceilings in the same run (20 min; ROWS="words" for some)
	$(BIN)/python -m tests.benchmarks $(if $(ROWS),--rows $(ROWS))

check: $(VENV)/.dev  ## format, lint, types, generated code (the layers are a test)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy deploy/monitoring/generate.py
	$(BIN)/mypy deploy/rehearsal/rehearse.py
	$(BIN)/python protos/generate.py --check
	$(BIN)/python deploy/monitoring/generate.py --check

format: $(VENV)/.dev  ## mend what format and lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

protos: $(VENV)/.dev  ## write service/rpc/pb from protos/
	$(BIN)/python protos/generate.py

monitoring: $(VENV)/.dev  ## write the Prometheus rules and the Grafana dashboard from deploy/monitoring/*.py
	$(BIN)/python deploy/monitoring/generate.py

lock: $(VENV)/.dev  ## write the lock files of the container images from pyproject.toml and constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
	for extra in cpu openvino gpu; do $(LOCK) pyproject.toml --extra $$extra \
	  --output-file deploy/docker/requirements-$$extra.txt || exit 1; done
	echo hatchling | $(LOCK) - --output-file deploy/docker/requirements-build.txt

bundled: $(VENV)/.train  ## train the bundled models on MNIST=FOLDER and CIFAR10=FOLDER and draw the example pictures
	@$(if $(and $(MNIST),$(CIFAR10)),,echo "say where the data are: make bundled MNIST=FOLDER CIFAR10=FOLDER"; exit 1)
	rm -rf runs/lenet5-mnist runs/resnet20-cifar10-muon runs/resnet20-cifar10-first runs/resnet20-cifar10-taught
	$(BIN)/saccade train lenet5-mnist --data-folder $(MNIST)
	$(BIN)/saccade train resnet20-cifar10-muon --data-folder $(CIFAR10)
	$(BIN)/saccade train resnet20-cifar10-muon --data-folder $(CIFAR10) --epochs 80 --set label_smoothing=0 --set cutout=0 \
	  --run runs/resnet20-cifar10-first
	$(BIN)/saccade train resnet20-cifar10-taught --data-folder $(CIFAR10)
	rm -rf service/bundled/models/lenet5-mnist service/bundled/models/resnet20-cifar10
	$(BIN)/saccade export runs/lenet5-mnist --repository service/bundled/models --data-folder $(MNIST)
	$(BIN)/saccade export runs/resnet20-cifar10-taught --name resnet20-cifar10 \
	  --repository service/bundled/models --data-folder $(CIFAR10)
	$(BIN)/python -m export.examples service/bundled/pictures

readme: $(VENV)/.dev  ## write the settings table of the README
	$(BIN)/python -m tests.readme

clean:  ## remove the virtual environment
	rm -rf $(VENV)

$(VENV)/.train: $(REQUIREMENTS)
	$(call install,cpu$(comma)train)
	@touch $@

$(VENV)/.dev: $(REQUIREMENTS)
	$(call install,cpu$(comma)train$(comma)dev)
	@touch $@ $(VENV)/.train

LOCK = $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --universal --python-version 3.11 --no-annotate \
  --constraint constraints.txt --custom-compile-command 'make lock'

comma := ,

define install
	@$(BIN)/python -m pip --version >/dev/null 2>&1 \
	  || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip --version >/dev/null; } \
	  || { echo "$(VENV) has no pip: install Python's venv (Debian, Ubuntu: apt install python3-venv)," \
	       "remove $(VENV) and run make again"; exit 1; }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: run make PYTHON=python3.11 ..."; rm -rf $(VENV); exit 1; }
	@index=; if [ -z "$$CI" ] && $(BIN)/python -c \
	    'import sys, urllib.request as r; r.urlopen(sys.argv[1] + "/torch/", timeout=$(TORCH_INDEX_SECONDS)).close()' \
	    $(TORCH_INDEX) 2>/dev/null; then index="--extra-index-url $(TORCH_INDEX)"; fi; \
	  echo "installing saccade[$(1)] into $(VENV) $${index:+(PyTorch from $(TORCH_INDEX))}"; \
	  $(BIN)/python -m pip install --disable-pip-version-check \
	    --constraint constraints.txt $$index --editable '.[$(1)]'
endef
