"""Search in many rooms, side by side with a baseline controller: figures, a table, images.

In every room both look for a thing that is there and for one that is not. Rooms go on in parallel, each on a simulated
clock; or in real time, each with the real nodes in a ROS domain of its own. The last line is one line of JSON;
`summary.summarize` says what its keys mean.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from pathlib import Path

TIME_LIMIT = 120.0  # [s]
TIME_FOR_DELAY = 60.0  # [s] more for each second of delay


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rooms", type=int, default=20, help="how many rooms (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first room (default: %(default)s)")
    parser.add_argument(
        "--kind", default="room", help="kind of rooms: room, or chambers that doorways connect (default: %(default)s)"
    )
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that every answer takes longer (default: 0)")
    parser.add_argument(
        "--time-limit", type=float, help="seconds for a present target (default: 120, and 60 a second of delay)"
    )
    parser.add_argument(
        "--absent-time-limit", type=float, help="seconds for an absent target (default: a quarter of the time limit)"
    )
    parser.add_argument(
        "--real-time",
        action="store_true",
        help="run the real nodes in real time, instead of their parts on a simulated clock",
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
    parser.add_argument("--domain", type=int, help="first ROS domain of --real-time (default: free ones from 10 to 39)")
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
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.rooms)
    jobs = min(arguments.jobs, arguments.rooms)
    domains: list[int] = []
    try:
        check_folder(arguments.model)
        check_output(arguments.output)
        if arguments.real_time:
            first = arguments.domain
            domains = free_domains(jobs) if first is None else list(range(first, first + jobs))
            prepare_environment(domains[0])
    except (ModelError, OSError, RuntimeError) as error:
        print(f"vlm_perception evaluate: {error}", file=sys.stderr)
        return 1
    end_as_if_interrupted()
    from vlm_perception.tools.evaluation import BASELINE, OURS, REAL, SIMULATED, Evaluation, Setting

    time_limit = arguments.time_limit or TIME_LIMIT + TIME_FOR_DELAY * arguments.delay
    setting = Setting(
        delay=arguments.delay,
        time_limit=time_limit,
        absent_time_limit=arguments.absent_time_limit or time_limit / 4,
        controllers=(OURS,) if BASELINE in arguments.skip else (OURS, BASELINE),
        with_absent="absent" not in arguments.skip,
        model=arguments.model,
        clock=REAL if arguments.real_time else SIMULATED,
        kind=arguments.kind,
    )
    evaluation = Evaluation(setting, len(seeds), arguments.output)
    broken_down: list[int] = []
    if arguments.real_time:
        from vlm_perception.tools.real_time import RealTime

        nodes = RealTime(setting, seeds, domains, arguments.output / "logs")
        broken_down = nodes.broken_down
        visits = nodes.visits()
    else:
        from vlm_perception.tools import simulated_time

        visits = simulated_time.visits(setting, seeds, jobs)
    with contextlib.closing(visits):
        code = evaluation.run(visits)
    evaluation.report(broken_down)
    return code


def wrong(arguments: argparse.Namespace) -> str | None:
    """Return what is wrong with the arguments, else None."""
    from vlm_perception.simulation.room import KINDS
    from vlm_perception.training.dataset import RESERVED_FROM

    first, last = arguments.first_seed, arguments.first_seed + arguments.rooms - 1
    if arguments.rooms < 1 or arguments.jobs < 1:
        return f"{arguments.rooms} rooms, {arguments.jobs} at a time: expected at least 1"
    if first < 0 or last >= 2**32:
        return f"the rooms {first} to {last} are no seeds, expected 0 to {2**32 - 1}"
    if last >= RESERVED_FROM and not arguments.reserved:
        return (
            f"rooms from {RESERVED_FROM} on are kept for judging what was made without them: expected seeds below, "
            "or --reserved (make: ARGS=--reserved)"
        )
    if arguments.kind not in KINDS:
        return f"the kind of rooms is {arguments.kind!r}, expected one of {', '.join(KINDS)}"
    if not 0.0 <= arguments.delay <= 60.0:
        return f"the delay is {arguments.delay} s, expected 0 to 60"
    for limit in (arguments.time_limit, arguments.absent_time_limit):
        if limit is not None and not (math.isfinite(limit) and limit > 0.0):
            return f"the time limit is {limit} s, expected more than 0"
    if arguments.domain is not None and not arguments.real_time:
        return "--domain is for the nodes of --real-time"
    return None
