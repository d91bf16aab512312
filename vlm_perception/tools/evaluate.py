"""Search in many rooms, one after the other, with the real nodes: one line of JSON per room and one for all."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rooms", type=int, default=20, help="how many rooms (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=1, help="seed of the first room (default: %(default)s)")
    parser.add_argument("--target", default="present", help="as for the demo (default: %(default)s)")
    parser.add_argument("--time-limit", type=float, default=120.0, help="seconds per room (default: %(default)s)")
    parser.add_argument(
        "--model", default="nano", help="nano, or the folder of a PaliGemma model (default: %(default)s)"
    )
    parser.add_argument("--videos", action="store_true", help="write a video and a picture for every room")
    parser.add_argument("--domain", type=int, help="ROS domain of its nodes (default: a free one from 10 to 39)")
    parser.add_argument("--output", type=Path, default=Path("output"), help="where videos, pictures and logs go")


def main(arguments: argparse.Namespace) -> int:
    """0 when nothing was touched, all that was there was found, and nothing that was not."""
    from vlm_perception.tools.environment import end_as_if_interrupted, prepare_environment

    prepare_environment(arguments.domain)
    end_as_if_interrupted()
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.signals import SignalHandlerOptions

    from vlm_perception.models.base import ModelError
    from vlm_perception.models.loader import check_models
    from vlm_perception.tools.episode import Result, Spectator, run_episode
    from vlm_perception.tools.stack import Stack

    seeds = range(arguments.first_seed, arguments.first_seed + arguments.rooms)
    if not len(seeds) or seeds[0] < 0 or seeds[-1] >= 2**32:
        print(f"vlm_perception evaluate: rooms {seeds} are no seeds, expected 0 to 4294967295", file=sys.stderr)
        return 2
    try:
        check_models(arguments.model)
    except ModelError as error:
        print(f"vlm_perception evaluate: {error}", file=sys.stderr)
        return 1
    results: list[Result] = []
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        parameters = {"simulator": {"seed": seeds[0]}, "classifier": {"model": arguments.model}}
        with Stack(arguments.output / "logs", parameters) as stack:
            spectator = Spectator(lambda _: None, stack.check)
            spectator.wait_for_the_robot()
            for seed in seeds:
                spectator.reset(seed)
                folder = arguments.output if arguments.videos else None
                result = run_episode(spectator, seed, arguments.target, arguments.time_limit, folder, f"room-{seed}")
                results.append(result)
                print(result.json(), flush=True)
            spectator.destroy_node()
    except (KeyboardInterrupt, ExternalShutdownException):
        return 130
    except (ValueError, RuntimeError, TimeoutError, OSError) as error:
        print(f"vlm_perception evaluate: {error}", file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    found = [result.seconds for result in results if result.found]
    summary = {
        "rooms": len(results),
        "found": len(found),
        "collisions": sum(result.collisions for result in results),
        "false_arrivals": sum(result.said == "arrived" and not result.found for result in results),
        "median_seconds": statistics.median(found) if found else None,
    }
    print(json.dumps(summary), flush=True)
    right = all(r.found if r.distance_m is not None else r.said != "arrived" for r in results)
    return 0 if right and summary["collisions"] == 0 else 1
