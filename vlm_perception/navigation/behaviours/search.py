"""Find a target and stay in front of it."""

from __future__ import annotations

from vlm_perception.navigation.behaviours.base import ARRIVED, STOPPED, Decision, Plan, WorldState
from vlm_perception.navigation.behaviours.remembering import RememberingSeek
from vlm_perception.navigation.motion import STOP
from vlm_perception.navigation.tuning import Tuning


class Search(RememberingSeek):
    """Find the target, stop in front of it and stay. After `time_limit` [s] without success give up (0: never)."""

    def __init__(self, target: str, tuning: Tuning | None = None, time_limit: float = 0.0) -> None:
        super().__init__(target, tuning)
        self.time_limit = time_limit
        self._started: float | None = None
        self._result: Decision | None = None

    def step(self, world: WorldState, time: float) -> Decision:
        if self._result is not None:
            return self._result
        if self._started is None:
            self._started = time
        if self.time_limit > 0.0 and time - self._started >= self.time_limit:
            decision = Decision(STOP, STOPPED, f"{self.target} was not found within {self.time_limit:g} s", found=False)
        else:
            decision = super().step(world, time)
        if decision.found is not None:
            self._result = decision
        return decision

    def at_target(self) -> Plan:
        yield Decision(STOP, ARRIVED, f"{self.target} is near and ahead", found=True)
