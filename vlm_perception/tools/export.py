"""Export a model's vision tower to ONNX, compare its answers with the original's, and keep it if they agree."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlm_perception.perception.source import sample
from vlm_perception.questions import Choice, ClosedQuestion
from vlm_perception.training.prompts import LABEL_PROMPT, WAY_PROMPT, WHERE_PROMPT

if TYPE_CHECKING:
    from vlm_perception.models.onnx_export import Asked

LABELS = ("clear", "obstacle", "wall", "doorway", "corridor")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="nano, or a model folder")
    parser.add_argument("output", type=Path, help="new folder, to be used as a model folder")
    parser.add_argument("--int8", action="store_true", help="quantise, with the ranges seen on half of the images")
    parser.add_argument(
        "--frames",
        type=Path,
        help="folder of images or video from your own camera; nano needs none and uses rendered rooms",
    )
    parser.add_argument(
        "--images", type=int, default=200, help="number of them to use, spread evenly (default: %(default)s)"
    )
    parser.add_argument(
        "--labels", nargs="+", default=LABELS, help="labels that you will use; the answers are compared with them"
    )
    parser.add_argument(
        "--prompt", default=LABEL_PROMPT, help="the question to which --labels are the answers (default: %(default)r)"
    )
    parser.add_argument("--image-size", type=int, default=0, help="as the parameter image_size; it cannot change later")
    parser.add_argument(
        "--opset",
        type=int,
        default=20,
        help="version of ONNX's operators: 20 runs everywhere; 23 is faster, on CPUs only (default: %(default)s)",
    )
    parser.add_argument(
        "--least-agreement",
        type=float,
        default=0.99,
        help="if a smaller share of answers equals the original's, nothing is kept (default: %(default)s)",
    )


def main(arguments: argparse.Namespace) -> int:
    """Print the comparison with the original; return 1 and keep no folder if the export does not agree."""
    from vlm_perception.models.base import ModelError
    from vlm_perception.models.onnx_export import export

    try:
        calibration, check = images(arguments)
        report = export(
            arguments.model,
            arguments.output,
            check,
            calibration if arguments.int8 else (),
            image_size=arguments.image_size,
            opset=arguments.opset,
            least_agreement=arguments.least_agreement,
        )
    except (ModelError, OSError, ValueError) as error:
        print(f"vlm_perception export: {error}")
        return 1
    before, after = report.tower_bytes_before / 2**20, report.tower_bytes / 2**20
    print(f"{arguments.output}: vision tower {before:.1f} MiB in float32, {after:.1f} MiB in {report.precision}")
    print(
        f"{report.agreement:.2%} of {report.asked} answers about {len(check)} images are the original's; largest "
        f"difference of a probability: {report.largest_difference:.3g}"
    )
    return 0


def images(arguments: argparse.Namespace) -> tuple[list[np.ndarray], Asked]:
    """Return images for the calibration, and others for the comparison, with their questions.

    Every other image of a folder or a video is for the calibration. Raises ValueError without images.
    """
    if arguments.images < 2:
        raise ValueError(f"--images is {arguments.images}, expected at least 2")
    if arguments.frames:
        found = sample(arguments.frames, arguments.images, recursive=True)
        if len(found) < 2:
            raise ValueError(f"{arguments.frames} has {len(found)} images, expected at least 2")
        questions = [Choice(arguments.prompt, tuple(arguments.labels))]
        return found[::2], [(image, questions) for image in found[1::2]]
    if arguments.model != "nano":
        raise ValueError("--frames is not given: a folder of images or a video as your camera sees them")
    from vlm_perception.training.dataset import CALIBRATION_SEEDS, TEST_SEEDS

    half = arguments.images // 2
    calibration = islice(rendered(CALIBRATION_SEEDS), half if arguments.int8 else 0)
    return [image for image, _ in calibration], list(islice(rendered(TEST_SEEDS), half))


def rendered(seeds: range) -> Iterator[tuple[np.ndarray, list[ClosedQuestion]]]:
    """Yield images of rooms, with the questions about each: the label, the clear way, and the places of objects."""
    from vlm_perception.simulation import truth
    from vlm_perception.training.figures import frames, targets

    for seed in seeds:
        for frame in frames(seed):
            asked: list[ClosedQuestion] = [Choice(LABEL_PROMPT, truth.LABELS), Choice(WAY_PROMPT, truth.WAYS)]
            names = targets(frame, seed)
            yield frame.image, [*asked, *(Choice(WHERE_PROMPT.format(target=n), truth.WHERE) for n in names)]
