"""Measure a model in rooms that it was not trained on: a table, a confusion matrix, the figures of the model card."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="nano", help="nano, or a model folder (default: %(default)s)")
    parser.add_argument("--rooms", type=int, default=150, help="rooms, each seen from 12 places (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/figures"), help="where the images go")


def main(arguments: argparse.Namespace) -> int:
    """Print the figures as a table and as one line of JSON, and draw the confusion matrix."""
    import matplotlib  # noqa: F401 - report a missing package before the work begins

    from vlm_perception.models.base import ModelError
    from vlm_perception.models.loader import load_model
    from vlm_perception.tools.output import check_output
    from vlm_perception.training.dataset import TEST_SEEDS
    from vlm_perception.training.figures import draw_confusion, measure, table

    if not 1 <= arguments.rooms <= len(TEST_SEEDS):
        print(f"vlm_perception figures: {arguments.rooms} rooms, expected 1 to {len(TEST_SEEDS)}")
        return 2
    try:
        check_output(arguments.output)
        model = load_model(arguments.model)
    except (ModelError, OSError) as error:
        print(f"vlm_perception figures: {error}")
        return 1
    tally = measure(model, TEST_SEEDS[: arguments.rooms])
    image = arguments.output / "confusion.png"
    draw_confusion(tally, image)
    print(table(tally))
    print(f"confusion matrix: {image}")
    print(json.dumps({what: round(share, 4) for what, share in tally.metrics().items()}))
    return 0
