"""Watch the robot find a thing by its name: the real nodes, a simulated room, the shipped model."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target",
        default="present",
        help='what to find, e.g. "blue box"; present, absent: one that is, or is not, there (default: %(default)s)',
    )
    parser.add_argument("--seed", type=int, default=1, help="which room (default: %(default)s)")
    parser.add_argument(
        "--time-limit", type=float, default=120.0, help="give up after so many seconds (default: %(default)s)"
    )
    parser.add_argument(
        "--model", default="nano", help="nano, or the folder of a PaliGemma model (default: %(default)s)"
    )
    parser.add_argument("--domain", type=int, help="ROS domain of its nodes (default: a free one from 10 to 39)")
    parser.add_argument("--output", type=Path, default=Path("output"), help="where video, picture and logs go")


def main(arguments: argparse.Namespace) -> int:
    """0 when the robot stands within 1 m of the target and touched nothing, 2 for wrong arguments, else 1."""
    from vlm_perception.tools.environment import end_as_if_interrupted, prepare_environment

    where = prepare_environment(arguments.domain)
    end_as_if_interrupted()
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.signals import SignalHandlerOptions

    from vlm_perception.models.base import ModelError
    from vlm_perception.models.loader import check_models
    from vlm_perception.simulation.room import make_room
    from vlm_perception.tools.episode import Spectator, choose_target, run_episode
    from vlm_perception.tools.stack import Stack

    began = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {words}", flush=True)

    try:
        room = make_room(arguments.seed)
        target = choose_target(arguments.target, room)
        check_models(arguments.model)
    except (ValueError, ModelError) as error:
        print(f"vlm_perception demo: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    things = ", ".join(thing.name for thing in room.things)
    say(f"room {room.seed} ({room.length:.1f} x {room.width:.1f} m) with {things}; the robot is to find: {target}")
    say(f"starting simulator, classifier and navigator; to look on: {where}")
    name = f"demo-{room.seed}-{'-'.join(target.split())}"[:60].replace("/", "_")
    parameters: dict[str, dict[str, object]] = {
        "simulator": {"seed": room.seed},
        "classifier": {"model": arguments.model},
    }
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        with Stack(arguments.output / "logs", parameters) as stack:
            spectator = Spectator(say, stack.check)
            try:
                spectator.wait_for_the_robot()
                result = run_episode(spectator, room.seed, target, arguments.time_limit, arguments.output, name)
            finally:
                spectator.destroy_node()
    except (KeyboardInterrupt, ExternalShutdownException):
        say("stopped")
        return 130
    except ValueError as error:
        print(f"vlm_perception demo: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, TimeoutError, OSError) as error:
        print(f"vlm_perception demo: {error}", file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    say(f"{result.said}; video {result.video}, path {result.picture}")
    print(result.json(), flush=True)
    return 0 if result.found and result.collisions == 0 else 1
