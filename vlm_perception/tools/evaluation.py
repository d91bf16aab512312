"""An evaluation: what is searched for in each room, and the report of what came of it. No ROS.

Who runs the searches, `simulated_time` or `real_time`, yields for each room a `Visit`.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from vlm_perception.perception.source import read_image
from vlm_perception.simulation.room import Room, make_room
from vlm_perception.simulation.shortest_path import shortest_path
from vlm_perception.tools.episode import ABSENT, FOUND_WITHIN, PRESENT, Episode, choose_target
from vlm_perception.tools.images import contact_sheet, draw_paths
from vlm_perception.tools.summary import Trial, failures_in_words, in_words, rounded, summarize, table

OURS, BASELINE = "ours", "baseline"
SIMULATED, REAL = "simulated", "real"
BUSY = 0.4  # [s] an answer takes that long, delay apart, only on a machine that has other things to do


class Visit(NamedTuple):
    """What came of a room, by controller."""

    room: Room
    trials: Mapping[str, Trial]


Search = Callable[[Room, str, str, float], Episode]
"""Lets a controller search in a room for a target, for at most so many seconds."""


@dataclass(frozen=True)
class Setting:
    """What is evaluated, in which `kind` of rooms, and on which `clock`. Times in [s]."""

    delay: float
    time_limit: float
    absent_time_limit: float
    controllers: tuple[str, ...]
    with_absent: bool
    model: str
    clock: str = SIMULATED
    kind: str = "room"

    def room(self, seed: int) -> Room:
        """Return the room of `seed`."""
        return make_room(seed, self.kind)

    def parameters(self) -> dict[str, dict[str, object]]:
        """Those of the nodes that differ from the shipped ones.

        The image is as large as the nano model's training images were and its answers are the same as for the
        demo's four times as large one, and the model answers nobody but the robot: both spare the processor. Nobody
        is told of a delay.
        """
        return {
            "simulator": {"width": 320, "height": 240, "multisampling": 0, "camera_rate": 20.0},
            "classifier": {"model": self.model, "label.rate": 0.0, "description.rate": 0.0},
            "navigator": {},
        }

    def visit(self, room: Room, search: Search) -> Visit:
        """Let every controller `search` in `room` for what is there, and for what is not."""
        trials = {}
        for controller in self.controllers:
            present = search(room, controller, choose_target(PRESENT, room), self.time_limit)
            absent = None
            if self.with_absent:
                absent = search(room, controller, choose_target(ABSENT, room), self.absent_time_limit)
            thing = room.thing(present.target)
            assert thing is not None
            trials[controller] = Trial(present, absent, shortest_path(room, thing, FOUND_WITHIN))
        return Visit(room, trials)


class Evaluation:
    """Keeps the visits of `wanted` rooms in `trials`, by seed and controller, and reports them."""

    def __init__(self, setting: Setting, wanted: int, output: Path) -> None:
        self.setting = setting
        self.output = output
        self.trials: dict[int, Mapping[str, Trial]] = {}
        self._wanted = wanted

    def run(self, visits: Iterator[Visit]) -> int:
        """Keep all `visits`; return the exit status."""
        code = 0
        bar = tqdm(total=self._wanted, unit="room", disable=None)
        try:
            for visit in visits:
                self._keep(*visit)
                bar.update()
        except KeyboardInterrupt:
            code = 130
        except Exception as error:
            print(f"vlm_perception evaluate: {error}", file=sys.stderr)
            code = 1
        finally:
            bar.close()
        return code

    def _keep(self, room: Room, trials: Mapping[str, Trial]) -> None:
        self.trials[room.seed] = trials
        what = "; ".join(f"{name} {in_words(trial)}" for name, trial in trials.items())
        target, ages = trials[OURS].present.target, trials[OURS].present.image_ages
        late = f" (answers {statistics.median(ages):.2f} s late)" if ages else ""
        tqdm.write(f"{len(self.trials)} of {self._wanted}: room {room.seed}, {target}: {what}{late}")
        paths = {name: trial.present.path for name, trial in trials.items()}
        crosses = [place for trial in trials.values() for place in trial.present.collided_at]
        draw_paths(room, paths, target, self._image(room.seed), crosses, trials[OURS].present.belief)
        if (absent := trials[OURS].absent) is not None and absent.belief is not None:
            paths, file = {OURS: absent.path}, self._image(room.seed, "-absent")
            draw_paths(room, paths, absent.target, file, absent.collided_at, absent.belief)

    def _image(self, seed: int, what: str = "") -> Path:
        return self.output / "rooms" / f"room-{seed}{what}.png"

    def report(self, broken_down: Sequence[int] = ()) -> None:
        """Write the table, the contact sheet and all that is known as JSON; print the table and the line of JSON.

        `broken_down` are the seeds of rooms in which a node died or fell silent.
        """
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
            "kind": setting.kind,
            "clock": setting.clock,
            "delay": setting.delay,
            "time_limit": setting.time_limit,
            "absent_time_limit": setting.absent_time_limit,
            "median_image_age": statistics.median(all_ages) if all_ages else None,
            "busy_seeds": busy,
            "broken_down_seeds": list(broken_down),
        }
        text = table(figures)
        failures = {seed: failures_in_words(trials[OURS], setting.room(seed)) for seed, trials in rooms.items()}
        listed = "\n".join(f"- {words}" for those in failures.values() for words in those)
        (self.output / "table.md").write_text(f"{text}\n{listed}\n", encoding="utf-8")
        details = {seed: {name: trial.in_figures() for name, trial in trials.items()} for seed, trials in rooms.items()}
        everything = json.dumps(rounded({**line, "trials": details}))
        (self.output / "evaluation.json").write_text(everything + "\n", encoding="utf-8")
        paths = [(read_image(self._image(seed)), not failures[seed]) for seed in rooms]
        contact_sheet(paths, self.output / "rooms.png")
        print(f"\n{text}\ntable, failures, images of the paths and all details: {self.output}")
        if busy:
            words = f"{len(busy)} rooms were measured while the machine was busy (answers over {limit:.1f} s old)"
            print(f"{words}, to the robot's disadvantage: repeat them with fewer --jobs: {busy}", file=sys.stderr)
        print(json.dumps(rounded(line)), flush=True)
