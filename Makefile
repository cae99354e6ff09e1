# Every target does its own set-up. VENV=path reuses an environment, PYTHON=path names the interpreter that a new one is made with.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.flint-posthoc-installed
TEST_INSTALLED := $(VENV)/.flint-posthoc-test-installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint

help:  ## list the targets
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-22s %s\n", $$1, $$2 }'

demo: $(INSTALLED)  ## fit an interpreter to the embedded digits classifier and write pictures into flint-demo/
	$(BIN)/flint-posthoc demo

test: $(TEST_INSTALLED)  ## all tests; FLINT_DATA=folder adds those on real data
	$(BIN)/python -m pytest -n 2

lint: $(TEST_INSTALLED)  ## style, format, types and the order of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# --- examples, one target each; DATA=folder that holds the data sets and checkpoints ---

DATA ?= $(or $(FLINT_DATA),../shared/data)

.PHONY: fashion-mnist imagenette weights digits layers pictures report

digits: $(INSTALLED)  ## train the demo's classifier again and write its checkpoint
	$(BIN)/python examples/digits/train.py

fashion-mnist: $(INSTALLED)  ## a third party's FashionMNIST network, its suggested layer (10 minutes)
	$(BIN)/python -m examples.fashion_mnist.run --data $(DATA) --layers conv2

imagenette: $(INSTALLED)  ## SqueezeNet on ten ImageNet classes, three seeds (3 minutes)
	$(BIN)/python -m examples.imagenette.run --data $(DATA) --seeds 0 1 2

weights: $(INSTALLED)  ## what each loss weight, a longer fit and another decoder buy, on validation splits (two hours)
	$(BIN)/python -m examples.weights.run --tasks fashion_mnist --seeds 0 1 2 --data $(DATA)
	$(BIN)/python -m examples.weights.run --tasks cifar10 --data $(DATA)
	$(BIN)/python -m examples.weights.lengths --seeds 0 1 2 --data $(DATA)

layers: $(INSTALLED)  ## are the suggested layers the right ones? every good choice on three checkpoints (45 minutes)
	$(BIN)/python -m examples.layers.run --data $(DATA)

pictures: $(INSTALLED)  ## does AM+PI raise the attribute it draws, and what does it cost? after fashion-mnist and imagenette (an hour)
	$(BIN)/python -m examples.pictures.run --data $(DATA)
	$(BIN)/python -m examples.pictures.speed --data $(DATA)

report: $(TEST_INSTALLED)  ## the report on SqueezeNet, after imagenette, and the README's picture of it (5 minutes)
	$(BIN)/python -m examples.report.run --data $(DATA)

.PHONY: mishaps bad-calls fuzz

mishaps: $(TEST_INSTALLED)  ## 200 kills at random moments of fit, cache, save and report, each resumed and compared (10 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m examples.mishaps.kills

bad-calls: $(TEST_INSTALLED)  ## how long a bad call takes to be refused, and what was read by then
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m examples.mishaps.bad_calls

fuzz: $(TEST_INSTALLED)  ## 10,000 spoilt artefacts, caches and checkpoints, guided by coverage where atheris can be installed (10 minutes)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'atheris>=3' || echo "no atheris for this Python: chance alone chooses"
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m examples.mishaps.fuzz

.PHONY: zoo
zoo: $(INSTALLED)  ## every family of timm, torchvision and transformers through the whole course; a stopped run goes on where it was
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[transformers]'
	OMP_NUM_THREADS=1 $(BIN)/python -m examples.zoo

# --- the paper's experiments; stopped ones go on where they were; OUTPUT=folder that holds the networks ---

OUTPUT ?= flint-paper
PAPER = $(BIN)/python -m examples.paper
PAPER_PLACES = --data $(DATA) --output $(OUTPUT)

.PHONY: paper paper-grey paper-quickdraw paper-cifar10 paper-recipes paper-ablations paper-questions paper-figures

paper: paper-grey paper-quickdraw paper-cifar10 paper-recipes paper-ablations paper-questions paper-figures  ## all tables and figures of the paper (a night)

paper-grey: $(INSTALLED)  ## accuracy and fidelity on MNIST and FashionMNIST, three seeds (5 hours)
	$(PAPER).fidelity --tasks mnist fashion_mnist --seeds 0 1 2 $(PAPER_PLACES)

paper-quickdraw: $(INSTALLED)  ## the same on QuickDraw, one seed (3 hours)
	$(PAPER).fidelity --tasks quickdraw --modes joint post-hoc mixtures $(PAPER_PLACES)

paper-cifar10: $(INSTALLED)  ## the same on CIFAR-10, one seed (2 hours)
	$(PAPER).fidelity --tasks cifar10 $(PAPER_PLACES)

paper-recipes: $(INSTALLED)  ## the authors' and the paper's settings on the same data, one seed
	$(PAPER).fidelity --tasks mnist fashion_mnist --recipe authors $(PAPER_PLACES)
	$(PAPER).fidelity --tasks quickdraw --recipe authors $(PAPER_PLACES)
	for task in mnist quickdraw; do $(PAPER).fidelity --tasks $$task --recipe paper $(PAPER_PLACES) || exit 1; done

paper-ablations: $(INSTALLED)  ## eta against zeta with the conciseness curves, J, no autoencoder, and what is read of the maps
	$(PAPER).ablations weights --tasks fashion_mnist $(PAPER_PLACES)
	$(PAPER).ablations weights --tasks quickdraw --modes post-hoc $(PAPER_PLACES)
	for task in mnist quickdraw; do $(PAPER).ablations attributes --tasks $$task $(PAPER_PLACES) || exit 1; done
	for task in fashion_mnist quickdraw; do $(PAPER).ablations autoencoder --tasks $$task $(PAPER_PLACES) || exit 1; done
	$(PAPER).ablations predictions --tasks fashion_mnist --validation --epochs 5 $(PAPER_PLACES)
	$(PAPER).ablations readings --tasks mnist fashion_mnist --validation --modes post-hoc $(PAPER_PLACES)
	$(PAPER).ablations readings --tasks mnist fashion_mnist --modes post-hoc $(PAPER_PLACES)
	$(PAPER).ablations temperatures --tasks mnist fashion_mnist --validation --modes post-hoc $(PAPER_PLACES)
	$(PAPER).ablations by-design --tasks mnist fashion_mnist --validation --epochs 5 $(PAPER_PLACES)

paper-questions: $(INSTALLED)  ## top-k agreement, disagreement, shuffling, faithfulness, stability
	for question in agreement disagreement shuffling faithfulness; do \
	  $(PAPER).questions $$question --tasks mnist fashion_mnist $(PAPER_PLACES) || exit 1; \
	  $(PAPER).questions $$question --tasks quickdraw $(PAPER_PLACES) || exit 1; \
	done
	$(PAPER).questions stability --tasks mnist fashion_mnist --seeds 0 1 2 $(PAPER_PLACES)

paper-figures: $(INSTALLED)  ## relevance maps, samples by class, pairs with and without autoencoder, J = 4, disagreeing samples
	$(PAPER).figures --tasks mnist fashion_mnist quickdraw $(PAPER_PLACES)

# --- speed and memory; on a machine that does nothing else ---

.PHONY: bench

bench: $(TEST_INSTALLED)  ## every benchmark; results go into examples/benchmarks/results (90 minutes)
	for name in startup parts explanations fit costs pictures memory lime fidelity; do $(BIN)/python -m examples.benchmarks.$$name --data $(DATA) || exit 1; done

.PHONY: readme-picture
readme-picture: $(INSTALLED)  ## make the README's picture again
	$(BIN)/flint-posthoc demo
	cp flint-demo/overview.png docs/images/demo.png

# --- set-up, once for each change of setup.cfg ---

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "flint_posthoc needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)."; \
	  echo "Name a newer one: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -f $(BIN)/python; exit 1; }

$(INSTALLED): setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(TEST_INSTALLED): setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ $(INSTALLED)
