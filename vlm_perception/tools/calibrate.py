"""Measure the quality of a model's probabilities, before and after a calibration that is fitted for it."""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="nano", help="nano, or a model folder (default: %(default)s)")
    parser.add_argument(
        "--rooms", type=int, default=150, help="rooms to fit on, and as many to judge by (default: %(default)s)"
    )
    parser.add_argument("--write", action="store_true", help="write decision.json into the model's folder")


def main(arguments: argparse.Namespace) -> int:
    """Print the table and, as one line of JSON, the useful part of the calibration; write it with --write."""
    from vlm_perception.models.base import ModelError
    from vlm_perception.models.calibration import TYPES
    from vlm_perception.models.loader import check_folder, load_model
    from vlm_perception.tools.output import check_output
    from vlm_perception.training.calibrate import collect, fit, keep_what_helps, table
    from vlm_perception.training.dataset import CALIBRATION_SEEDS, TEST_SEEDS

    def say(words: str) -> None:
        print(words, flush=True)

    if not 1 <= arguments.rooms <= len(CALIBRATION_SEEDS):
        say(f"vlm_perception calibrate: {arguments.rooms} rooms, expected 1 to {len(CALIBRATION_SEEDS)}")
        return 2
    try:
        folder = check_folder(arguments.model)[0] if arguments.write else None
        if folder:
            check_output(folder)
        model = load_model(arguments.model, temperatures=(1.0,) * len(TYPES), empty_picture=(0.0,) * len(TYPES))
        fitted_on = collect(model, CALIBRATION_SEEDS[: arguments.rooms])
        judged = collect(model, TEST_SEEDS[: arguments.rooms])
        calibration = keep_what_helps(fit(fitted_on), judged)
        say(table(fitted_on, judged))
        if folder:
            say(f"written: {calibration.save(folder)}")
    except (ModelError, OSError) as error:
        say(f"vlm_perception calibrate: {error}")
        return 1
    say(json.dumps({"temperatures": calibration.temperatures, "empty_picture": calibration.empty_picture}))
    return 0
