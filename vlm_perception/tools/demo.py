"""Watch the robot find an object by its name, with the real nodes, a simulated room and the shipped model."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

TIME_LIMIT = 120.0  # [s]


@dataclass(frozen=True)
class Result:
    """The last line that the demo prints. `distance_m` is measured to the target's nearest point."""

    found: bool
    target: str
    seconds: float
    distance_m: float | None
    collisions: int
    frames: int
    labels_per_s: float
    video: str
    image: str
    seed: int
    said: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target",
        default="present",
        help='target, e.g. "blue box"; present or absent chooses one that is, or is not, there (default: %(default)s)',
    )
    parser.add_argument("--seed", type=int, default=1, help="number of the room (default: %(default)s)")
    parser.add_argument(
        "--kind", default="room", help="kind of room: room, or chambers that doorways connect (default: %(default)s)"
    )
    parser.add_argument(
        "--time-limit", type=float, default=TIME_LIMIT, help="time limit in seconds (default: %(default)s)"
    )
    parser.add_argument("--model", default="nano", help="nano, or a model folder (default: %(default)s)")
    parser.add_argument("--domain", type=int, help="ROS domain of its nodes (default: a free one from 10 to 39)")
    parser.add_argument("--output", type=Path, default=Path("output"), help="where video, image and logs go")
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="write a trace of the time of each image, for ui.perfetto.dev"
    )


def main(arguments: argparse.Namespace) -> int:
    """Return 0 if the robot stands within 1 m of the target and touched nothing, 2 for wrong arguments, else 1."""
    from vlm_perception.tools.environment import end_as_if_interrupted, prepare_environment

    where = prepare_environment(arguments.domain)
    end_as_if_interrupted()
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.signals import SignalHandlerOptions

    from vlm_perception.models.base import ModelError
    from vlm_perception.models.loader import check_folder
    from vlm_perception.models.scope import Scope, unknown_target
    from vlm_perception.simulation.room import make_room
    from vlm_perception.simulation.world import World
    from vlm_perception.tools.episode import choose_target
    from vlm_perception.tools.film import Film
    from vlm_perception.tools.images import draw_paths
    from vlm_perception.tools.output import check_output
    from vlm_perception.tools.spectator import run_episode
    from vlm_perception.tools.stack import Stack

    began = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {words}", flush=True)

    try:
        room = make_room(arguments.seed, arguments.kind)
        target = choose_target(arguments.target, room)
        scope = Scope.from_folder(check_folder(arguments.model)[0])
        if scope and scope.targets and target not in scope.targets:
            raise ValueError(unknown_target(target, scope.targets, scope.about))
        check_output(arguments.output)
        with World(room, 64, 48) as world:
            world.image()  # report a missing renderer now, not in the log of a node
        if arguments.trace:
            arguments.trace.parent.mkdir(parents=True, exist_ok=True)
            arguments.trace.write_text("")  # report an unwritable file now, not when everything runs
    except (ValueError, ModelError, OSError) as error:
        print(f"vlm_perception demo: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    things = ", ".join(thing.name for thing in room.things)
    say(f"room {room.seed} ({room.plan}) with {things}; the robot is to find: {target}")
    say(f"starting simulator, classifier and navigator; to watch: {where}")
    name = f"demo-{room.seed}-{'-'.join(target.split())}"[:60].replace("/", "_")
    video, image = arguments.output / f"{name}.webm", arguments.output / f"{name}.png"
    parameters: dict[str, dict[str, object]] = {
        "simulator": {"seed": room.seed, "kind": room.kind},
        "classifier": {"model": arguments.model},
    }
    if arguments.trace:
        parameters["classifier"]["trace_file"] = arguments.trace.resolve()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        with Stack(arguments.output / "logs", parameters) as stack:
            film = Film(video, room, target, say, stack.check)
            try:
                film.wait_for_the_robot()
                episode = run_episode(film, room, target, arguments.time_limit, watch=film.shoot)
            finally:
                film.close()
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
    draw_paths(room, {"the robot": episode.path}, target, image, belief=film.belief)
    result = Result(
        found=episode.found,
        target=target,
        seconds=round(episode.seconds, 1),
        distance_m=None if episode.distance is None else round(episode.distance, 2),
        collisions=episode.collisions,
        frames=film.frames,
        labels_per_s=round(film.labels / film.seconds, 1),
        video=str(video),
        image=str(image),
        seed=room.seed,
        said="arrived" if episode.arrived else "not found",
    )
    trace = f", trace {arguments.trace} (open it in https://ui.perfetto.dev)" if arguments.trace else ""
    say(f"{result.said}; video {result.video}, path {result.image}{trace}")
    print(json.dumps(asdict(result)), flush=True)
    return 0 if result.found and result.collisions == 0 else 1
