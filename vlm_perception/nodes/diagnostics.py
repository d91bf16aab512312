"""Says once a second on /diagnostics how a node is, in words; and in the log, when that changes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node

from vlm_perception.text import one_line, without_numbers

PERIOD = 1.0
"""[s]"""
HOLDS = 4
"""What is wrong in so many checks, one after the other, is worth a line in the log."""
AGAIN = 30.0
"""A line about the same comes again after so long [s] at the earliest, however often it changes."""


class Level(Enum):
    """How serious it is."""

    OK = DiagnosticStatus.OK
    WARN = DiagnosticStatus.WARN
    ERROR = DiagnosticStatus.ERROR
    STALE = DiagnosticStatus.STALE


@dataclass(frozen=True)
class Health:
    """How a node is: `message` says in words why, and what to do about it; `values` are the figures.

    `logged`: the log has it already.
    """

    level: Level
    message: str
    values: Mapping[str, object] = field(default_factory=dict)
    logged: bool = False


class ReasonLog:
    """Tells `logger` why a node is not well, when that is new and lasts, and when it is well again."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._now: tuple[Level, str] = (Level.OK, "")
        self._held = 0
        self._told: tuple[Level, str] = (Level.OK, "")
        self._at: dict[tuple[Level, str], float] = {}

    def tell(self, health: Health) -> None:
        """To be called once for each check."""
        reason = (health.level, "" if health.level is Level.OK else without_numbers(health.message))
        self._held = self._held + 1 if reason == self._now else 1
        self._now = reason
        if self._held < HOLDS or reason == self._told:
            return
        if health.level is not Level.OK:
            now = time.monotonic()
            if now - self._at.get(reason, -math.inf) < AGAIN:
                return
            self._at = {told: at for told, at in self._at.items() if now - at < AGAIN} | {reason: now}
        self._told = reason
        if not health.logged:
            self._say(health.level, health.message)

    def _say(self, level: Level, words: str) -> None:
        if level is Level.OK:  # three lines: rclpy refuses another severity from a line that it knows
            self._logger.info(words)
        elif level is Level.WARN:
            self._logger.warning(words)
        else:
            self._logger.error(words)


class Diagnostics:
    """Publishes what `check()` returns, every `PERIOD`, in the executor of `node`; so too its `parts`, by name.

    The log gets what is wrong in the whole; a part is in the words of the whole.
    """

    def __init__(
        self, node: Node, check: Callable[[], Health], parts: Mapping[str, Callable[[], Health]] | None = None
    ) -> None:
        self._node = node
        self._check = check
        self._parts = parts or {}
        self._log = ReasonLog(node.get_logger())
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # The wall's time: a simulation that stands still must not silence the diagnostics.
        self._timer = node.create_timer(PERIOD, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def publish(self) -> None:
        """Publish now, for example at a change that should be seen at once."""
        name = self._node.get_fully_qualified_name().lstrip("/")
        health = self._examine()
        self._log.tell(health)
        array = DiagnosticArray(status=[_status(name, health)])
        array.status += [_status(f"{name}: {part}", _checked(check)) for part, check in self._parts.items()]
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)

    def _examine(self) -> Health:
        """How the node is; the reason is the clock where a simulated time is waited for that nobody gives."""
        health = _checked(self._check)
        if not self._node.get_parameter("use_sim_time").value or self._node.get_clock().now().nanoseconds:
            return health
        instead = f"ros2 param set {self._node.get_fully_qualified_name()} use_sim_time false"
        words = f"use_sim_time is set and nobody publishes /clock: start the simulation, or {instead}"
        return replace(health, level=Level.ERROR, message=words, logged=False)


def _checked(check: Callable[[], Health]) -> Health:
    """How it is by `check`; a check that fails must not end the node."""
    try:
        return check()
    except Exception as error:
        return Health(Level.ERROR, f"a mistake in this package, please report it: {one_line(repr(error))}")


def _status(name: str, health: Health) -> DiagnosticStatus:
    values = [KeyValue(key=key, value=_words(value)) for key, value in health.values.items()]
    return DiagnosticStatus(level=health.level.value, name=name, message=one_line(health.message), values=values)


def _words(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else one_line(str(value))
