# "make test" and "make run" are all there is to set up: each makes the virtual environment it needs.
# Only a POSIX shell, make and a Python of at least 3.11 are assumed.

VENV = .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
REPORTS = build/reports
PYTHONS = python3 python3.14 python3.13 python3.12 python3.11

# What a suite may take; one that takes longer has failed.
BUDGET_unit = 8m
BUDGET_contracts = 6m
BUDGET_engines = 6m
BUDGET_whole = 12m
BUDGET_slow = 10m

# These start processes as well.
OUTSIDE = tests/whole tests/test_packaging.py tests/test_cleanliness.py

ARGS_unit = tests $(OUTSIDE:%=--ignore=%) --ignore=tests/contracts --ignore=tests/engines -m "not slow" -n 2
ARGS_contracts = tests/contracts -m "not slow" -n 2 --dist loadfile
ARGS_engines = tests/engines -m "not slow" -n 2 --dist loadfile
ARGS_whole = $(OUTSIDE) -m "not slow" -n 2 --dist loadfile
ARGS_slow = tests -m slow

SUITES = unit contracts engines whole
CODE = datahub twisted tests $(wildcard examples benchmarks)

.PHONY: help test run lint unit contracts engines whole slow coverage openapi bench clean

help: ## say what can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile

test: $(STAMP) ## check the code, run all suites (SLOW=1 make test: the slow tests as well), show the coverage
	@rm -rf $(REPORTS) && mkdir -p $(REPORTS)
	@failed=0; \
	for step in lint $(SUITES) $${SLOW:+slow} coverage; do \
		$(MAKE) --no-print-directory $$step || failed=1; \
	done; \
	$(BIN)/python tests/total.py $(REPORTS) $(SUITES) $${SLOW:+slow} || failed=1; \
	exit $$failed

run: $(STAMP) ## start a hub on 127.0.0.1:8080 with a small archive in ./var and deliver one product
	@exec $(BIN)/python examples/first_delivery.py

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

unit contracts engines whole slow: $(STAMP) ## one suite of the tests
	@mkdir -p $(REPORTS) && rm -f $(REPORTS)/$@.xml $(REPORTS)/coverage.$@*
	@echo "== $@ (at most $(BUDGET_$@))"
	@COVERAGE_FILE=$(REPORTS)/coverage.$@ timeout -k 10s $(BUDGET_$@) $(BIN)/python -m pytest \
		--cov --cov-report= --cov-fail-under=0 --junitxml=$(REPORTS)/$@.xml $(ARGS_$@) \
		|| { status=$$?; test $$status = 124 && echo "$@: over its budget of $(BUDGET_$@)"; exit $$status; }

coverage: $(STAMP) ## the coverage of all suites that were run
	@COVERAGE_FILE=$(REPORTS)/.coverage $(BIN)/coverage combine --quiet --keep $(REPORTS)/coverage.*
	@COVERAGE_FILE=$(REPORTS)/.coverage $(BIN)/coverage report

openapi: $(STAMP) ## write docs/openapi.json anew
	$(BIN)/python examples/describe_api.py > docs/openapi.json

BENCHMARKS = submissions small_products large_product start claims messages sandbox connections events callback jobs carts gridftp fts

bench: $(STAMP) ## the benchmarks, as ratios against peers measured in the same run
	@for each in $(BENCHMARKS); do $(BIN)/python benchmarks/$$each.py || exit 1; done

clean: ## remove what was made, but not ./var
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
	find datahub tests twisted -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): setup.cfg pyproject.toml
	@for python in $(PYTHONS); do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	test -n "$$found" || { echo "datahub needs Python 3.11 or newer; none of $(PYTHONS) is" >&2; exit 1; }; \
	$$found -m venv $(VENV) || { echo "no virtual environment: on Debian, apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@
