# Every target builds .venv by itself when it is missing or older than setup.py and constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_DOCS := $(VENV)/.installed-docs

QUICKSTART := configs/quickstart.yaml
FEATURES := output/quickstart/features

.PHONY: install quickstart data features train draw test lint format docs clean

# Into .venv: then . .venv/bin/activate, and wps-sam is there.
install: $(INSTALLED)

# Generated data, training with boxes, evaluation by every protocol, pictures in output/quickstart/predictions.
quickstart: draw

data: datasets/synthetic_parts/.made

datasets/synthetic_parts/.made: $(INSTALLED) tools/make_synthetic.py $(wildcard wps_sam/data/synthetic/*.py)
	$(BIN)/python tools/make_synthetic.py --num-train 700
	touch $@

# What SAM sees in the pictures never changes in training: it looks at each once (0.9 GB), not at every step. Two
# processes of a thread each are done sooner than one of two.
features: data
	OMP_NUM_THREADS=1 $(BIN)/python tools/cache_features.py --num-processes 2 --config-file $(QUICKSTART) --output $(FEATURES)

# Goes on where it was stopped; of a finished run it evaluates alone. To train anew, remove output/quickstart.
train: features
	$(BIN)/python tools/train_net.py --resume --config-file $(QUICKSTART) MODEL.SAM.FEATURES cache MODEL.SAM.CACHE_DIR $(FEATURES)

draw: train
	$(BIN)/python tools/visualize_predictions.py --config-file $(QUICKSTART)

# Files of tests are shared out over the cores, each to one process, whose fixtures serve all of the file.
test: $(INSTALLED_DEV)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED_DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation as a site in output/docs, which needs no network to be read: open output/docs/index.html, or, with its
# search, python3 -m http.server --directory output/docs.
docs: $(INSTALLED_DOCS)
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build *.egg-info

$(INSTALLED): setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable .
	touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]"
	touch $@

$(INSTALLED_DOCS): $(INSTALLED)
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[docs]"
	touch $@
