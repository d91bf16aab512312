"""Health of a node in words: once a second on /diagnostics, and in the log when it changes."""

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
"""Time between two messages [s]."""
HOLDS = 4
"""Checks in succession with the same problem until the log gets a line."""
AGAIN = 30.0
"""Shortest time between two lines about the same problem [s]."""


class Level(Enum):
    """Severity, as in DiagnosticStatus."""

    OK = DiagnosticStatus.OK
    WARN = DiagnosticStatus.WARN
    ERROR = DiagnosticStatus.ERROR
    STALE = DiagnosticStatus.STALE


@dataclass(frozen=True)
class Health:
    """Health of a node. `message` says why, and what to do about it; `values` are the figures.

    `logged` is true if the log has the message already.
    """

    level: Level
    message: str
    values: Mapping[str, object] = field(default_factory=dict)
    logged: bool = False


class ReasonLog:
    """Log of the health of a node: new problems that last, and recoveries, go to `logger`."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._now: tuple[Level, str] = (Level.OK, "")
        self._held = 0
        self._told: tuple[Level, str] = (Level.OK, "")
        self._at: dict[tuple[Level, str], float] = {}

    def tell(self, health: Health) -> None:
        """Note the health of one check, and log it if it is news. Call this once for each check."""
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
        if level is Level.OK:  # three lines: rclpy refuses another severity from the same line
            self._logger.info(words)
        elif level is Level.WARN:
            self._logger.warning(words)
        else:
            self._logger.error(words)


class Diagnostics:
    """Publisher of what `check()` returns, every `PERIOD`, in the executor of `node`; also of its `parts`, by name.

    The log gets the problems of the whole, which include those of the parts.
    """

    def __init__(
        self, node: Node, check: Callable[[], Health], parts: Mapping[str, Callable[[], Health]] | None = None
    ) -> None:
        self._node = node
        self._check = check
        self._parts = parts or {}
        self._log = ReasonLog(node.get_logger())
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Steady time: a simulation that stands still must not stop the diagnostics.
        self._timer = node.create_timer(PERIOD, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def publish(self) -> None:
        """Publish now, for example after a change that users should see at once."""
        name = self._node.get_fully_qualified_name().lstrip("/")
        health = self._examine()
        self._log.tell(health)
        array = DiagnosticArray(status=[_status(name, health)])
        array.status += [_status(f"{name}: {part}", _checked(check)) for part, check in self._parts.items()]
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)

    def _examine(self) -> Health:
        """Return the health of the node. If it waits for a simulated time that nobody publishes, that is the reason."""
        health = _checked(self._check)
        if not self._node.get_parameter("use_sim_time").value or self._node.get_clock().now().nanoseconds:
            return health
        instead = f"ros2 param set {self._node.get_fully_qualified_name()} use_sim_time false"
        words = f"use_sim_time is set and nobody publishes /clock: start the simulation, or {instead}"
        return replace(health, level=Level.ERROR, message=words, logged=False)


def _checked(check: Callable[[], Health]) -> Health:
    """Return the health by `check`. An exception of the check must not end the node."""
    try:
        return check()
    except Exception as error:
        return Health(Level.ERROR, f"an error in this package, please report it: {one_line(repr(error))}")


def _status(name: str, health: Health) -> DiagnosticStatus:
    values = [KeyValue(key=key, value=_words(value)) for key, value in health.values.items()]
    return DiagnosticStatus(level=health.level.value, name=name, message=one_line(health.message), values=values)


def _words(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else one_line(str(value))
