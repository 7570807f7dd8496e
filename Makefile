# Bantam: from a model name to a measured, served endpoint. `make` alone lists the targets.
# Variables follow the target, for example: make optimize MODEL=distilbert DATA=reviews.csv MAX_DROP=0.5

MODEL = minilm
DATA = goemotions-ekman
RECIPE =
PROFILE = quick
MAX_DROP =
MAX_HOURS =
MAX_SLICE_DROP =
MAX_P99_MS =
MAX_SIZE_MB =
OBJECTIVE =
METRIC =
FINETUNE = auto
ACCEPT_LICENCE =
ALL =
NAME =
PORT =
ARGS =
TORCH_INDEX ?=
IMAGE =
KIND = cpu

# $(call find-python,NAMES,NEWEST): the first that runs and is Python 3.11 to 3.NEWEST.
find-python = $(shell for name in $(1); do "$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $(2)))' \
  2>/dev/null && echo "$$name" && break; done)
ifndef PYTHON
PYTHON := $(call find-python,python3.11 python3.12 python3.13 python3,13)
endif
ifndef SERVING_PYTHON
# What runs inside Triton needs numpy below 2, which has no build for 3.13.
SERVING_PYTHON := $(call find-python,$(PYTHON) python3.12 python3.11,12)
endif

VENV := .venv
SERVING := .venv-serving
# cpu or gpu; if not given, whatever is set up already.
TARGET = $(if $(wildcard $(VENV)/.ready-gpu),gpu,cpu)

# The embedded Triton exists for Linux on x86-64 only; elsewhere the container serves.
PLATFORM := $(shell uname -s)-$(shell uname -m)
HAS_TRITON := $(filter Linux-x86_64,$(PLATFORM))
READY := $(VENV)/.ready-$(TARGET) $(if $(HAS_TRITON),$(SERVING)/.ready-$(TARGET))
BANTAM := $(VENV)/bin/python -m bantam
# Data that nobody asked for may be read otherwise: see `bantam optimize --help`.
GIVEN_DATA = $(if $(filter file,$(origin DATA)),,--data '$(DATA)')

# The two environments are made at the same time; nothing else here has more than one prerequisite.
MAKEFLAGS += -j2
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help optimize study serve image up down load-test demo bench report card compare doctor setup test check clean

help: ## List the targets and the variables
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' Makefile
	@echo
	@printf '  %-22s %s\n' \
	  'MODEL=$(MODEL)' 'a short name (minilm, bert, distilbert, ...), a hub id, a folder or a GGUF file' \
	  'DATA=$(DATA)' 'a bundled data set, a CSV/TSV/JSONL/Parquet file, texts without labels, or a hub data set id' \
	  'FINETUNE=$(FINETUNE)' 'auto: a classifier with the labels of the data is taken as it is; always or never' \
	  'ACCEPT_LICENCE=$(ACCEPT_LICENCE)' 'a licence that you accept, such as gemma: what asks for one is not downloaded without' \
	  'TARGET=$(TARGET)' 'cpu or gpu: gpu sets up the CUDA builds instead' \
	  'PROFILE=$(PROFILE)' 'quick (minutes) or full (all the data)' \
	  'RECIPE=$(RECIPE)' 'which variants to make: a name or a .toml file; empty: int8, gpu with TARGET=gpu, decoder for a decoder' \
	  'MAX_DROP=$(MAX_DROP)' "points that may be lost, such as 0.5; empty: the recipe's budget" \
	  'MAX_SLICE_DROP=$(MAX_SLICE_DROP)' 'points that may be lost on any label or text length, and with ARGS="--slice-column language" on its values' \
	  'MAX_P99_MS=$(MAX_P99_MS)' 'most milliseconds of the served 99th percentile; empty: no limit' \
	  'MAX_SIZE_MB=$(MAX_SIZE_MB)' 'most MB (10^6 bytes) to ship; empty: no limit' \
	  'OBJECTIVE=$(OBJECTIVE)' 'which variant within all of that is chosen: by latency (if empty), throughput or size' \
	  'MAX_HOURS=$(MAX_HOURS)' 'refuse a training that would end later than this; empty: no limit' \
	  'METRIC=$(METRIC)' 'what they are points of: macro-f1 (if empty), micro-f1, accuracy, average-precision, recall@precision=0.95, f1:LABEL' \
	  'NAME=$(NAME)' "name to publish, serve and test under; empty: the model's own" \
	  'PORT=$(PORT)' 'gRPC port of make serve and make up; empty: 8001' \
	  'IMAGE=$(IMAGE)' 'name of the image, such as registry/name:tag; empty: bantam-cpu, with MODEL as its tag if that is given' \
	  'KIND=$(KIND)' 'which image make image builds: cpu, gpu or optimizer' \
	  'ARGS=$(ARGS)' 'more for the command: make load-test ARGS="--help", make test ARGS="-k data"' \
	  'PYTHON=$(PYTHON)' 'the Python, 3.11 to 3.13, that the environments are made from' \
	  'SERVING_PYTHON=$(SERVING_PYTHON)' 'the Python, 3.11 or 3.12, of what runs inside Triton' \
	  'TORCH_INDEX=$(TORCH_INDEX)' 'package index to take PyTorch from, if the usual one has no build for TARGET'

optimize: $(READY) ## Fine-tune, quantize, export, publish to model_repo/, serve and measure; prints the report
	@$(BANTAM) optimize '$(MODEL)' $(GIVEN_DATA) $(if $(RECIPE),--recipe '$(RECIPE)') --profile '$(PROFILE)' --target '$(TARGET)' \
	  $(if $(filter-out auto,$(FINETUNE)),--finetune '$(FINETUNE)') $(if $(MAX_DROP),--max-drop '$(MAX_DROP)') \
	  $(if $(MAX_SLICE_DROP),--max-slice-drop '$(MAX_SLICE_DROP)') $(if $(METRIC),--metric '$(METRIC)') $(if $(NAME),--name '$(NAME)') \
	  $(if $(MAX_P99_MS),--max-p99-ms '$(MAX_P99_MS)') $(if $(MAX_SIZE_MB),--max-size-mb '$(MAX_SIZE_MB)') \
	  $(if $(OBJECTIVE),--objective '$(OBJECTIVE)') \
	  $(if $(MAX_HOURS),--max-hours '$(MAX_HOURS)') $(if $(ACCEPT_LICENCE),--accept-licence '$(ACCEPT_LICENCE)') $(ARGS)

study: RECIPE = study
study: optimize ## Measure what each step is worth: distilled, pruned, both; in fp32, int8 and 4 bits

serve: $(READY) ## Serve what is in model_repo/ on loopback until Ctrl-C
	@$(BANTAM) serve $(NAME) $(if $(PORT),--grpc-port '$(PORT)') $(if $(filter gpu,$(TARGET)),--target gpu) $(ARGS)

image: $(READY) ## Build the container image that serves, with MODEL in it if that is given: docs/containers.md
	@$(BANTAM) image $(if $(filter file,$(origin MODEL)),$(NAME),'$(or $(NAME),$(notdir $(MODEL)))') --kind '$(KIND)' \
	  $(if $(IMAGE),--tag '$(IMAGE)') $(if $(TORCH_INDEX),--torch-index '$(TORCH_INDEX)') $(ARGS)

up: $(READY) ## Serve what is in model_repo/ from a container, on loopback, until make down; IMAGE names another image
	@$(BANTAM) up $(NAME) $(if $(PORT),--grpc-port '$(PORT)') $(if $(IMAGE),--image '$(IMAGE)') $(ARGS)

down: $(READY) ## End what make up, or bantam serve --container, has started
	@$(BANTAM) down

load-test: $(READY) ## Measure latency and throughput of a model that make serve serves
	@$(BANTAM) load-test '$(or $(NAME),$(notdir $(MODEL)))' --data '$(DATA)' $(if $(PORT),--address 'localhost:$(PORT)') $(ARGS)

demo: $(READY) ## Show what make serve serves beside its baseline, on a page in the browser, until Ctrl-C
	@$(BANTAM) demo '$(or $(NAME),$(notdir $(MODEL)))' $(if $(PORT),--address 'localhost:$(PORT)') $(ARGS)

bench: $(READY) ## Measure side by side with peers, each in its own environment; PROFILE=quick is the shorter
	@$(VENV)/bin/python -m benchmarks.bench --model '$(MODEL)' --data '$(DATA)' --profile '$(PROFILE)' $(ARGS)

report: $(READY) ## Print the report of a run again and write its report.html; ARGS=--all for every variant
	@$(BANTAM) report $(ARGS)

card: $(READY) ## Write the model card of a run, for the Hugging Face hub: card/README.md in its folder
	@$(BANTAM) card $(ARGS)

compare: $(READY) ## Show two runs side by side: make compare ARGS="build/one build/other"
	@$(BANTAM) compare $(ARGS)

doctor: ## Say what is here, what is missing and how to get it; works before any set-up
	@python=$(VENV)/bin/python; [ -x $$python ] || python='$(PYTHON)'; "$$python" -m bantam.doctor $(ARGS)

setup: $(READY) ## Make both environments; every other target does it when needed

test: $(READY) ## Run the tests
	@$(VENV)/bin/python -m pytest -n 2 --dist loadscope $(ARGS)

check: $(VENV)/.ready-$(TARGET) ## Format, lint, types and the rules of the architecture
	@$(VENV)/bin/ruff format --check --quiet . && $(VENV)/bin/ruff check --quiet . || { echo "Mend it with: $(VENV)/bin/ruff format . && $(VENV)/bin/ruff check --fix ." >&2; exit 1; }
	@$(VENV)/bin/mypy
	@$(VENV)/bin/python -m pytest -q --durations=0 tests/test_architecture.py

clean: ## Remove caches; ALL=1 removes build/ too, with hours of training. model_repo/ and the environments stay
	@rm -rf $(if $(ALL),build,build/test-output) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

# --- Set-up -----------------------------------------------------------------------------------------------------------
# An environment is ready when its .ready-<target> stamp, written last, is newer than the files it depends on. While it is
# being changed it holds .unfinished: whatever was interrupted, or was made for the other target, is made anew.
PIP_FLAGS := -qq --disable-pip-version-check --no-input
EXTRAS = $(if $(filter gpu,$(TARGET)),gpu,optimize),demo,dev
PINS = -c constraints.txt $(if $(filter gpu,$(TARGET)),-c constraints-gpu.txt)
PINFILES = pyproject.toml constraints.txt constraints-serving.txt $(if $(filter gpu,$(TARGET)),constraints-gpu.txt)
# Says what went wrong in the words of a user; pip has printed its own just before.
HINT = { echo "Set-up stopped: pip could not install the packages above. Expected: a package index within reach (or a\
 mirror named in pip's configuration) and 4 GB of disk. Mend that and run make again; it goes on by itself." >&2; exit 1; }

# $(call begin,ENVIRONMENT,VARIABLE,PYTHON,NEWEST): leaves an environment of PYTHON with pip, marked unfinished.
define begin
	@"$(3)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $(4)))' 2>/dev/null || { \
	  echo "$(1) is made from Python 3.11 to 3.$(4); found: $$("$(or $(3),python3)" --version 2>&1 || echo none)." >&2; \
	  echo "Install one (Debian 12: apt install python3.11 python3.11-venv; Ubuntu 24.04: apt install python3.12 python3.12-venv)\
 or say where it is: make $(2)=/path/to/python3.12" >&2; exit 1; }
	@if [ ! -x $(1)/bin/pip ] || [ -e $(1)/.unfinished ] || [ -n "$(filter-out %/.ready-$(TARGET),$(wildcard $(1)/.ready-*))" ]; then \
	  echo "set-up: $(1) on $$("$(3)" --version 2>&1)"; \
	  rm -rf $(1) && mkdir $(1) && touch $(1)/.unfinished && "$(3)" -m venv $(1) || exit 1; fi
	@touch $(1)/.unfinished
endef
# $(call end,ENVIRONMENT)
define end
	@touch $(1)/.ready-$(TARGET) && rm $(1)/.unfinished
endef

$(VENV)/.ready-$(TARGET): $(PINFILES)
	@case '$(TARGET)' in cpu|gpu) ;; *) echo "TARGET is '$(TARGET)'; expected cpu or gpu." >&2; exit 1;; esac
	$(call begin,$(VENV),PYTHON,$(PYTHON),13)
	@echo "set-up: PyTorch for $(TARGET)"
	@$(INSTALL_TORCH) || $(HINT)
	@echo "set-up: optimizer, client and tools"
	@$(VENV)/bin/pip install $(PIP_FLAGS) $(PINS) setuptools && \
	  $(VENV)/bin/pip install $(PIP_FLAGS) $(PINS) --no-build-isolation -e '.[$(EXTRAS)]' || $(HINT)
	$(call end,$(VENV))

PIP_TORCH = $(VENV)/bin/pip install $(PIP_FLAGS) $(if $(TORCH_INDEX),--extra-index-url '$(TORCH_INDEX)') $(PINS)
ifeq ($(TARGET)-$(HAS_TRITON)-$(TORCH_INDEX),cpu-Linux-x86_64-)
# On Linux the usual index has the CUDA build only; some mirrors carry the CPU build, which is marked "+cpu".
INSTALL_TORCH = $(PIP_TORCH) "$$(sed -n 's/^torch==.*/&+cpu/p' constraints.txt)" 2>/dev/null || { \
	  echo "        no CPU build of PyTorch on this package index: taking the CUDA build, 3 GB more. It works on a CPU too;"; \
	  echo "        to avoid it, stop and run: make setup TORCH_INDEX=<the CPU index that PyTorch's install page names>"; \
	  $(PIP_TORCH) torch; }
else
INSTALL_TORCH = $(PIP_TORCH) torch
endif

# The serving environment's pins are all that is in it. onnxruntime and onnxruntime-gpu are one module: never both.
$(SERVING)/.ready-$(TARGET): $(PINFILES)
	$(call begin,$(SERVING),SERVING_PYTHON,$(SERVING_PYTHON),12)
	@echo "set-up: Triton and the inference engines"
	@$(INSTALL_SERVING) || $(HINT)
	@"$(SERVING_PYTHON)" -m serving.inline.build $(SERVING)
	$(call end,$(SERVING))

PIP_SERVING = $(SERVING)/bin/pip install $(PIP_FLAGS)
ifeq ($(TARGET),gpu)
INSTALL_SERVING = { grep -v '^onnxruntime==' constraints-serving.txt && echo 'onnxruntime-gpu[cuda,cudnn]'; } > $(SERVING)/requirements.txt && \
	  $(PIP_SERVING) -c constraints-gpu.txt -r $(SERVING)/requirements.txt
else
INSTALL_SERVING = $(PIP_SERVING) -r constraints-serving.txt
endif
