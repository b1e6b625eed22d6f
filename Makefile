.PHONY: install test fast lint types train reliability ci

install:        ## everything, editable, in the active environment
	pip install -e ".[all,test,dev]"

test:           ## all tests
	pytest

fast:           ## the tests that take seconds
	pytest -m "not slow"

lint:           ## style, mended where it can be
	ruff check --fix . && ruff format .

types:          ## static types of the core
	mypy

train:          ## the first command
	python -m core.train modality=image

reliability:    ## kills, half an hour of cycles in one process, hostile files, and 10,000 broken ones of each kind
	python -m benchmarks.kills
	python -m benchmarks.soak
	python -m benchmarks.hostile
	python -m benchmarks.loader_memory
	ALL_DEATHS=1 pytest tests/test_dying_ranks.py
	FUZZ_EXAMPLES=10000 pytest tests/test_fuzz.py

ci:             ## what a change must pass, in a fresh environment
	.ci/run
