"""Examine ROS, middleware, camera, velocity commands, libraries, GPU, model, memory and clock.

Each line is a finding: green, or yellow or red with a remedy. The exit status is 1 if a finding is red, else 0. The
checks run in parallel in processes of their own, so that a check that hangs or crashes is a finding too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vlm_perception.tools.checks.finding import Finding, Severity, red
from vlm_perception.tools.child import Child, ChildError

TIME_LIMIT = 90.0
"""Time limit of all checks together [s]. Importing libraries from a slow memory card takes long."""
COLOURS = {Severity.GREEN: 32, Severity.YELLOW: 33, Severity.RED: 31}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default="nano",
        help="the model to examine: nano, a folder or a server's address; several with commas (default: %(default)s)",
    )
    parser.add_argument(
        "--image-topic",
        action="append",
        default=[],
        metavar="TOPIC",
        help="topic of a camera; may be repeated (default: those of the running classifier, else camera/image_raw)",
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds to listen (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(arguments: argparse.Namespace) -> int:
    """Print the findings; return 1 if one is red, 2 for wrong arguments, else 0."""
    if not 0.5 <= arguments.seconds <= 60:
        print(f"vlm_perception doctor: --seconds is {arguments.seconds:g}, expected 0.5 to 60", file=sys.stderr)
        return 2
    findings = []
    for finding in examine(arguments.model, arguments.image_topic, arguments.seconds):
        findings.append(finding)
        if not arguments.json:
            print(line(finding, sys.stdout.isatty()), flush=True)
    healthy = all(finding.level is not Severity.RED for finding in findings)
    if arguments.json:
        words = [{**dataclasses.asdict(finding), "level": finding.level.value} for finding in findings]
        print(json.dumps({"healthy": healthy, "findings": words}, indent=2, ensure_ascii=False))
    return 0 if healthy else 1


def examine(model: str, image_topics: list[str], seconds: float) -> Iterable[Finding]:
    """Yield the findings of all checks, in the order of the report."""
    with ExitStack() as stack:
        rooms = {
            "ROS": stack.enter_context(Child(look_at_ros, image_topics, seconds)),
            "machine": stack.enter_context(Child(look_at_machine)),
            "model": stack.enter_context(Child(look_at_model, model)),
        }
        end = time.monotonic() + TIME_LIMIT
        for name, child in rooms.items():
            try:
                yield from child.messages(max(0.0, end - time.monotonic()))
            except ChildError as error:
                remedy = (
                    "run `vlm_perception doctor` again; if this stays, the part that the line names is broken or hangs"
                )
                yield red(name, f"the rest was not examined: {error}", remedy)


Send = Callable[[Finding], None]


def look_at_ros(send: Send, image_topics: list[str], seconds: float) -> None:
    """Send the findings about ROS, the middleware and the running nodes."""
    from vlm_perception.tools.checks import middleware

    if not report(send, middleware.ros, os.environ):
        return
    report(send, middleware.domain, os.environ)
    report(send, middleware.transport, os.environ)
    import rclpy

    from vlm_perception.nodes.profile import use_profile
    from vlm_perception.tools.checks import graph
    from vlm_perception.tools.checks.seen import look

    use_profile()  # without it images get lost that other processes receive
    rclpy.init(args=[])
    seen = look(seconds, image_topics)
    for check in (graph.nodes, graph.cameras, graph.velocity, graph.simulated_time):
        report(send, check, seen)


def look_at_machine(send: Send) -> None:
    """Send the findings about libraries and hardware."""
    from vlm_perception.tools.checks import machine

    if report(send, machine.packages):
        report(send, machine.torch_and_numpy)
        report(send, machine.gpu)
        report(send, machine.images)
    report(send, machine.free, Path.cwd())
    report(send, machine.clock)
    report(send, machine.renderer)


def look_at_model(send: Send, models: str) -> None:
    """Send the findings about the model."""
    from vlm_perception.tools.checks import model

    report(send, model.models, models)


def report(send: Send, check: Callable[..., list[Finding]], *arguments: Any) -> bool:
    """Send the findings of `check(*arguments)`; return whether none of them is red."""
    try:
        findings = check(*arguments)
    except Exception as error:  # go on with the other checks
        words = f"cannot be examined: {' '.join(str(error).split()) or type(error).__name__}"
        findings = [
            red(check.__name__.replace("_", " "), words, "if the line does not name the cause, please report it")
        ]
    for finding in findings:
        send(finding)
    return all(finding.level is not Severity.RED for finding in findings)


def line(finding: Finding, coloured: bool) -> str:
    """Return the finding as one line, and its remedy as a second one."""
    level = f"{finding.level.value:7}"
    if coloured:
        level = f"\033[{COLOURS[finding.level]}m{level}\033[0m"
    return f"{level} {finding.about}: {finding.words}" + (f"\n        -> {finding.remedy}" if finding.remedy else "")
