"""Search in many rooms with the real nodes, side by side with a baseline controller: figures, a table, images.

In every room both look for a thing that is there and for one that is not. Rooms go on in parallel, each with nodes of
its own in a ROS domain of its own, and all in real time: the nodes' time-outs must hold on clocks that nobody can
stretch. The last line is one line of JSON; `summary.summarize` says what its keys mean.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

TIME_LIMIT = 120.0  # [s]
TIME_FOR_DELAY = 60.0  # [s] more for each second of delay


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rooms", type=int, default=20, help="how many rooms (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first room (default: %(default)s)")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that every answer takes longer (default: 0)")
    parser.add_argument(
        "--time-limit",
        type=float,
        help="seconds for a present target; for an absent one a quarter (default: 120, and 60 a second of delay)",
    )
    parser.add_argument("--skip", nargs="*", default=[], choices=("baseline", "absent"), help="what to leave out")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="rooms at a time (default: one for each core)"
    )
    parser.add_argument(
        "--reserved",
        action="store_true",
        help="allow seeds from 1,000,000 on; these rooms are kept for a last judgement",
    )
    parser.add_argument("--model", default="nano", help="nano, or a model folder (default: %(default)s)")
    parser.add_argument("--domain", type=int, help="first ROS domain of the nodes (default: free ones from 10 to 39)")
    parser.add_argument("--output", type=Path, default=Path("output/evaluation"), help="folder of the results")


def main(arguments: argparse.Namespace) -> int:
    """0 when everything was measured, however well the robot did; 2 for wrong arguments, 1 when something broke."""
    from vlm_perception.models.base import ModelError
    from vlm_perception.models.loader import check_folder
    from vlm_perception.tools.environment import end_as_if_interrupted, free_domains, prepare_environment
    from vlm_perception.tools.output import check_output

    if problem := wrong(arguments):
        print(f"vlm_perception evaluate: {problem}", file=sys.stderr)
        return 2
    jobs = min(arguments.jobs, arguments.rooms)
    try:
        check_folder(arguments.model)
        check_output(arguments.output)
        domains = (
            free_domains(jobs) if arguments.domain is None else [arguments.domain + number for number in range(jobs)]
        )
    except (ModelError, OSError, RuntimeError) as error:
        print(f"vlm_perception evaluate: {error}", file=sys.stderr)
        return 1
    prepare_environment(domains[0])
    end_as_if_interrupted()
    from vlm_perception.tools.evaluation import BASELINE, OURS, Evaluation, Setting

    setting = Setting(
        delay=arguments.delay,
        time_limit=arguments.time_limit or TIME_LIMIT + TIME_FOR_DELAY * arguments.delay,
        controllers=(OURS,) if BASELINE in arguments.skip else (OURS, BASELINE),
        with_absent="absent" not in arguments.skip,
        model=arguments.model,
    )
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.rooms)
    evaluation = Evaluation(setting, seeds, arguments.output)
    code = evaluation.run(domains)
    evaluation.report()
    return code


def wrong(arguments: argparse.Namespace) -> str | None:
    """Return what is wrong with the arguments, else None."""
    from vlm_perception.training.dataset import RESERVED_FROM

    first, last = arguments.first_seed, arguments.first_seed + arguments.rooms - 1
    limit = arguments.time_limit
    if arguments.rooms < 1 or arguments.jobs < 1:
        return f"{arguments.rooms} rooms, {arguments.jobs} at a time: expected at least 1"
    if first < 0 or last >= 2**32:
        return f"the rooms {first} to {last} are no seeds, expected 0 to {2**32 - 1}"
    if last >= RESERVED_FROM and not arguments.reserved:
        return (
            f"rooms from {RESERVED_FROM} on are kept for judging what was made without them: expected seeds below, "
            "or --reserved (make: ARGS=--reserved)"
        )
    if not 0.0 <= arguments.delay <= 60.0:
        return f"the delay is {arguments.delay} s, expected 0 to 60"
    if limit is not None and not (math.isfinite(limit) and limit > 0.0):
        return f"the time limit is {limit} s, expected more than 0"
    return None
