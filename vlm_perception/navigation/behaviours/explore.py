"""Drive where it is clear."""

from __future__ import annotations

from vlm_perception.navigation.behaviours.base import EXPLORING, LIKELY, STOPPED, Behaviour, Decision, Plan
from vlm_perception.navigation.motion import Pose

STEERING = 0.6
"""So fast [rad/s] the robot steers to a side that is free for certain, while the other is not."""
SAME_PLACE = 0.5
"""Within this distance [m] of the last turn it turns to the same side again."""
ENCLOSED_WAIT = 3.0
"""How long [s] to wait where the way is blocked on all sides."""


class Explore(Behaviour):
    """Drive where it is clear; where it is not, turn until it is."""

    def act(self) -> Plan:
        turned_at: Pose | None = None
        while True:
            yield from self.look(EXPLORING, "looking whether the way ahead is clear")
            while not self.blocked:
                belief = self.belief
                # Doorways and corridors lead somewhere: drive straight through them.
                steering = STEERING * (belief.left - belief.right) * (1.0 - belief.center) * (1.0 - belief.passage)
                where = "through a doorway or corridor" if belief.passage > LIKELY else "on, the way is clear"
                yield Decision(self.forward(self.tuning.forward_speed, steering), EXPLORING, f"driving {where}")
            if turned_at is None or self.travelled_since(turned_at) > SAME_PLACE:
                self.choose_side()
            turned_at = self.world.pose
            side = "left" if self.side > 0.0 else "right"
            yield from self.turn_to_clear_way(EXPLORING, f"the way is blocked: turning {side}")
            if self.blocked:
                yield from self.wait(ENCLOSED_WAIT, STOPPED, "the way is blocked on all sides")
