"""Stand still."""

from __future__ import annotations

from vlm_perception.navigation.behaviours.base import STOPPED, Behaviour, Decision, Plan, WorldState
from vlm_perception.navigation.motion import STOP
from vlm_perception.navigation.tuning import Tuning


class Idle(Behaviour):
    """Stand still."""

    def __init__(self, tuning: Tuning | None = None, reason: str = "the mode is idle") -> None:
        super().__init__(tuning)
        self.reason = reason

    def step(self, world: WorldState, time: float) -> Decision:
        return next(self._plan)

    def act(self) -> Plan:
        while True:
            yield Decision(STOP, STOPPED, self.reason)
