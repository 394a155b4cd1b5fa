# CI calls `make check`, `make test`, `make slow`, and where it can, `make browser` and `make clients`. `make help` lists
# the targets.

PYTHON ?= python3
# The index on which pip finds a CPU build of torch: make serve TORCH_INDEX=<the CPU wheel index that pytorch.org names>
TORCH_INDEX ?=

pip = .venv/bin/python -m pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
project = $(pip) --no-build-isolation --editable

AXE := axe-core@4.14.1
CLIENTS := triton kserve mlserver openapi
TYPESCRIPT := openapi-typescript@7.13.0 openapi-fetch@0.17.0 typescript@5.9.3 @types/node@20.19.25
npm := npm install --no-save --silent --fetch-retries 1 --fetch-timeout 20000 --prefix

# The tests start hundreds of processes; without files of bytecode each compiles every module again.
unexport PYTHONDONTWRITEBYTECODE

# `make test` has one process more than the two cores of CI, as many tests wait for other processes.

.PHONY: help serve test slow browser clients check bench chaos soak containers cluster format docs lock clean

help: ## list the targets
	@awk -F ':.* ## ' '/^[a-z]+:.* ## / {printf "%-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: .venv/serving ## serve the shipped model on port 8000
	.venv/bin/vae serve $(ARGS)

test: .venv/developing ## run the fast tests on the CPU; make test ARGS=--device=cuda
	.venv/bin/python -m pytest --numprocesses 3 --dist worksteal $(ARGS)

slow: .venv/developing ## run the tests that wait for real deadlines or exports
	.venv/bin/python -m pytest --numprocesses 3 --dist worksteal -m slow $(ARGS)

browser: .venv/developing ## test the page in Chromium, which must be installed; axe-core comes by npm
	[ -d .venv/npm ] || ! command -v npm > /dev/null || $(npm) .venv/npm $(AXE) || true
	.venv/bin/python -m pytest --numprocesses 2 --dist worksteal -m browser tests/e2e/browser $(ARGS)

clients: .venv/developing .venv/clients/installed ## test clients of others, in environments of their own
	.venv/bin/python -m pytest -m clients tests/e2e/clients $(ARGS)

check: .venv/developing ## check format, lint, types and imports between packages
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

bench: .venv/developing benchmarks/.venv/peers ## measure the service beside other frameworks, needs wrk; ARGS='--rounds 1'
	.venv/bin/python -m benchmarks $(ARGS)

chaos: .venv/developing ## test failures under load, two minutes
	.venv/bin/python -m pytest -m chaos tests/stress $(ARGS)

soak: .venv/developing ## test memory over 200,000 requests, minutes; ARGS=--requests=20000
	.venv/bin/python -m pytest -m soak tests/stress $(ARGS)

containers: .venv/developing ## test the compose files under load, needs Docker; options in tests/deploy/conftest.py
	.venv/bin/python -m pytest -m docker tests/deploy $(ARGS)

cluster: .venv/clustering ## test the service on a local Ray under load, 15 minutes; ARGS='--kills 3'
	.venv/bin/python -m pytest -m ray tests/deploy $(ARGS)

format: .venv/developing ## format the sources
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

docs: .venv/developing ## generate docs/configuration.md and docs/metrics.md
	.venv/bin/python docs/generate.py

# The CPU build has the shortest list; the GPU build pins its own libraries. Its name is left open: +cpu comes off.
lock: .venv/developing ## pin all dependencies again
	.venv/bin/pip-compile --quiet --upgrade --upgrade-package torch==2.13.0 --all-extras --strip-extras --no-header \
		--no-annotate --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --allow-unsafe \
		--output-file constraints.txt pyproject.toml
	sed -i -e 's/^\(torch==[0-9.]*\)+cpu/\1/' -e '/@ file:/d' constraints.txt

.venv/serving: pyproject.toml constraints.txt
	@echo "installing the service into .venv: torch and other packages, some minutes the first time"
	$(PYTHON) -m venv .venv
	$(pip) hatchling editables
	$(project) .
	touch $@

.venv/developing: .venv/serving
	@echo "installing the development tools into .venv"
	$(project) '.[dev]'
	touch $@

benchmarks/.venv/peers: benchmarks/requirements.txt
	@echo "installing other frameworks into benchmarks/.venv, some minutes"
	$(PYTHON) -m venv benchmarks/.venv
	$(subst .venv/bin,benchmarks/.venv/bin,$(subst constraints.txt,$<,$(pip))) --requirement $<
	touch $@

.venv/clients/%/installed: tests/e2e/clients/%.txt
	@echo "installing $* into $(@D)"
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --requirement $<
	touch $@

.venv/clients/installed: $(CLIENTS:%=.venv/clients/%/installed)
	! command -v npm > /dev/null || $(npm) .venv/clients/npm $(TYPESCRIPT) || true
	touch $@

.venv/clustering: .venv/developing
	@echo "installing Ray into .venv"
	$(project) '.[ray]'
	touch $@

clean: ## remove the environment and all caches
	rm -rf .venv benchmarks/.venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
