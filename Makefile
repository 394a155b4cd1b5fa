# The one definition of clean: CI and pre-commit call `make check` and `make test`, and nothing else.

PYTHON ?= python3
# Where pip finds a CPU build of torch: make serve TORCH_INDEX=<the CPU wheel index that pytorch.org names>
TORCH_INDEX ?=

pip = .venv/bin/python -m pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
project = $(pip) --no-build-isolation --editable

.PHONY: serve test check bench containers cluster format docs lock clean

serve: .venv/serving ## serve the shipped model on port 8000
	.venv/bin/vae serve $(ARGS)

test: .venv/developing ## every law, on the CPU; make test ARGS=--device=cuda
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

check: .venv/developing ## format, lint, types, who may import whom
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

bench: .venv/developing benchmarks/.venv/peers ## the service beside its peers, needs wrk; make bench ARGS='--rounds 1'
	.venv/bin/python -m benchmarks $(ARGS)

containers: .venv/developing ## the compose files under load, on a machine with Docker; ARGS=--help lists the options
	.venv/bin/python deploy/checks/containers.py $(ARGS)

cluster: .venv/clustering ## the service on a local Ray under load
	.venv/bin/python deploy/checks/cluster.py $(ARGS)

format: .venv/developing ## bring the sources into form
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

docs: .venv/developing ## generate docs/configuration.md and docs/metrics.md
	.venv/bin/python docs/generate.py

# The CPU build has the shortest list; the GPU build pins its own libraries. Its name is left open: +cpu comes off.
lock: .venv/developing ## pin every dependency again
	.venv/bin/pip-compile --quiet --upgrade --upgrade-package torch==2.13.0 --all-extras --strip-extras --no-header \
		--no-annotate --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --allow-unsafe \
		--output-file constraints.txt pyproject.toml
	sed -i -e 's/^\(torch==[0-9.]*\)+cpu/\1/' -e '/@ file:/d' constraints.txt

.venv/serving: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(pip) hatchling editables
	$(project) .
	touch $@

.venv/developing: .venv/serving
	$(project) '.[dev]'
	touch $@

benchmarks/.venv/peers: benchmarks/requirements.txt
	$(PYTHON) -m venv benchmarks/.venv
	$(subst .venv/bin,benchmarks/.venv/bin,$(subst constraints.txt,$<,$(pip))) --requirement $<
	touch $@

.venv/clustering: .venv/developing
	$(project) '.[ray]'
	touch $@

clean: ## forget the environment and every cache
	rm -rf .venv benchmarks/.venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
