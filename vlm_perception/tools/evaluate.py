"""Search in many rooms with the real nodes, side by side with a simple controller: figures, a table, pictures.

In every room both look for a thing that is there and for one that is not. Rooms go on in parallel, each with nodes of
its own in a ROS domain of its own, and all in real time: the nodes' time-outs must hold on clocks that nobody can
stretch. The last line is one line of JSON; what its keys mean stands in `summary.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import queue
import statistics
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm_perception.simulation.room import Room
    from vlm_perception.tools.episode import Episode, Spectator
    from vlm_perception.tools.summary import Trial

OURS, SIMPLE = "ours", "simple"
TIME_LIMIT = 120.0  # [s] where the target is there, a third of it where it is not
TIME_FOR_DELAY = 60.0  # [s] more for each second of delay
BUSY = 0.4  # [s] an answer takes that long, delay apart, only on a machine that has other things to do


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rooms", type=int, default=20, help="how many rooms (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first room (default: %(default)s)")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that every answer takes longer (default: 0)")
    parser.add_argument(
        "--time-limit",
        type=float,
        help="seconds for what is there, a third of it for what is not (default: 120, and 60 for each of delay)",
    )
    parser.add_argument("--skip", nargs="*", default=[], choices=(SIMPLE, "absent"), help="what to leave out")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="rooms at a time (default: %(default)s)")
    parser.add_argument("--reserved", action="store_true", help="allow rooms from 1,000,000 on, kept for judging")
    parser.add_argument("--model", default="nano", help="nano, or a model folder (default: %(default)s)")
    parser.add_argument("--domain", type=int, help="first ROS domain of the nodes (default: free ones from 10 to 39)")
    parser.add_argument("--output", type=Path, default=Path("output/evaluation"), help="where everything is written")


def main(arguments: argparse.Namespace) -> int:
    """0 when everything was measured, however well the robot did; 2 for wrong arguments, 1 when something broke."""
    from vlm_perception.models.base import ModelError
    from vlm_perception.models.loader import check_folder
    from vlm_perception.tools.environment import end_as_if_interrupted, free_domains, prepare_environment

    if problem := wrong(arguments):
        print(f"vlm_perception evaluate: {problem}", file=sys.stderr)
        return 2
    jobs = min(arguments.jobs, arguments.rooms)
    try:
        check_folder(arguments.model)
        domains = (
            free_domains(jobs) if arguments.domain is None else [arguments.domain + number for number in range(jobs)]
        )
    except (ModelError, RuntimeError) as error:
        print(f"vlm_perception evaluate: {error}", file=sys.stderr)
        return 1
    prepare_environment(domains[0])
    end_as_if_interrupted()
    setting = Setting(
        delay=arguments.delay,
        time_limit=arguments.time_limit or TIME_LIMIT + TIME_FOR_DELAY * arguments.delay,
        controllers=(OURS,) if SIMPLE in arguments.skip else (OURS, SIMPLE),
        with_absent="absent" not in arguments.skip,
        model=arguments.model,
    )
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.rooms)
    evaluation = Evaluation(setting, seeds, arguments.output)
    code = evaluation.run(domains)
    evaluation.report()
    return code


def wrong(arguments: argparse.Namespace) -> str:
    """Return what is wrong with the arguments, or an empty text."""
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
    return ""


@dataclass(frozen=True)
class Setting:
    """What is evaluated. Times in [s]."""

    delay: float
    time_limit: float
    controllers: tuple[str, ...]
    with_absent: bool
    model: str

    def parameters(self, seed: int) -> dict[str, dict[str, object]]:
        """Those of the nodes that differ from the shipped ones.

        The picture is as large as the nano model's training pictures were and its answers are the same as for the
        demo's four times as large one, and the model answers nobody but the robot: both spare the processor. With a
        delay the time-outs are as much longer as the README says for large models; nothing else knows of it.
        """
        parameters: dict[str, dict[str, object]] = {
            "simulator": {"seed": seed, "width": 320, "height": 240, "multisampling": 0, "camera_rate": 20.0},
            "classifier": {"model": self.model, "label_rate": 0.0, "description_rate": 0.0},
        }
        if self.delay:
            longer = 2.0 * self.delay
            parameters["classifier"]["ask_timeout"] = 5.0 + longer
            parameters["navigator"] = {"ask_timeout": 2.0 + longer, "max_answer_age": 0.8 + longer}
        return parameters

    def commands(self) -> dict[str, Sequence[str]]:
        """The nodes that are not, or not only, the package's executables."""
        tools = "vlm_perception.tools"
        commands = {}
        if self.delay:
            commands["classifier"] = [sys.executable, "-m", f"{tools}.slow_classifier", str(self.delay)]
        if SIMPLE in self.controllers:
            commands["simple_controller"] = [sys.executable, "-m", f"{tools}.simple_controller"]
        return commands


class Stopped(Exception):  # noqa: N818 - it is no error
    """Somebody, or a failure elsewhere, has ended the evaluation."""


class Evaluation:
    """Visits all rooms and keeps what came of it in `trials`, by seed and controller."""

    def __init__(self, setting: Setting, seeds: Sequence[int], output: Path) -> None:
        self.setting = setting
        self.output = output
        self.trials: dict[int, dict[str, Trial]] = {}
        self._seeds: queue.SimpleQueue[int] = queue.SimpleQueue()
        for seed in seeds:
            self._seeds.put(seed)
        self._wanted = len(seeds)
        self._news: queue.SimpleQueue[tuple[Room, dict[str, Trial]] | Exception] = queue.SimpleQueue()
        self._stop = threading.Event()

    def run(self, domains: Sequence[int]) -> int:
        """Visit the rooms, with one set of nodes in each of the ROS `domains`; returns the exit status."""
        crews = [threading.Thread(target=self._crew, args=(domain,), name=f"domain {domain}") for domain in domains]
        code = 0
        try:
            for crew in crews:
                crew.start()
            while len(self.trials) < self._wanted:
                news = self._news.get()
                if isinstance(news, Exception):
                    raise news
                self._keep(*news)
        except KeyboardInterrupt:
            code = 130
        except Exception as error:
            print(f"vlm_perception evaluate: {error}", file=sys.stderr)
            code = 1
        finally:
            self._stop.set()
            for crew in crews:
                if crew.ident is not None:
                    crew.join()
        return code

    def _crew(self, domain: int) -> None:
        """Visit rooms with nodes in `domain` until none is left."""
        import rclpy
        from rclpy.context import Context
        from rclpy.signals import SignalHandlerOptions

        from vlm_perception.simulation.room import make_room
        from vlm_perception.tools.episode import Spectator
        from vlm_perception.tools.simple_controller import NAME
        from vlm_perception.tools.stack import Stack

        def check() -> None:
            if self._stop.is_set():
                raise Stopped
            stack.check()

        prefixes = {OURS: "", SIMPLE: f"{NAME}/"}
        context = Context()
        setting = self.setting
        try:
            room = make_room(self._seeds.get_nowait())
            rclpy.init(context=context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
            logs = self.output / "logs" / str(domain)
            with Stack(logs, setting.parameters(room.seed), setting.commands(), domain) as stack:
                spectator = Spectator(lambda _: None, check, context)
                try:
                    for controller in setting.controllers[1:]:
                        spectator.add_controller(prefixes[controller])
                    spectator.wait_for_the_robot()
                    while True:
                        trials = {name: visit(spectator, room, prefixes[name], setting) for name in setting.controllers}
                        self._news.put((room, trials))
                        room = make_room(self._seeds.get_nowait())
                finally:
                    spectator.close()
        except (queue.Empty, Stopped):
            pass
        except Exception as error:
            self._news.put(error)
        finally:
            context.try_shutdown()

    def _keep(self, room: Room, trials: Mapping[str, Trial]) -> None:
        from vlm_perception.tools.pictures import draw_paths

        self.trials[room.seed] = dict(trials)
        what = "; ".join(f"{name} {in_words(trial)}" for name, trial in trials.items())
        target = trials[OURS].present.target
        print(f"{len(self.trials)} of {self._wanted}: room {room.seed}, {target}: {what}", flush=True)
        paths = {name: trial.present.path for name, trial in trials.items()}
        crosses = [place for trial in trials.values() for place in trial.present.collided_at]
        draw_paths(room, paths, target, self._picture(room.seed), crosses)

    def _picture(self, seed: int) -> Path:
        return self.output / "rooms" / f"room-{seed}.png"

    def report(self) -> None:
        """Write the table, the contact sheet and all that is known as JSON; print the table and the line of JSON."""
        from vlm_perception.tools.pictures import contact_sheet
        from vlm_perception.tools.summary import rounded, summarize, table

        if not self.trials:
            return
        setting, rooms = self.setting, dict(sorted(self.trials.items()))
        figures = {
            name: summarize([trials[name] for trials in rooms.values()], setting.time_limit)
            for name in setting.controllers
        }
        ages = [age for trials in rooms.values() for age in trials[OURS].present.picture_ages]
        line = {
            **figures[OURS],
            SIMPLE: figures.get(SIMPLE),
            "first_seed": min(rooms),
            "delay": setting.delay,
            "time_limit": setting.time_limit,
            "absent_time_limit": absent_time_limit(setting),
            "median_picture_age": statistics.median(ages) if ages else None,
        }
        text = table(figures)
        failures = "\n".join(f"- {words}" for trials in rooms.values() for words in failures_in_words(trials[OURS]))
        (self.output / "table.md").write_text(f"{text}\n{failures}\n", encoding="utf-8")
        details = {seed: {name: asdict(trial) for name, trial in trials.items()} for seed, trials in rooms.items()}
        everything = json.dumps(rounded({**line, "trials": details}))
        (self.output / "evaluation.json").write_text(everything + "\n", encoding="utf-8")
        good = [(self._picture(seed), not failures_in_words(trials[OURS])) for seed, trials in rooms.items()]
        contact_sheet(good, self.output / "rooms.png")
        print(f"\n{text}\ntable, failures, pictures of the paths and all details: {self.output}")
        if ages and statistics.median(ages) > setting.delay + BUSY:
            print("the machine was busy, answers came late: expect better figures with fewer --jobs", file=sys.stderr)
        print(json.dumps(rounded(line)), flush=True)


def absent_time_limit(setting: Setting) -> float:
    return setting.time_limit / 3


def visit(spectator: Spectator, room: Room, controller: str, setting: Setting) -> Trial:
    """Let a controller search in `room` for what is there, then for what is not."""
    from vlm_perception.simulation.shortest_path import shortest_path
    from vlm_perception.tools.episode import ABSENT, FOUND_WITHIN, PRESENT, choose_target, run_episode
    from vlm_perception.tools.summary import Trial

    def search(wish: str, time_limit: float) -> Episode:
        spectator.reset(room.seed)
        return run_episode(spectator, room, choose_target(wish, room), time_limit, controller)

    present = search(PRESENT, setting.time_limit)
    absent = search(ABSENT, absent_time_limit(setting)) if setting.with_absent else None
    thing = room.thing(present.target)
    assert thing is not None
    return Trial(present, absent, shortest_path(room, thing, FOUND_WITHIN))


def failures_in_words(trial: Trial) -> list[str]:
    """Return what went wrong, with what the controller said last; nothing when nothing did."""
    from vlm_perception.simulation.room import make_room

    failures = []
    for episode in filter(None, (trial.present, trial.absent)):
        is_present = episode is trial.present
        what = []
        if episode.arrived and not episode.found:
            what.append(f"false arrival after {episode.seconds:.0f} s at {_nearest(make_room(episode.seed), episode)}")
        elif is_present and not episode.found:
            what.append(f"not found within {episode.seconds:.0f} s")
        if episode.collisions:
            what.append(f"{episode.collisions} collisions")
        if what:
            there = "" if is_present else " (absent)"
            last = "; ".join(f"{at:.0f} s {state}: {reason}" for at, state, reason in episode.states[-6:])
            failures.append(f"room {episode.seed}, {episode.target}{there}: {', '.join(what)}. Last: {last}")
    return failures


def _nearest(room: Room, episode: Episode) -> str:
    thing = min(room.things, key=lambda thing: thing.distance_to(*episode.path[-1]))
    away = "" if episode.distance is None else f", {episode.distance:.2f} m from the target"
    return f"the {thing.name} ({thing.distance_to(*episode.path[-1]):.2f} m){away}"


def in_words(trial: Trial) -> str:
    """Return what a controller did in a room."""
    present = trial.present
    if present.found:
        words = f"found it in {present.seconds:.1f} s on {present.driven:.1f} m"
    else:
        words = "stopped elsewhere" if present.arrived else "did not find it"
    if trial.absent and trial.absent.arrived:
        words += ", found what is not there"
    collisions = present.collisions + (trial.absent.collisions if trial.absent else 0)
    return words + (f", {collisions} collisions" if collisions else "")
