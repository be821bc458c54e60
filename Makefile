# Everything runs in .venv, made from requirements.lock on first use and reused after that.
# Works with /bin/sh and GNU make; paths on the command line are relative to where make runs.

# Interpreters, tried in this order; `make PYTHON=/path/to/python` names another.
PYTHON = python3.11 python3
BIN = .venv/bin

# Set on the command line only: an unrelated TARGET in the environment must not steer a demo.
EVENTS =
SOURCE =
TARGET =
OUT = ./scalr-demo
DATA =
ARGS =
TIMES = 20
LOAD = 5
ROUNDS = 200
TOOLS = pip-audit==2.10.1 cyclonedx-bom==7.5.0 uv==0.13.9
# They reach the recipe through its environment, where a path with spaces stays one word.
export EVENTS SOURCE TARGET OUT DATA
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# A PYTHON named on the command line of another version than that of .venv has .venv made anew.
minor = $(shell $(1) -c 'import sys; print(*sys.version_info[:2])' 2>/dev/null)
ifeq ($(origin PYTHON),command line)
ifneq ($(call minor,.venv/bin/python),$(call minor,$(firstword $(PYTHON))))
OTHER = other-python
endif
endif

# Sets $$python to the first interpreter that is new enough and can make a virtual environment.
define find_python
python=; \
for name in $(PYTHON); do \
	if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		python=$$name; break; \
	fi; \
done; \
if [ -z "$$python" ]; then \
	echo "make: no Python 3.11 or newer as: $(PYTHON); install it or name it with PYTHON=/path/to/python" >&2; \
	exit 1; \
fi; \
if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	echo "make: $$python cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	exit 1; \
fi
endef

.DEFAULT_GOAL := help
.PHONY: help install other-python demo up down test lowest newest compare bench real truth nodes load
.PHONY: soak fuzz audit sbom licences lint types imports check format docs lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

install: .venv/.installed ## make .venv from the lock file; does nothing when it is up to date

other-python: ;

.venv/.installed: requirements.lock pyproject.toml $(OTHER)
	@$(find_python); \
	set -e; \
	if [ -n "$(OTHER)" ]; then rm -rf .venv; fi; \
	echo "Installing into .venv with $$python (some minutes the first time)"; \
	"$$python" -m venv .venv; \
	$(BIN)/python -m pip install -r requirements.lock; \
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .; \
	touch $@

demo: install ## the whole path on a planted world, or with EVENTS= SOURCE= TARGET= [OUT=] [ARGS=] on yours
	@set --; \
	if [ -n "$$EVENTS" ]; then set -- "$$@" --events "$$EVENTS"; fi; \
	if [ -n "$$SOURCE" ]; then set -- "$$@" --source "$$SOURCE"; fi; \
	if [ -n "$$TARGET" ]; then set -- "$$@" --target "$$TARGET"; fi; \
	exec $(BIN)/scalr demo --out "$$OUT" "$$@" $(ARGS)

test: install ## run all tests, two files at a time; ARGS="-k lake" narrows them
	$(BIN)/python -m pytest --quiet --durations=20 --numprocesses=2 --dist=loadfile --max-worker-restart=0 $(ARGS)

lowest: .lowest/.installed ## run all tests on the lowest versions that pyproject.toml allows; ARGS= as for test
	.lowest/bin/python -m pytest --quiet $(NOT_LOCKED) $(ARGS)

newest: .newest/.installed ## the same on the newest there were when .newest was made; remove it to have them afresh
	.newest/bin/python -m pytest --quiet $(NOT_LOCKED) $(ARGS)

# Licences are told of what is locked, which is not what is installed there.
NOT_LOCKED = --ignore=tests/unit/core/test_licences.py

# The lists are constraints, so that pip takes of them what it needs: a torch for CPUs needs no CUDA.
.lowest/.installed .newest/.installed: pyproject.toml .tools/.installed
	@$(find_python); \
	set -e; \
	case $(@D) in .lowest) resolution=lowest-direct ;; *) resolution=highest ;; esac; \
	"$$python" -m venv --clear $(@D); \
	.tools/bin/uv pip compile --quiet --no-header --extra dev --resolution "$$resolution" \
		--python $(@D)/bin/python --output-file $(@D)/constraints.txt pyproject.toml; \
	$(@D)/bin/python -m pip install --constraint $(@D)/constraints.txt --editable '.[dev]'; \
	touch $@

compare: install ## what our offline store and those of Feast answer, side by side
	@$(BIN)/python -m tests.contract.compare
	$(BIN)/python -m pytest --quiet tests/contract/feast_ray_store.py

bench: install ## speed: the as-of join beside others, training, generation; ARGS="--scale 0.1" makes it short
	$(BIN)/python tests/bench/asof.py $(ARGS)
	$(BIN)/python -m tests.bench.translator
	$(BIN)/python tests/bench/train_ray.py
	$(BIN)/python -m tests.bench.generate
	$(BIN)/python tests/bench/generate_ray.py
	$(BIN)/python tests/bench/lake.py $(ARGS)
	$(BIN)/python tests/bench/mixed.py $(ARGS)

real: install ## what translators and events are worth on the Amazon logs in the folder DATA=; hours
	@if [ -z "$$DATA" ]; then echo "make: name the folder of the logs with DATA=" >&2; exit 1; fi
	$(BIN)/python -m tests.bench.directions --data "$$DATA"
	$(BIN)/python -m tests.bench.ablation --data "$$DATA"
	$(BIN)/python -m tests.bench.curves --data "$$DATA" --out curves
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.verdict --data "$$DATA"
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.pointwise --data "$$DATA"
	$(BIN)/python tests/bench/pairs.py --data "$$DATA"

truth: install ## likelihood against the truth, and false alarms of the verdict, in simulated worlds
	$(BIN)/python -m tests.bench.truth
	$(BIN)/python -m tests.bench.truth --null --users 500,1000
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.false_alarms

nodes: install ## train, generate, backfill and join on clusters that lose nodes; minutes
	$(BIN)/python -m pytest --quiet tests/integration/*_ray_nodes.py tests/contract/asof_ray_nodes.py

load: install ## twenty readers and four publishers at once, LOAD= times as long as the tests; minutes
	SCALR_TEST_LOAD=$(LOAD) $(BIN)/python -m pytest --quiet --timeout=3600 \
		tests/integration/test_readers_publishers.py

soak: install ## a simulated year of ROUNDS= runs with late events, retirements, erasures, kills; hours
	SCALR_TEST_ROUNDS=$(ROUNDS) $(BIN)/python -m pytest --quiet --capture=no \
		tests/integration/simulated_year.py

fuzz: install ## hostile files, settings and checkpoints, by many more examples; TIMES=20
	SCALR_TEST_FUZZ=$(TIMES) $(BIN)/python -m pytest --quiet --timeout=3600 --numprocesses=2 -k hostile \
		tests/unit tests/integration/lake $(ARGS)

up: ## PostgreSQL, S3 and a Ray cluster in containers, with secrets of their own in infra/.env
	@infra/secrets.sh infra/.env
	docker compose --file infra/compose.yaml up --build --detach

down: ## end them; what they hold stays, unless ARGS=--volumes
	docker compose --file infra/compose.yaml --profile '*' down $(ARGS)

audit: .tools/.installed ## known weaknesses of what is locked; asks a service on the network
	@# --strict: where the service does not know a package, or does not answer, nothing was audited
	.tools/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip --strict --progress-spinner off

sbom: .tools/.installed ## write sbom.json: what is locked, as CycloneDX
	.tools/bin/cyclonedx-py requirements requirements.lock --output-format JSON --output-file sbom.json

licences: install ## list what is locked with its licences
	@$(BIN)/python -m tests.support.licences

# Apart from .venv: what looks at the lock is not in it.
.tools/.installed: Makefile
	@$(find_python); \
	set -e; \
	"$$python" -m venv .tools; \
	.tools/bin/python -m pip install --quiet $(TOOLS); \
	touch $@

lint: install ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## check types
	$(BIN)/mypy

imports: install ## check that imports go one way
	$(BIN)/lint-imports --no-logo

check: lint types imports ## lint, types and imports

format: install ## format the code and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install ## write the API reference into site/, from the docstrings; open site/index.html
	$(BIN)/python -W ignore -m tests.support.api_reference site

lock: ## resolve pyproject.toml afresh into requirements.lock
	@$(find_python); \
	set -e; \
	new=$$(mktemp -d); \
	trap 'rm -rf "$$new"' EXIT; \
	"$$python" -m venv "$$new/venv"; \
	"$$new/venv/bin/python" -m pip install --editable '.[dev]'; \
	"$$new/venv/bin/python" -m pip check; \
	"$$new/venv/bin/python" -m pip freeze --all --exclude-editable --exclude pip --exclude wheel > "$$new/frozen"; \
	{ \
		echo "# Exact versions of everything, written by 'make lock' from pyproject.toml."; \
		sed 's/+[A-Za-z0-9.]*$$//' "$$new/frozen"; \
	} > "$$new/lock"; \
	cp "$$new/lock" requirements.lock

clean: ## remove .venv, caches and build output; results of demos stay
	rm -rf .venv .lowest .newest .tools sbom.json site build dist scalr.egg-info .coverage \
		.hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find feature_repo scalr_ray tests training -type d -name __pycache__ -prune -exec rm -rf {} +
