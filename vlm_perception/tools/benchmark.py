"""Measure answers and time of models in several precisions and resolutions, beside the stock `generate`.

The results are report.md, results.csv, results.json and chart.png. The exit status is 0 if everything was measured, 1
if something could not be measured, and 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vlm_perception.models.remote.endpoint import is_address
from vlm_perception.tools.benchmarking import PRECISIONS, QUESTIONS, Measured, Setup, measure
from vlm_perception.tools.child import Child, ChildError

MAX_ROUNDS = 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models",
        nargs="+",
        default=["nano"],
        metavar="MODEL",
        help="nano, folders or servers; the first is the reference of the comparison (default: %(default)s)",
    )
    parser.add_argument(
        "--precisions",
        nargs="+",
        default=["float32", "bfloat16"],
        choices=PRECISIONS,
        metavar="PRECISION",
        help=f"some of {', '.join(PRECISIONS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--image-sizes",
        nargs="+",
        type=int,
        default=[0],
        metavar="PIXELS",
        help="edge lengths of the model's square input image; 0: its own (default: %(default)s)",
    )
    parser.add_argument(
        "--questions",
        nargs="+",
        default=list(QUESTIONS),
        choices=list(QUESTIONS),
        metavar="KIND",
        help=f"some of {', '.join(QUESTIONS)} (default: all)",
    )
    parser.add_argument("--images", type=Path, help="a folder of images, or a video (default: rendered rooms)")
    parser.add_argument("--rounds", type=int, default=24, help="measured calls of each kind (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("output/benchmark"), help="folder of the results (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> int:
    """Measure one setup after the other, print the problems, and write the results."""
    from vlm_perception.tools import benchmark_report
    from vlm_perception.tools.benchmark_images import find_images
    from vlm_perception.tools.machine import describe

    try:
        if not 1 <= arguments.rounds <= MAX_ROUNDS:
            raise ValueError(f"--rounds is {arguments.rounds}, expected 1 to {MAX_ROUNDS}")
        planned = list(setups(arguments))
        machine = describe()
        images, about = find_images(arguments.images, min(arguments.rounds, 100))
        arguments.output.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"vlm_perception benchmark: {error}", file=sys.stderr)
        return 2
    measured, problems = measure_all(planned, arguments.questions, images, arguments.rounds)
    rows = benchmark_report.rows(measured)
    problems += [
        f"{row.model}, {row.precision}, {row.question} {row.way}: {row.problem}" for row in rows if row.problem
    ]
    facts = {
        "machine": machine,
        "images": about,
        "rounds": arguments.rounds,
        "models": [{"setup": str(one.setup), "load_seconds": one.load_seconds, **one.facts} for one in measured],
        "problems": problems,
    }
    if measured:
        files = benchmark_report.write(arguments.output, rows, facts)
        print(benchmark_report.markdown(rows, facts))
        print(f"written: {', '.join(map(str, files))}")
    for problem in problems:
        print(f"vlm_perception benchmark: {problem}", file=sys.stderr)
    return 1 if problems else 0


def setups(arguments: argparse.Namespace) -> Iterator[Setup]:
    """Return every model in every precision at every resolution; a server has only its own. Raises ValueError."""
    for model in dict.fromkeys(arguments.models):
        is_server = is_address(model)
        for precision in ["auto"] if is_server else dict.fromkeys(arguments.precisions):
            for size in [0] if is_server else dict.fromkeys(arguments.image_sizes):
                setup = Setup(model, precision, size, arguments.device)
                setup.options()
                yield setup


def measure_all(
    planned: Sequence[Setup], kinds: Sequence[str], images: Sequence[np.ndarray], rounds: int
) -> tuple[list[Measured], list[str]]:
    """Measure with a progress bar; return the measurements, and the reasons for missing ones."""
    measured, problems = [], []
    bar = tqdm(total=len(planned) * rounds, unit="round", disable=None)
    for number, setup in enumerate(planned):
        bar.set_description(f"{setup!s:.60}")
        try:
            with Child(measure, setup, list(kinds), list(images), rounds) as child:
                for message in child.messages():
                    if isinstance(message, int):
                        bar.update(number * rounds + message - bar.n)
                    else:
                        measured.append(message)
        except ChildError as error:
            problems.append(f"{setup}: {error}")
    bar.close()
    return measured, problems
