"""What others get of a `SearchMap`: grids to look at, the target's pose, and what was left unseen in words. No ROS."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vlm_perception.navigation.grid import CELL
from vlm_perception.navigation.motion import Pose, placed
from vlm_perception.navigation.search_map import SearchMap

UNKNOWN = -1
"""Value of a cell about which nothing is known."""
FULL = 100
"""Highest value of a cell."""
DECADES = 4.0
"""The belief runs over so many powers of ten, up to a probability of 1 on a square metre."""
SOME_FLOOR = 0.01
"""From this probability on of being floor, something is known about a cell."""
SHARP_MASS, SHARP_DEVIATION = 0.8, 0.7
"""The target's pose is known if it is in one direction with this probability, within this standard deviation [m]."""
SEEN = 0.3
"""A cell was seen that would have shown the target with this probability."""
NEGLIGIBLE = 0.005
"""What is less probable is not worth a word."""
SIDES = (
    "ahead", "ahead to the left", "to the left", "behind to the left",
    "behind", "behind to the right", "to the right", "ahead to the right",
)  # fmt: skip
"""Words for the eighths of a circle, from straight ahead on to the left."""


@dataclass(frozen=True)
class GridView:
    """Cells of `CELL` [m] with values of 0 to `FULL`, or `UNKNOWN`: int8 (along y, along x), as in an OccupancyGrid.

    `corner` is where the first cell begins, in the map's frame.
    """

    cells: np.ndarray
    corner: Pose


def belief_grid(search: SearchMap) -> GridView:
    """Return how probable the target is in each cell, on a logarithmic scale.

    100 is a probability of 1 or more on a square metre; each 25 less are a tenth, and 0 is a ten thousandth or less.
    """
    with np.errstate(divide="ignore"):
        decades = np.log10(search.belief[0] / CELL**2)
    values = np.clip(FULL * (1.0 + decades / DECADES), 0, FULL)
    return _view(search, np.where(search.grid.layers["floor"] < SOME_FLOOR, UNKNOWN, values))


def free_grid(search: SearchMap, now: float) -> GridView:
    """Return how probably each cell is blocked [%] at `now` [s]: 0 is free, 100 blocked."""
    odds = search.free.odds(now)
    layers = search.grid.layers
    never = (layers["free"] == 0.0) & (layers["measured"] == 0.0)
    return _view(search, np.where(never, UNKNOWN, FULL / (1.0 + np.exp(odds))))


def _view(search: SearchMap, values: np.ndarray) -> GridView:
    x, y = (float(first) * CELL for first in search.grid.first)
    return GridView(np.ascontiguousarray(np.rint(values).astype(np.int8).T), Pose(x, y))


@dataclass(frozen=True)
class TargetPose:
    """Where the target most probably is, with the heading from the robot, and the covariance [m, m, rad] (3, 3)."""

    pose: Pose
    covariance: np.ndarray

    def placed_at(self, frame: Pose) -> TargetPose:
        """Return the same in the frame in which `frame` is the map's."""
        cos, sin = math.cos(frame.heading), math.sin(frame.heading)
        rotation = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        return TargetPose(placed(frame, self.pose), rotation @ self.covariance @ rotation.T)


def target_pose(search: SearchMap, robot: Pose) -> TargetPose | None:
    """Return where the target is, as seen by a `robot` that is there; None while that is not known well enough."""
    sector = search.sector(robot)
    if sector.mass <= SHARP_MASS:
        return None
    place = np.array(sector.covariance).reshape(2, 2)
    widest = float(np.linalg.eigvalsh(place)[-1])
    if widest >= SHARP_DEVIATION**2:
        return None
    heading = math.atan2(sector.y - robot.y, sector.x - robot.x)
    across = np.array([-math.sin(heading), math.cos(heading)])
    distance = max(CELL, math.hypot(sector.x - robot.x, sector.y - robot.y))
    covariance = np.zeros((3, 3))
    covariance[:2, :2] = place
    covariance[2, 2] = float(across @ place @ across) / distance**2
    return TargetPose(Pose(sector.x, sector.y, heading), covariance)


def seen_area(search: SearchMap) -> float:
    """Return how much floor [m2] was seen."""
    seen = search.grid.layers["seen"] > SEEN
    return float(search.floor[seen].sum()) * CELL**2


def remains(search: SearchMap, robot: Pose) -> str:
    """Return how probably the target is in what was not seen well, and where most of that is; empty if nowhere."""
    left = 1.0 - search.absent
    if left < NEGLIGIBLE:
        return ""
    sector = search.sector(robot)
    distance = math.hypot(sector.x - robot.x, sector.y - robot.y)
    side = SIDES[round(robot.bearing_of((sector.x, sector.y)) / (math.tau / len(SIDES))) % len(SIDES)]
    return f"{left:.2f} may be in what was not seen well, most of it {distance:.1f} m {side}"
