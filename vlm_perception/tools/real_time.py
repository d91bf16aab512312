"""Visits rooms with the real nodes in real time: the nodes' time-outs must hold on clocks that nobody can stretch."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import rclpy
from rclpy.context import Context
from rclpy.signals import SignalHandlerOptions

from vlm_perception.simulation.room import Room
from vlm_perception.tools import baseline_controller
from vlm_perception.tools.episode import Episode
from vlm_perception.tools.evaluation import BASELINE, OURS, Setting, Visit
from vlm_perception.tools.spectator import Spectator, run_episode
from vlm_perception.tools.stack import Stack

PREFIXES = {OURS: "", BASELINE: f"{baseline_controller.NAME}/"}


def commands(setting: Setting) -> Mapping[str, Sequence[str]]:
    """Return those of nodes that are not, or not only, the package's executables."""
    module = [sys.executable, "-m"]
    commands: dict[str, Sequence[str]] = {}
    if setting.delay:
        commands["classifier"] = [*module, "vlm_perception.tools.slow_classifier", str(setting.delay)]
    if BASELINE in setting.controllers:
        commands[baseline_controller.NAME] = [*module, "vlm_perception.tools.baseline_controller"]
    return commands


class EvaluationStoppedError(Exception):
    """Somebody, or a failure elsewhere, has ended the evaluation."""


class RealTime:
    """Visits the rooms of `seeds`, with one set of nodes in each of the ROS `domains`, which log into `logs`.

    `broken_down` are the seeds of rooms in which a node died or fell silent.
    """

    def __init__(self, setting: Setting, seeds: Sequence[int], domains: Sequence[int], logs: Path) -> None:
        self.broken_down: list[int] = []
        self._setting = setting
        self._domains = domains
        self._logs = logs
        self._seeds: queue.SimpleQueue[int] = queue.SimpleQueue()
        for seed in seeds:
            self._seeds.put(seed)
        self._wanted = len(seeds)
        self._news: queue.SimpleQueue[Visit | Exception] = queue.SimpleQueue()
        self._stop = threading.Event()

    def visits(self) -> Generator[Visit]:
        """Yield what came of each room."""
        crews = [
            threading.Thread(target=self._crew, args=(domain,), name=f"domain {domain}") for domain in self._domains
        ]
        try:
            for crew in crews:
                crew.start()
            for _ in range(self._wanted):
                news = self._news.get()
                if isinstance(news, Exception):
                    raise news
                yield news
        finally:
            self._stop.set()
            for crew in crews:
                if crew.ident is not None:
                    crew.join()

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

        def search(room: Room, controller: str, target: str, time_limit: float) -> Episode:
            spectator.reset(room)
            return run_episode(spectator, room, target, time_limit, PREFIXES[controller])

        setting = self._setting
        context = Context()
        rclpy.init(context=context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        try:
            with Stack(self._logs / str(domain), setting.parameters(), commands(setting), domain) as stack:
                spectator = Spectator(lambda _: None, check, context)
                try:
                    for controller in setting.controllers[1:]:
                        spectator.add_controller(PREFIXES[controller])
                    spectator.wait_for_the_robot()
                    while (seed := self._next_seed()) is not None:
                        try:
                            visit = setting.visit(setting.room(seed), search)
                        except (RuntimeError, TimeoutError) as error:
                            if seed in self.broken_down:
                                raise
                            self.broken_down.append(seed)
                            self._seeds.put(seed)
                            print(f"room {seed} will be visited again: {error}", file=sys.stderr, flush=True)
                            return
                        self._news.put(visit)
                finally:
                    spectator.close()
        finally:
            context.try_shutdown()

    def _next_seed(self) -> int | None:
        try:
            return self._seeds.get_nowait()
        except queue.Empty:
            return None
