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

reliability:    ## kills real training processes, and more that takes minutes
	python -m benchmarks.kills

ci:             ## what a change must pass, in a fresh environment
	.ci/run
