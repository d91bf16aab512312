"""The state of the navigator, on the latched topic `navigation_state` and in the log."""

from __future__ import annotations

import math
import time

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from vlm_perception.msg import NavigationState
from vlm_perception.navigation.pilot import Pilot
from vlm_perception.text import without_numbers

STATE_PERIOD = 1.0
"""Time between two messages about an unchanged state [s]."""
TOLD_AGAIN = 5.0
"""Shortest time between two lines of the log about a state that comes and goes [s]."""


class StatePublisher:
    """Publisher of the state of `pilot`: at a change, and every `STATE_PERIOD`."""

    def __init__(self, node: Node, pilot: Pilot) -> None:
        self._node = node
        self._pilot = pilot
        self._announced: tuple[str, ...] = ()
        self._told: dict[tuple[str, ...], float] = {}
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._publisher = node.create_publisher(NavigationState, "navigation_state", latched)
        # Volatile subscribers, such as rqt, get an unchanged state too.
        node.create_timer(STATE_PERIOD, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def announce(self) -> None:
        """Publish the state if it changed by more than a number in its reason."""
        pilot, decision = self._pilot, self._pilot.decision
        state = (pilot.mode, pilot.target, decision.state, without_numbers(decision.reason))
        if state == self._announced:
            return
        # During a search the reason changes often. The diagnostics log its problems.
        told = state if pilot.mode == "idle" else state[:3]
        now = time.monotonic()
        if told != self._announced[: len(told)] and now - self._told.get(told, -math.inf) > TOLD_AGAIN:
            self._told = {each: at for each, at in self._told.items() if now - at < TOLD_AGAIN} | {told: now}
            target = f" {pilot.target!r}" if pilot.target else ""
            self._node.get_logger().info(f"{pilot.mode}{target}: {decision.state}: {decision.reason}")
        self._announced = state
        self._publish()

    def _publish(self) -> None:
        pilot, decision = self._pilot, self._pilot.decision
        message = NavigationState(mode=pilot.mode, target=pilot.target, state=decision.state, reason=decision.reason)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)
