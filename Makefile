# Two commands on a fresh machine: `make demo` and `make test`. Each sets up all it needs in .venv.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin

# Real data: what lies beside the checkout, unpacked once, else the hub.
UNPACK := $(wildcard ../shared/data/unpack.py)
DATA := $(if $(UNPACK),.data,hub)
unpacked = $(if $(UNPACK),$(addprefix .data/,$(1)))
STYLE := $(addprefix --pictures ,$(wildcard ../shared/data/style))
CIFAR10 := $(if $(UNPACK),.data/cifar10,uoft-cs/cifar10)
JUDGE := --data $(CIFAR10) --epochs 4 --batch-size 128 --optimiser sgd --learning-rate 0.1 --schedule cosine \
	--warmup 0.2 --weight-decay 5e-4 --augmentation flip-crop --precision bfloat16 --out runs/judge
IMAGENET := $(if $(UNPACK),.data/imagenet_sample,ILSVRC/imagenet-1k)
RESTARTS := --preset paper --seeds 20 --snapshots 12 --phases A B AB AB-head AB-two AB-shrink A-early AB-early
# One photograph a class: none can be held out, so the same are trained on and measured on, for time and losses alone.
TWICE := $(if $(UNPACK),.data/imagenet_twice,$(IMAGENET))
VGG := --data $(IMAGENET) $(if $(UNPACK),--same) --cifar $(CIFAR10) --batch 4
PHOTOGRAPHS := --train_images 96 --test_images 24 --size 128 --decoders 1 --start.epochs 10 --a.epochs 60 \
	--a.schedule constant --a.milestones '[]' --aa.epochs 10 --aa.schedule constant --aa.milestones '[]' --evaluations 6
ZOO := --steps 10 --largest 30000000 --seconds 400 --memory 18
SMOKE := --simulations .data/smoke $(addprefix --captures ,$(call unpacked,scalarflow))
TUNED := --tuned-on runs/transfer-mnist-halves-full
REMEDIES := {"RR1": 3, "RR1-end": 3, "RR1-pooled": 3, "RR1-gain": 3, "RR1-denoise": 3, "RR7-fade": 0.1}
SHARES := 0.0001 0.001 0.01 0.1 0.5
FIVE := --phases A-1 A-2 A-3 A-4 A-5

.PRECIOUS: .venv-torch-%/.installed
.PHONY: demo quick docs regenerated digits cifar smoke vgg gpu coverage derivation slurm test versions lint dist results clean

demo: $(VENV)/.installed $(call unpacked,mnist)
	$(BIN)/racecar study mutual-information --preset paper --protocol paper
	$(BIN)/racecar study mutual-information --preset paper --protocol sound
	$(BIN)/racecar study transfer --preset small --data $(DATA)
	@echo; echo "What was seen:"; echo
	@$(BIN)/racecar report runs/mutual-information-paper-paper runs/mutual-information-paper-sound \
	    runs/transfer-mnist-parity-small

quick: $(VENV)/.installed
	$(BIN)/racecar study mutual-information --preset quick

# Sections 5.1 and 5.2 in minutes; --preset small takes hours on two cores, --preset paper wants a GPU.
digits: $(VENV)/.installed $(call unpacked,mnist)
	$(BIN)/racecar study digits --preset quick --data $(DATA)

cifar: $(VENV)/.installed $(call unpacked,cifar10 cifar100)
	$(BIN)/racecar study cifar --preset quick --data $(DATA)
	$(BIN)/racecar study cifar --preset quick --recipe strong --data $(DATA)

# The site, in build/docs; a broken link or reference is an error.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --conf-dir docs --builder html . build/docs
	@echo "Open build/docs/index.html"

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[docs]"
	touch $@

# The README's picture, in some minutes.
regenerated: $(VENV)/.installed $(call unpacked,mnist)
	$(BIN)/python docs/regenerated.py --data $(DATA)

# Section 5.3: two minutes of simulation, once, then the study.
smoke: $(VENV)/.installed $(call unpacked,scalarflow)
	$(BIN)/racecar data smoke --out .data/smoke
	$(BIN)/racecar study smoke --preset quick $(SMOKE)

# Section 5.4: VGG-shaped networks on CIFAR-10, then stylization as they see it.
vgg: $(VENV)/.installed $(call unpacked,cifar10)
	$(BIN)/racecar study vgg --preset quick --data $(CIFAR10)
	$(BIN)/racecar study stylize --preset quick $(STYLE)

# What wants an accelerator, the most valuable first, for so many minutes; called again it goes on (docs/campaign.md).
MINUTES := 25
gpu: $(VENV)/.installed $(call unpacked,mnist cifar10 cifar100 scalarflow imagenet_sample)
	$(BIN)/racecar campaign --minutes $(MINUTES) --data $(DATA) $(STYLE)

# The zoo has an environment of its own: torchvision and timm need torch as PyPI has it, 5 GB.
coverage: .venv-zoo/.installed
	.venv-zoo/bin/python benchmarks/coverage.py --libraries torchvision $(ZOO) --table results/coverage-torchvision.md
	.venv-zoo/bin/python benchmarks/coverage.py --libraries hf timm $(ZOO) --table results/coverage-timm.md
	.venv-zoo/bin/python benchmarks/coverage.py --libraries third --step --steps 5 --table results/coverage-third.md

# Seconds and memory of deriving, of deep and of large models; BEFORE=another/checkout/src compares with that.
derivation: .venv-zoo/.installed
	.venv-zoo/bin/python benchmarks/derive.py $(addprefix --before ,$(BEFORE)) --table results/derivation.md
	.venv-zoo/bin/python benchmarks/derive_large.py --table results/derivation-large.md
	.venv-zoo/bin/python benchmarks/sharded.py --table results/sharded.md

# A sweep on a real SLURM of this machine, disturbed; as root, with Debian's packages, which it names.
slurm: $(VENV)/.installed
	$(BIN)/python benchmarks/slurm.py --table results/slurm.md

.venv-zoo/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-zoo
	.venv-zoo/bin/pip install --quiet --disable-pip-version-check torch torchvision
	.venv-zoo/bin/pip install --quiet --disable-pip-version-check timm transformers --editable ".[study]"
	.venv-zoo/bin/pip install --quiet --disable-pip-version-check monai einops segmentation-models-pytorch diffusers \
		peft torch_geometric torchaudio
	touch $@

# Debian's package; elsewhere give --data hub.
.data/fashion-mnist:
	mkdir -p .data/debian
	cd .data/debian && apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb .
	mv .data/debian/usr/share/datasets/fashion-mnist $@

.data/imagenet_twice: .data/imagenet_sample
	mkdir -p $@
	for file in $(CURDIR)/$</train-*; do ln -sf $$file $@/; ln -sf $$file $@/$$(basename $$file | sed s/^train/test/); done

.data/%: | $(VENV)/.installed
	$(BIN)/python $(UNPACK) .data $*

test: lint
	$(BIN)/pytest -n 2

# The library under the lowest torch that pyproject.toml promises and the newest that was tried: 5 GB each.
LOWEST := 2.11.0
NEWEST := 2.14.1
versions: torch-$(LOWEST) torch-$(NEWEST)

torch-%: .venv-torch-%/.installed
	.venv-torch-$*/bin/pytest -n 2 --ignore=tests/study --ignore=tests/integrations

.venv-torch-%/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-torch-$*
	.venv-torch-$*/bin/pip install --quiet --disable-pip-version-check torch==$*
	.venv-torch-$*/bin/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What is uploaded: wheel and sdist of this version in dist/.
dist: $(VENV)/.installed
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# Measure again what docs/ and results/ cite: hours on two cores.
results: demo $(call unpacked,mnist cifar10 cifar100 scalarflow imagenet_twice fashion-mnist)
	$(BIN)/racecar report runs/mutual-information-paper-paper runs/mutual-information-paper-sound --results results
	$(BIN)/racecar study mutual-information --protocol paper $(RESTARTS) --out runs/twelve-bit-restarts-paper
	$(BIN)/racecar study mutual-information --protocol sound $(RESTARTS) --out runs/twelve-bit-restarts-sound
	$(BIN)/racecar report runs/twelve-bit-restarts-paper runs/twelve-bit-restarts-sound --results results
	$(BIN)/python -m racecar.study.mutual_information.ablation --table results/mutual-information-ablation.md
	$(BIN)/python benchmarks/ensemble.py --table results/ensemble.md
	$(BIN)/python benchmarks/balance.py --data $(DATA) --seeds 5 3 --ratios 0.1 0.9 --table results/balance.md
	$(BIN)/python benchmarks/reconstruct.py $(addprefix --data ,$(call unpacked,mnist)) --table results/reconstruct.md
	$(BIN)/racecar study digits --preset small --variants Std Ort RR3 --seeds 5 --data $(DATA)
	$(BIN)/racecar study digits --preset small --seeds 3 --data $(DATA)
	$(BIN)/racecar study digits --preset full --variants Std StdC RR3 --seeds 5 --data $(DATA)
	$(BIN)/racecar study cifar --preset small --variants Std RR13 RR13s --seeds 3 --data $(DATA)
	$(BIN)/racecar study cifar --preset small --recipe strong --seeds 3 --data $(DATA)
	$(BIN)/racecar data smoke --out .data/smoke
	$(BIN)/racecar study smoke --preset small $(SMOKE)
	$(BIN)/racecar study smoke --preset small --variants Std RR6 StdC Dec6 --phases A B1 B2 AB1 AB2 $(SMOKE)
	$(BIN)/racecar study smoke --preset small --seeds 5 --phases A B1 AB1 $(SMOKE)
	$(BIN)/racecar data smoke --size 32 --count 24 --out .data/smoke32
	$(BIN)/python -m racecar.study.forecasting.experiment --table results/forecasting.md
	$(BIN)/racecar study vgg --preset small --data $(CIFAR10)
	$(BIN)/racecar train --model racecar.study.cifar.network:strong --model-options '{"width": 32, "classes": 10}' $(JUDGE)
	$(BIN)/racecar study stylize --preset small $(STYLE) --judge runs/judge
	$(BIN)/racecar report runs/vgg-small runs/stylize-small --results results
	$(BIN)/racecar study transfer --preset full --pair mnist-halves --data $(DATA)
	$(BIN)/racecar study transfer --preset full --pair mnist-parity --phases A-tuned B $(TUNED) --data $(DATA)
	$(BIN)/racecar study transfer --preset full --pair fashion-groups --phases A-tuned B $(TUNED) --data $(DATA)
	$(BIN)/racecar report runs/transfer-mnist-halves-full runs/transfer-mnist-parity-full --results results
	$(BIN)/racecar report runs/transfer-fashion-groups-full --results results
	$(BIN)/racecar study transfer --preset full --pair cifar10-halves --seeds 1 --a.epochs 6 --b.epochs 2 \
		--variants Std Proj Pre Dec1 Dec7 RR1 RR7 --data $(DATA)
	$(BIN)/racecar study transfer --preset full --pair cifar10-animals --seeds 5 --variants Std StdC Proj Pre Dec1 RR1 \
		--phases A-tuned B --tuned-on runs/transfer-cifar10-halves-full --data $(DATA)
	$(BIN)/racecar study transfer --preset full --pair cifar100-superclasses --seeds 5 --variants Std StdC Dec1 RR1 \
		--phases A-tuned B --tuned-on runs/transfer-cifar10-halves-full --data $(DATA)
	$(BIN)/racecar report runs/transfer-cifar10-halves-full runs/transfer-cifar10-animals-full --results results
	$(BIN)/racecar report runs/transfer-cifar100-superclasses-full --results results
	$(BIN)/racecar study transfer --preset full --pair cifar10-halves --seeds 2 --a.epochs 6 --b.epochs 2 --phases A-tuned \
		--variants Std RR1 RR1-end RR1-pooled RR1-gain RR1-denoise RR7-fade --tuned '$(REMEDIES)' --data $(DATA) \
		--out runs/transfer-cifar10-remedies
	$(BIN)/racecar study transfer --preset full --pair cifar10-animals --seeds 3 --variants Std StdC RR1 --phases A-tuned \
		--tuned '{"RR1": 3}' --train_images null --test_images null --a.epochs 10 --data $(DATA) \
		--out runs/transfer-cifar10-all-images
	for run in remedies all-images; do $(BIN)/racecar report runs/transfer-cifar10-$$run --results results \
		--name transfer-cifar10-$$run || exit; done
	$(BIN)/racecar study transfer --preset full --pair superposed-tuning --phases A --seeds 2 --data $(DATA)
	for share in $(SHARES); do $(BIN)/racecar study transfer --preset full --pair superposed-$$share --phases A-tuned B \
		--tuned-on runs/transfer-superposed-tuning-full --data $(DATA) || exit; done
	$(BIN)/python -m racecar.study.coarse_to_fine.dose_response $(SHARES:%=runs/transfer-superposed-%-full) --results results
	$(BIN)/racecar report runs/transfer-superposed-tuning-full --results results
	$(BIN)/racecar study plasticity --preset small --sequence permuted-pixels --tasks 25 --seeds 3 $(FIVE) --data $(DATA)
	$(BIN)/racecar study plasticity --preset small --data $(DATA)
	$(BIN)/racecar study plasticity --preset small $(FIVE) A A-first --data $(DATA)
	$(BIN)/racecar study plasticity --preset small --sequence class-sequence --seeds 5 --data $(DATA) \
		--variants Std StdC Ort L2Init RR1 RR3 Dec1 Dec3 SP
	$(BIN)/racecar study plasticity --preset small --sequence class-sequence --classes 5 --tasks 20 --train_images 500 \
		--seeds 5 --variants Std StdC Ort L2Init RR3 Dec3 --data $(DATA) --out runs/plasticity-five-classes
	$(BIN)/racecar report runs/plasticity-five-classes --results results --name plasticity-five-classes
	$(BIN)/racecar report runs/plasticity-permuted-pixels-small runs/plasticity-random-labels-small --results results
	$(BIN)/racecar report runs/plasticity-class-sequence-small --results results
	$(BIN)/racecar study cifar --recipe strong --preset small --width 16 --variants Std Ort RR1 RR7 Dec7 --phases A \
		--seeds 3 --data $(DATA) --out runs/cifar-byproducts
	$(BIN)/python -m racecar.study.cifar.byproducts runs/cifar-byproducts --table results/byproducts.md
	$(BIN)/racecar study vgg --data $(TWICE) $(PHOTOGRAPHS) --out runs/vgg-photographs
	$(BIN)/python benchmarks/vgg.py $(VGG) --trained runs/vgg-photographs --table results/vgg-speed.md
	$(if $(UNPACK),$(BIN)/python benchmarks/images.py --work .data/links --seconds 5 --rounds 4 --table results/images.md \
		--photographs ../shared/data/imagenet_sample/imagenet_sample_1000.npz)
	$(BIN)/racecar report runs/digits-small runs/digits-full runs/cifar-small --results results
	$(BIN)/racecar report runs/cifar-strong-small runs/smoke-small --results results
	$(BIN)/racecar study digits --preset small --seeds 5 --phases A B AB --out runs/variants-digits --data $(DATA) \
		--variants Std RR3 RR3-every2 RR3-every4 RR3-every8 RR3-fraction0.25 RR3-fraction0.125 RR3-layerwise \
		RR3-subset1 RR3-layerwise-subset1 RR3-every2-layerwise-subset1
	$(BIN)/racecar study cifar --preset small --recipe strong --width 16 --seeds 5 --phases A B AB --data $(DATA) \
		--variants Std RR7 RR7-every4 RR7-every8 RR7-fraction0.125 RR7-layerwise RR7-subset1 \
		RR7-layerwise-subset1 RR7-every2-layerwise-subset1 --out runs/variants-cifar
	$(BIN)/python benchmarks/variants.py --studies runs/variants-digits runs/variants-cifar --table results/variants.md
	$(BIN)/python benchmarks/cost.py --compile --compiled 'Table 9 (digits)' ResNet-50 --seconds 8 --table results/cost.md

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("racecar needs Python 3.11 or newer: make PYTHON=python3.12") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

clean:
	rm -rf build $(VENV) .venv-zoo .venv-torch-* .mypy_cache .ruff_cache .pytest_cache .hypothesis
