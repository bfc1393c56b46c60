# Penstock: `make demo` shows the whole path of a push, `make test` proves it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 3
DEBIAN := bubblewrap chromium fonts-dejavu-core mariadb-server \
  busybox-static conntrack containerd containernetworking-plugins etcd-server iptables iproute2 mmdebstrap openssl runc
PROGRAMS := bwrap chromium mariadbd busybox conntrack containerd /usr/lib/cni/ptp etcd iptables ip mmdebstrap openssl runc

# Tests start hundreds of processes: what they import is compiled once.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test kubernetes cluster check bench soak constraints clean

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/penstock: pyproject.toml constraints.txt
	@echo "==> making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Penstock needs Python 3.11 or newer; try: make demo PYTHON=python3.12"; exit 1; }
	@command -v git >/dev/null || { echo "Penstock needs git: install the package git"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@echo "==> installing Penstock and what it runs on"
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[pipeline]'
	@touch $@

$(VENV)/.test: $(BIN)/penstock
	@echo "==> installing what the tests need"
	@(PATH="$$PATH:/usr/sbin"; for program in $(PROGRAMS); do command -v $$program || exit 1; done) >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update && apt-get install --yes --no-install-recommends $(DEBIAN); } >/dev/null 2>&1 \
	  || echo "not all installed: $(DEBIAN); tests that need them are skipped, and under CI they are red"
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

install: $(BIN)/penstock ## .venv with the penstock command
	@echo "installed: $(BIN)/penstock"

demo: $(BIN)/penstock ## push a sample app three times and look at it (ONCE=1: check it and clean up)
	@$(BIN)/penstock demo $(if $(ONCE),--once)

# Debian has no Kubernetes: root builds one, which takes minutes the first time and nothing from then on.
kubernetes: $(VENV)/.test
	@[ "$$(id -u)" != 0 ] || [ -n "$$PENSTOCK_TEST_KUBECONFIG" ] || $(BIN)/python tests/plugins/kubernetes_programs.py \
	  || echo "no Kubernetes: tests that need it are skipped, and under CI they are red"

test: $(VENV)/.test kubernetes ## install what the tests need and run them all (JOBS=3 at a time)
	@$(MAKE) --no-print-directory check
	@echo "==> running the tests"
	@$(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadgroup || { code=$$?; [ $$code = 1 ] || exit $$code; \
	  echo "==> once more, alone: what failed beside others, which a busy machine may have made late"; \
	  $(BIN)/python -m pytest --last-failed --last-failed-no-failures=none; }

cluster: kubernetes ## a Kubernetes on this machine until Ctrl-C (see tests/README.md)
	@$(BIN)/python tests/cluster/stay.py

check: $(VENV)/.test ## format, lint, types and layers
	@echo "==> checking format, lint, types and layers"
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet . && $(BIN)/mypy && $(BIN)/lint-imports

$(VENV)/.bench: $(VENV)/.test
	@echo "==> installing what the benchmarks compare with"
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@touch $@

bench: $(VENV)/.bench ## measure (see tests/benchmarks/README.md)
	@code=0; for program in switch outlive pipeline history pool data_service; do \
	  $(BIN)/python tests/benchmarks/$$program.py || code=1; done; exit $$code

soak: kubernetes ## kill engine, clusters and databases again and again, and ask a million times meanwhile (fifty minutes)
	@for program in kills clusters queries states requests; do $(BIN)/python tests/soak/$$program.py || exit 1; done

constraints: $(VENV)/.test ## write down the versions that are installed now
	@$(BIN)/pip freeze --exclude-editable > constraints.txt

clean: ## remove what was made here
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
