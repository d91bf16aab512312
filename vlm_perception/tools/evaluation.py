"""Visits rooms with the real nodes, several rooms at a time, and reports what came of it."""

from __future__ import annotations

import json
import queue
import statistics
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import rclpy
from rclpy.context import Context
from rclpy.signals import SignalHandlerOptions
from tqdm import tqdm

from vlm_perception.perception.source import read_image
from vlm_perception.simulation.room import Room, make_room
from vlm_perception.simulation.shortest_path import shortest_path
from vlm_perception.tools import baseline_controller
from vlm_perception.tools.episode import (
    ABSENT,
    FOUND_WITHIN,
    PRESENT,
    Episode,
    Spectator,
    choose_target,
    run_episode,
)
from vlm_perception.tools.images import contact_sheet, draw_paths
from vlm_perception.tools.stack import Stack
from vlm_perception.tools.summary import Trial, failures_in_words, in_words, rounded, summarize, table

OURS, BASELINE = "ours", "baseline"
PREFIXES = {OURS: "", BASELINE: f"{baseline_controller.NAME}/"}
BUSY = 0.4  # [s] an answer takes that long, delay apart, only on a machine that has other things to do


@dataclass(frozen=True)
class Setting:
    """What is evaluated. Times in [s]."""

    delay: float
    time_limit: float
    controllers: tuple[str, ...]
    with_absent: bool
    model: str

    @property
    def absent_time_limit(self) -> float:
        """How long to look for what is not there: less, because a right search goes on to the end."""
        return self.time_limit / 4

    def parameters(self) -> dict[str, dict[str, object]]:
        """Those of the nodes that differ from the shipped ones.

        The image is as large as the nano model's training images were and its answers are the same as for the
        demo's four times as large one, and the model answers nobody but the robot: both spare the processor. With a
        delay the time-outs are as much longer as the README says for large models; nothing else knows of it.
        """
        parameters: dict[str, dict[str, object]] = {
            "simulator": {"width": 320, "height": 240, "multisampling": 0, "camera_rate": 20.0},
            "classifier": {"model": self.model, "label.rate": 0.0, "description.rate": 0.0},
        }
        if self.delay:
            longer = 2.0 * self.delay
            parameters["classifier"]["ask_timeout"] = 5.0 + longer
            parameters["navigator"] = {"ask_timeout": 2.0 + longer, "max_answer_age": 0.8 + longer}
        return parameters

    def commands(self) -> dict[str, Sequence[str]]:
        """The nodes that are not, or not only, the package's executables."""
        tools = "vlm_perception.tools"
        commands: dict[str, Sequence[str]] = {}
        if self.delay:
            commands["classifier"] = [sys.executable, "-m", f"{tools}.slow_classifier", str(self.delay)]
        if BASELINE in self.controllers:
            commands[baseline_controller.NAME] = [sys.executable, "-m", f"{tools}.baseline_controller"]
        return commands


class EvaluationStoppedError(Exception):
    """Somebody, or a failure elsewhere, has ended the evaluation."""


class Evaluation:
    """Visits all rooms and keeps what came of it in `trials`, by seed and controller.

    `broken_down` are the seeds of rooms in which a node died or fell silent.
    """

    def __init__(self, setting: Setting, seeds: Sequence[int], output: Path) -> None:
        self.setting = setting
        self.output = output
        self.trials: dict[int, dict[str, Trial]] = {}
        self.broken_down: list[int] = []
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
        bar = tqdm(total=self._wanted, unit="room", disable=None)
        try:
            for crew in crews:
                crew.start()
            while len(self.trials) < self._wanted:
                news = self._news.get()
                if isinstance(news, Exception):
                    raise news
                self._keep(*news)
                bar.update()
        except KeyboardInterrupt:
            code = 130
        except Exception as error:
            print(f"vlm_perception evaluate: {error}", file=sys.stderr)
            code = 1
        finally:
            bar.close()
            self._stop.set()
            for crew in crews:
                if crew.ident is not None:
                    crew.join()
        return code

    def _crew(self, domain: int) -> None:
        """Visit rooms with nodes in `domain` until none is left."""
        try:
            while not self._seeds.empty():
                self._visit_rooms(domain)
        except EvaluationStoppedError:
            pass
        except Exception as error:
            self._news.put(error)

    def _visit_rooms(self, domain: int) -> None:
        """Visit rooms until none is left, or the nodes break down: that room is visited again with others, once."""

        def check() -> None:
            if self._stop.is_set():
                raise EvaluationStoppedError
            stack.check()

        setting, logs = self.setting, self.output / "logs" / str(domain)
        context = Context()
        rclpy.init(context=context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        try:
            with Stack(logs, setting.parameters(), setting.commands(), domain) as stack:
                spectator = Spectator(lambda _: None, check, context)
                try:
                    for controller in setting.controllers[1:]:
                        spectator.add_controller(PREFIXES[controller])
                    spectator.wait_for_the_robot()
                    while (seed := self._next_seed()) is not None:
                        room = make_room(seed)
                        try:
                            trials = {
                                name: visit(spectator, room, PREFIXES[name], setting) for name in setting.controllers
                            }
                        except (RuntimeError, TimeoutError) as error:
                            if seed in self.broken_down:
                                raise
                            self.broken_down.append(seed)
                            self._seeds.put(seed)
                            print(f"room {seed} will be visited again: {error}", file=sys.stderr, flush=True)
                            return
                        self._news.put((room, trials))
                finally:
                    spectator.close()
        finally:
            context.try_shutdown()

    def _next_seed(self) -> int | None:
        try:
            return self._seeds.get_nowait()
        except queue.Empty:
            return None

    def _keep(self, room: Room, trials: Mapping[str, Trial]) -> None:
        self.trials[room.seed] = dict(trials)
        what = "; ".join(f"{name} {in_words(trial)}" for name, trial in trials.items())
        target, ages = trials[OURS].present.target, trials[OURS].present.image_ages
        late = f" (answers {statistics.median(ages):.2f} s late)" if ages else ""
        tqdm.write(f"{len(self.trials)} of {self._wanted}: room {room.seed}, {target}: {what}{late}")
        paths = {name: trial.present.path for name, trial in trials.items()}
        crosses = [place for trial in trials.values() for place in trial.present.collided_at]
        draw_paths(room, paths, target, self._image(room.seed), crosses)

    def _image(self, seed: int) -> Path:
        return self.output / "rooms" / f"room-{seed}.png"

    def report(self) -> None:
        """Write the table, the contact sheet and all that is known as JSON; print the table and the line of JSON."""
        if not self.trials:
            return
        setting, rooms = self.setting, dict(sorted(self.trials.items()))
        figures = {
            name: summarize([trials[name] for trials in rooms.values()], setting.time_limit)
            for name in setting.controllers
        }
        ages = {seed: trials[OURS].present.image_ages for seed, trials in rooms.items()}
        all_ages = [age for those in ages.values() for age in those]
        limit = setting.delay + BUSY
        busy = [seed for seed, those in ages.items() if those and statistics.median(those) > limit]
        line = {
            **figures[OURS],
            BASELINE: figures.get(BASELINE),
            "first_seed": min(rooms),
            "delay": setting.delay,
            "time_limit": setting.time_limit,
            "absent_time_limit": setting.absent_time_limit,
            "median_image_age": statistics.median(all_ages) if all_ages else None,
            "busy_seeds": busy,
            "broken_down_seeds": self.broken_down,
        }
        text = table(figures)
        failures = "\n".join(f"- {words}" for trials in rooms.values() for words in failures_in_words(trials[OURS]))
        (self.output / "table.md").write_text(f"{text}\n{failures}\n", encoding="utf-8")
        details = {seed: {name: asdict(trial) for name, trial in trials.items()} for seed, trials in rooms.items()}
        everything = json.dumps(rounded({**line, "trials": details}))
        (self.output / "evaluation.json").write_text(everything + "\n", encoding="utf-8")
        paths = [(read_image(self._image(seed)), not failures_in_words(of[OURS])) for seed, of in rooms.items()]
        contact_sheet(paths, self.output / "rooms.png")
        print(f"\n{text}\ntable, failures, images of the paths and all details: {self.output}")
        if busy:
            words = f"{len(busy)} rooms were measured while the machine was busy (answers over {limit:.1f} s old)"
            print(f"{words}, to the robot's disadvantage: repeat them with fewer --jobs: {busy}", file=sys.stderr)
        print(json.dumps(rounded(line)), flush=True)


def visit(spectator: Spectator, room: Room, controller: str, setting: Setting) -> Trial:
    """Let a controller search in `room` for what is there, then for what is not."""

    def search(wish: str, time_limit: float) -> Episode:
        spectator.reset(room.seed)
        return run_episode(spectator, room, choose_target(wish, room), time_limit, controller)

    present = search(PRESENT, setting.time_limit)
    absent = search(ABSENT, setting.absent_time_limit) if setting.with_absent else None
    thing = room.thing(present.target)
    assert thing is not None
    return Trial(present, absent, shortest_path(room, thing, FOUND_WITHIN))
