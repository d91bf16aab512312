"""The action `search_target`: one goal at a time; a new one preempts it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from rclpy.task import Future

from vlm_perception.action import SearchTarget
from vlm_perception.msg import TargetSighting


@dataclass(frozen=True)
class Knowledge:
    """How much of what can be reached was `searched`, 0..1, NaN if nobody knows, and what `remains`, in words."""

    searched: float = math.nan
    remains: str = ""


NOTHING_KNOWN = Knowledge()


@dataclass
class Goal:
    """A requested search, `started` [s] by the action's clock. `done` gets the result."""

    handle: ServerGoalHandle
    started: float
    done: Future


class SearchAction:
    """The server of the action. `start` starts a goal or refuses it by a ValueError; `clock` returns the time [s]."""

    def __init__(self, node: Node, start: Callable[[SearchTarget.Goal], None], clock: Callable[[], float]) -> None:
        self._node = node
        self._start = start
        self._clock = clock
        self.goal: Goal | None = None
        self._server = ActionServer(
            node, SearchTarget, "search_target", self._execute, cancel_callback=lambda _: CancelResponse.ACCEPT
        )

    async def _execute(self, handle: ServerGoalHandle) -> SearchTarget.Result:
        """Search for the goal's target until it is found, cancelled, preempted or out of time."""
        try:
            self._start(handle.request)
        except ValueError as error:
            self._node.get_logger().warning(f"search_target: {error}")
            handle.abort()
            return SearchTarget.Result(found=False, message=str(error), searched=math.nan)
        self.goal = Goal(handle, self._clock(), Future())
        return await self.goal.done

    @property
    def is_cancel_requested(self) -> bool:
        """Whether the client has asked to cancel the goal."""
        return self.goal is not None and self.goal.handle.is_cancel_requested

    def succeed(self, message: str, knowledge: Knowledge) -> None:
        """End the goal, if there is one, as succeeded: its target is found."""
        self._end(ServerGoalHandle.succeed, True, message, knowledge)

    def abort(self, message: str, knowledge: Knowledge = NOTHING_KNOWN) -> None:
        """End the goal, if there is one, as aborted."""
        self._end(ServerGoalHandle.abort, False, message, knowledge)

    def cancel(self, knowledge: Knowledge) -> None:
        """End the goal, if there is one, as cancelled by its client."""
        self._end(ServerGoalHandle.canceled, False, "cancelled", knowledge)

    def give_feedback(self, state: str, sighting: TargetSighting) -> None:
        """Send the state of the search to the client of the goal, if there is one."""
        if self.goal and self.goal.handle.is_active:
            self.goal.handle.publish_feedback(SearchTarget.Feedback(state=state, sighting=sighting))

    def _end(self, finish: Callable[[ServerGoalHandle], None], found: bool, message: str, knowledge: Knowledge) -> None:
        if self.goal is None:
            return
        goal, self.goal = self.goal, None
        if goal.handle.is_active:
            finish(goal.handle)
        took = max(0.0, self._clock() - goal.started)
        searched, left = knowledge.searched, "" if found else knowledge.remains
        result = SearchTarget.Result(found=found, time=took, message=message, searched=searched, remains=left)
        goal.done.set_result(result)
