# Two commands on a fresh machine: `make demo` and `make test`. Each sets up all it needs in .venv.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin

# Real data: what lies beside the checkout, unpacked once, else the hub.
UNPACK := $(wildcard ../shared/data/unpack.py)
DATA := $(if $(UNPACK),.data,hub)

.PHONY: demo quick digits cifar test lint results clean

demo: $(VENV)/.installed
	$(BIN)/racecar study mutual-information --preset paper --protocol paper
	$(BIN)/racecar study mutual-information --preset paper --protocol sound
	@echo "Open runs/mutual-information-paper-paper/report.html and runs/mutual-information-paper-sound/report.html"

quick: $(VENV)/.installed
	$(BIN)/racecar study mutual-information --preset quick

# Sections 5.1 and 5.2 in minutes; --preset small takes hours on two cores, --preset paper wants a GPU.
digits: $(VENV)/.installed $(filter .data,$(DATA))
	$(BIN)/racecar study digits --preset quick --data $(DATA)

cifar: $(VENV)/.installed $(filter .data,$(DATA))
	$(BIN)/racecar study cifar --preset quick --data $(DATA)
	$(BIN)/racecar study cifar --preset quick --recipe strong --data $(DATA)

.data: $(VENV)/.installed
	$(BIN)/python $(UNPACK) .data mnist cifar10 cifar100

test: lint
	$(BIN)/pytest -n 2

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Measure again what README.md and results/ cite: hours on two cores.
results: demo $(filter .data,$(DATA))
	$(BIN)/racecar report runs/mutual-information-paper-paper runs/mutual-information-paper-sound --results results
	$(BIN)/python -m racecar.study.mutual_information.ablation --table results/mutual-information-ablation.md
	$(BIN)/python benchmarks/ensemble.py --table results/ensemble.md
	$(BIN)/racecar study digits --preset small --variants Std Ort RR3 --seeds 5 --data $(DATA)
	$(BIN)/racecar study digits --preset small --seeds 3 --data $(DATA)
	$(BIN)/racecar study cifar --preset small --variants Std RR13 RR13s --seeds 3 --data $(DATA)
	$(BIN)/racecar study cifar --preset small --recipe strong --seeds 3 --data $(DATA)
	$(BIN)/racecar report runs/digits-small runs/cifar-small runs/cifar-strong-small --results results
	$(BIN)/python benchmarks/classification.py --table results/classification-speed.md

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("racecar needs Python 3.11 or newer: make PYTHON=python3.12") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
