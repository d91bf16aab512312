"""What a robot remembers while it searches: where it is free, and where the target probably is."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from vlm_perception.navigation.free_map import FreeMap
from vlm_perception.navigation.grid import Grid
from vlm_perception.navigation.motion import Pose
from vlm_perception.navigation.sighting import Sighting, Surroundings
from vlm_perception.navigation.target_map import Sector, TargetMap


class SearchMap:
    """A `FreeMap` and a `TargetMap` on one grid, in the frame of the odometry."""

    def __init__(self, field_of_view: float, near_distance: float, clear_distance: float, width: float) -> None:
        self.means = field_of_view, near_distance, clear_distance, width
        """What the answers mean; those of before are not comparable when it changes."""
        self.grid = Grid(**FreeMap.FILLS, **TargetMap.FILLS)
        self.free = FreeMap(self.grid, clear_distance, width)
        self.target = TargetMap(self.grid, field_of_view, near_distance)
        self.answers = 0
        """How many answers it has taken."""

    def forget(self) -> None:
        """Forget everything, as when the robot does not know any more where it is."""
        self.grid.forget()
        self.free.forget()
        self.target.forget()
        self.answers = 0
        self._changed()

    def forget_target(self) -> None:
        """Begin with another target; what is free stays known."""
        self.target.forget()
        self._changed()

    def add(self, pose: Pose, surroundings: Surroundings, sighting: Sighting | None, stamp: float) -> None:
        """Take the answers about an image that was taken at `pose` at `stamp` [s]."""
        self.free.add(pose, surroundings, stamp)
        if sighting is not None:
            self.target.add(pose, sighting.chances, surroundings, stamp, sighting.distance)
        self.answers += 1
        self._changed()

    def reject(self, x: float, y: float) -> None:
        """Remember that what is at a place [m] is not the target."""
        self.target.reject(x, y)
        self._changed()

    def _changed(self) -> None:
        for name in ("floor", "belief"):
            self.__dict__.pop(name, None)

    @cached_property
    def floor(self) -> np.ndarray:
        """The probability, for each cell, that it is floor that can be reached."""
        return self.free.floor()

    @cached_property
    def belief(self) -> tuple[np.ndarray, float]:
        """The probability of the target's being in each cell, and of its being nowhere in reach."""
        return self.target.belief(self.floor)

    @property
    def absent(self) -> float:
        """The probability of the target's being nowhere in reach."""
        return self.belief[1]

    @property
    def searched(self) -> float:
        """The share, 0..1, of what can be reached that was searched."""
        return self.target.searched(self.floor)

    def sector(self, pose: Pose) -> Sector:
        """Return in which direction from `pose` the target most probably is."""
        return self.target.sector(self.belief[0], pose)
