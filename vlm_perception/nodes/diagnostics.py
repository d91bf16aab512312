"""Says once a second on /diagnostics how a node is, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node

PERIOD = 1.0
"""[s]"""


class Level(Enum):
    """How serious it is."""

    OK = DiagnosticStatus.OK
    WARN = DiagnosticStatus.WARN
    ERROR = DiagnosticStatus.ERROR
    STALE = DiagnosticStatus.STALE


@dataclass(frozen=True)
class Health:
    """How a node is: `message` says in words why, and what to do about it; `values` are the figures."""

    level: Level
    message: str
    values: Mapping[str, object] = field(default_factory=dict)


class Diagnostics:
    """Publishes what `check()` returns, every `PERIOD`, in the executor of `node`; so too its `parts`, by name."""

    def __init__(
        self, node: Node, check: Callable[[], Health], parts: Mapping[str, Callable[[], Health]] | None = None
    ) -> None:
        self._node = node
        self._check = check
        self._parts = parts or {}
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # The wall's time: a simulation that stands still must not silence the diagnostics.
        self._timer = node.create_timer(PERIOD, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def publish(self) -> None:
        """Publish now, for example at a change that should be seen at once."""
        name = self._node.get_fully_qualified_name().lstrip("/")
        array = DiagnosticArray(status=[_status(name, self._check())])
        array.status += [_status(f"{name}: {part}", check()) for part, check in self._parts.items()]
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)


def _status(name: str, health: Health) -> DiagnosticStatus:
    values = [KeyValue(key=key, value=_words(value)) for key, value in health.values.items()]
    return DiagnosticStatus(level=health.level.value, name=name, message=health.message, values=values)


def _words(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
