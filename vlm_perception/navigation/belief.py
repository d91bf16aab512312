"""What is believed after several answers: one wrong answer must not move a robot, nor stop it for good."""

from __future__ import annotations

import math

from vlm_perception.navigation.motion import wrap
from vlm_perception.navigation.sighting import Sighting, Surroundings

HEAVIEST = 0.45
"""The weight of one answer, however long ago the last one was: below every threshold, so that it takes two."""

WORTH_A_LOOK = 0.3
"""An answer that thinks less of the target's being visible says nothing about where it is."""


class Belief:
    """Probabilities filtered over time; old answers fade with the time constant `memory` [s].

    `visible`, `near` and `in_reach` are about the target, `heading` [rad] is where it is in the frame of the odometry.
    The others are as in `Surroundings`. Before the first answer nothing is visible and every way is blocked.
    """

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self.heading = 0.0
        self.forget()

    def forget(self) -> None:
        """Believe nothing, except for the heading at which the target was last."""
        self._stamp = -math.inf
        self.visible = self.near = self.in_reach = 0.0
        self.obstacle, self.wall, self.passage = 1.0, 0.0, 0.0
        self.left = self.center = self.right = 0.0
        self.none = 1.0

    def doubt_the_way(self) -> None:
        """Doubt what is ahead, as the robot looks in another direction now."""
        self.obstacle, self.wall = 0.5, 0.0

    @property
    def blocked(self) -> float:
        return min(1.0, self.obstacle + self.wall)

    def add(self, surroundings: Surroundings, sighting: Sighting | None, heading: float) -> None:
        """Take the answers about one image. `heading` [rad] is where the robot headed then, by odometry."""
        passed = max(0.0, surroundings.stamp - self._stamp)
        self._stamp = surroundings.stamp
        weight = min(HEAVIEST, 1.0 - math.exp(-passed / self.memory))
        for name in ("obstacle", "wall", "passage", "left", "center", "right", "none"):
            self._blend(name, getattr(surroundings, name), weight)
        if sighting is None:
            return
        # Range and bearing are only worth as much as the target was visible, now and before.
        now, before = weight * sighting.visible, (1.0 - weight) * self.visible
        if sighting.visible > WORTH_A_LOOK:
            share = now / (now + before)
            self._blend("near", sighting.near, share)
            self.heading += share * wrap(heading + sighting.bearing - self.heading)
        self._blend("visible", sighting.visible, weight)
        self._blend("in_reach", sighting.in_reach, weight)

    def _blend(self, name: str, value: float, weight: float) -> None:
        before = getattr(self, name)
        setattr(self, name, before + weight * (value - before))
