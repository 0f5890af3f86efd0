# Two commands matter: `make demo` shows gleaner on the real Fashion-MNIST, `make test` runs every test.
# Both install what they need on Debian (through sudo when not root) and nothing else.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Queries are checked against the committed .sqlx/, whatever database the environment names.
export SQLX_OFFLINE := true
# A build from nothing gains nothing from incremental files and loses minutes to them.
ifdef CI
export CARGO_INCREMENTAL := 0
endif

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
SERVE_PACKAGES := postgresql dataset-fashion-mnist
# Whoever has Node.js from elsewhere keeps it: Debian's npm would not install beside it.
NODE_PACKAGES := $(shell command -v node >/dev/null && command -v npm >/dev/null || echo nodejs npm)
TEST_PACKAGES := $(SERVE_PACKAGES) chromium prometheus $(NODE_PACKAGES)

# $(call install,packages,why): installs the missing ones, and says so.
define install
	@missing=(); for package in $(1); do \
	  dpkg-query -W -f='$${Status}' "$$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$$package"); \
	done; \
	if [ $${#missing[@]} -gt 0 ]; then \
	  echo "installing $${missing[*]}"; \
	  $(SUDO) apt-get -qq update; \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y "$${missing[@]}" >/dev/null; \
	fi
endef

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

.PHONY: demo
demo: build ## Start a server on Fashion-MNIST, learn it and open the first batch
	$(call install,$(SERVE_PACKAGES))
	target/release/gleaner demo $(DEMO_FLAGS)

.PHONY: build
build: ## Build the release binary
	cargo build --release --locked

.PHONY: packages
packages:
	$(call install,$(TEST_PACKAGES))

PYTHON_CLIENTS := target/python-clients

.PHONY: python-packages
python-packages: ## Install what reads the OpenAPI document in tests: openapi-python-client and Schemathesis, into target/python-clients
	$(call install,python3 python3-venv)
	@mkdir -p target
	@cmp -s tests/clients/requirements.txt $(PYTHON_CLIENTS)/installed.txt || { \
	  python3 -m venv --clear $(PYTHON_CLIENTS) && \
	  $(PYTHON_CLIENTS)/bin/pip install --quiet --disable-pip-version-check --requirement tests/clients/requirements.txt && \
	  cp tests/clients/requirements.txt $(PYTHON_CLIENTS)/installed.txt; }

.PHONY: python-client
python-client: python-packages ## Generate a Python client from the OpenAPI document into target/gleaner_client, and import it
	cargo run --locked --quiet -- openapi > target/openapi.json
	cd target && python-clients/bin/openapi-python-client generate --meta none --fail-on-warning --overwrite \
	  --path openapi.json --output-path gleaner_client --config ../tests/clients/openapi-python-client.yaml
	cd target && python-clients/bin/python -c 'import gleaner_client.api.labeling.submit_labels; print("target/gleaner_client can be imported")'

.PHONY: test
test: packages python-packages check alerts ## Run every test: lints, units, database, the real binary, pages, generated clients
	npm --prefix tests/pages ci --no-fund --no-audit
	cargo test --locked

PYTORCH := target/pytorch

.PHONY: test-pytorch
test-pytorch: packages ## Load weights into the real torchvision and out of it again; installs PyTorch into target/pytorch
	$(call install,python3 python3-venv)
	@mkdir -p target
	test -x $(PYTORCH)/bin/python || python3 -m venv $(PYTORCH)
	$(PYTORCH)/bin/pip install --quiet --disable-pip-version-check --requirement tests/pytorch/requirements.txt
	cargo test --locked --test binary -- --ignored --nocapture pytorch

.PHONY: screenshots
screenshots: packages ## Take the README's pictures of the gleaner at GLEANER_TEST_URL (with GLEANER_TEST_TOKEN and GLEANER_TEST_PROJECT)
	npm --prefix tests/pages ci --no-fund --no-audit
	cd tests/pages && node screenshots.mjs ../../docs/images

.PHONY: check
check: ## Formatting, lints and documentation
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items --quiet

.PHONY: alerts
alerts: packages ## Try Prometheus' alerts on made-up series
	promtool test rules docker/prometheus/alerts.test.yml
	promtool check config docker/prometheus/prometheus.yml

LABEL_STUDIO := target/label-studio

.PHONY: test-label-studio
test-label-studio: build ## Go through a round with the real Label Studio, which it installs into target/label-studio (1 GB)
	$(call install,postgresql python3 python3-venv)
	test -x $(LABEL_STUDIO)/bin/python || python3 -m venv $(LABEL_STUDIO)
	$(LABEL_STUDIO)/bin/pip install --quiet --disable-pip-version-check --requirement tests/label_studio/requirements.txt
	python3 tests/label_studio/round.py --gleaner target/release/gleaner --label-studio $(LABEL_STUDIO)/bin/label-studio

.PHONY: deny
deny: ## Check the dependencies: known vulnerabilities, licences, duplicates, sources; needs cargo-deny and GitHub
	@command -v cargo-deny >/dev/null || { echo 'cargo-deny is missing: cargo install cargo-deny --locked'; exit 1; }
	cargo deny --locked check

.PHONY: bench
bench: ## Measure the kernels
	cargo bench --locked --bench kernels

.PHONY: bench-labels
bench-labels: ## Measure labels a second over HTTP: 32 labelers, one label a call and fifty a call (LABELS_FLAGS: --seconds, --labelers)
	$(call install,postgresql)
	cargo bench --locked --bench labels -- $(LABELS_FLAGS)

PEERS := target/bench-peers

.PHONY: bench-peers
bench-peers: ## Compare training and scoring with PyTorch and onnxruntime, which it installs into target/bench-peers
	$(call install,python3 python3-venv python3-dev g++)
	test -x $(PEERS)/bin/python || python3 -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check --requirement benches/peers/requirements.txt
	worker=$$(cargo bench --locked --bench peers --no-run --message-format=json \
	  | sed -n 's/.*"name":"peers".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1); \
	$(PEERS)/bin/python benches/peers/compare.py --worker "$$worker" --output target/bench-peers.json $(PEERS_FLAGS)

.PHONY: bench-selection
bench-selection: ## Compare core_set and badge with numpy over 50,000 x 512, choosing 1,000
	$(call install,python3 python3-venv)
	test -x $(PEERS)/bin/python || python3 -m venv $(PEERS)
	$(PEERS)/bin/python -c 'import numpy' 2>/dev/null || $(PEERS)/bin/pip install --quiet --disable-pip-version-check numpy
	worker=$$(cargo bench --locked --bench selection --no-run --message-format=json \
	  | sed -n 's/.*"name":"selection".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1); \
	$(PEERS)/bin/python benches/peers/selection.py --worker "$$worker" $(SELECTION_FLAGS)

.PHONY: bench-moco
bench-moco: build ## Hold MoCo to one in PyTorch on 10,000 images of Fashion-MNIST; it installs torch into target/bench-peers
	$(call install,python3 python3-venv dataset-fashion-mnist)
	test -x $(PEERS)/bin/python || python3 -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check --requirement benches/peers/requirements-moco.txt
	$(PEERS)/bin/python benches/peers/moco.py --gleaner target/release/gleaner $(MOCO_FLAGS)

# Each figure of the paper: its strategies beside chance and margin, five rounds of 1,000, seeds paired. The sizes are what two cores finish in
# three hours; FIGURE_FLAGS replaces any of them, as on a GPU: --backbone resnet18 --pretext-epochs 15 --seeds 5. A second call goes on.
FIGURES ?= target/figures
FIGURE_STRATEGIES := deep_active,entropy,pretext,margin,random
# $(call figure,data set,pretext task,its size)
define figure
	target/release/gleaner simulate --dataset $(1) --pretext $(2) --strategies $(FIGURE_STRATEGIES) --query 1000 --rounds 5 $(3) \
	  --out $(FIGURES)/$(1)-$(2) $(FIGURE_FLAGS)
endef
CIFAR10_SOURCE = --source $(or $(CIFAR10),$(error say where CIFAR-10 lies: make $@ CIFAR10=cifar-10-binary.tar.gz))

.PHONY: figure-fashion-mnist-rotation
figure-fashion-mnist-rotation: build ## Draw the paper's figure of Fashion-MNIST with rotation
	$(call install,dataset-fashion-mnist)
	$(call figure,fashion-mnist,rotation,--pretext-epochs 2 --seeds 5)

.PHONY: figure-fashion-mnist-moco
figure-fashion-mnist-moco: build ## Draw the paper's figure of Fashion-MNIST with MoCo
	$(call install,dataset-fashion-mnist)
	$(call figure,fashion-mnist,moco,--pretext-epochs 5 --seeds 3)

.PHONY: figure-cifar10-rotation
figure-cifar10-rotation: build ## Draw the paper's figure of CIFAR-10 with rotation; CIFAR10=path
	$(call figure,cifar10,rotation,$(CIFAR10_SOURCE) --pretext-epochs 5 --seeds 3)

.PHONY: figure-cifar10-moco
figure-cifar10-moco: build ## Draw the paper's figure of CIFAR-10 with MoCo; CIFAR10=path
	$(call figure,cifar10,moco,$(CIFAR10_SOURCE) --pretext-epochs 5 --seeds 3)
