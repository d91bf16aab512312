"""Keep a target in sight and at a distance."""

from __future__ import annotations

from vlm_perception.navigation.behaviours.base import FOLLOWING, SEARCHING, Decision, Plan
from vlm_perception.navigation.behaviours.seek import Seek
from vlm_perception.navigation.motion import STOP

ASIDE = 0.2
"""A near target is turned to when it is farther [rad] to the side than this."""
AWAITED = 2.0
"""How long [s] a lost target is awaited before the next look around."""


class Follow(Seek):
    """Keep the target in sight and at a distance, for ever. It is awaited where it was lost."""

    def at_target(self) -> Plan:
        while self.near:
            bearing = self.bearing
            turn = self.turn(bearing) if abs(bearing) > ASIDE else STOP
            yield Decision(turn, FOLLOWING, f"{self.target} is near: keeping the distance")

    def go_elsewhere(self) -> Plan:
        yield from self.wait(AWAITED, SEARCHING, f"{self.target} is not to be seen: waiting", until=self.is_seen)
