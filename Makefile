# Every target builds .venv by itself when it is missing or older than setup.py and constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev

QUICKSTART := configs/quickstart.yaml
OUTPUT := output/quickstart

.PHONY: quickstart data train draw test lint format clean

quickstart: draw  ## synthetic data, box-supervised training, evaluation by every protocol, pictures

data: datasets/synthetic_parts/.made

datasets/synthetic_parts/.made: $(INSTALLED) tools/make_synthetic.py wps_sam/data/synthetic.py
	$(BIN)/python tools/make_synthetic.py
	touch $@

train: data
	$(BIN)/python tools/train_net.py --config-file $(QUICKSTART) OUTPUT_DIR $(OUTPUT)

draw: train
	$(BIN)/python tools/visualize_predictions.py --config-file $(QUICKSTART) OUTPUT_DIR $(OUTPUT)

test: $(INSTALLED_DEV)
	$(BIN)/python -m pytest

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED_DEV)
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info

$(INSTALLED): setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable .
	touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]"
	touch $@
