"""Where the robot can drive, by what the images showed, from where they showed it."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from vlm_perception.navigation.grid import CELL, Grid
from vlm_perception.navigation.motion import Pose, is_same_view, wrap
from vlm_perception.navigation.sighting import Surroundings

Cell = tuple[int, int]

OBSTACLE_SHARE, WALL_SHARE = 0.65 / 1.5, 1.0 / 1.5
"""An obstacle is ahead within this share of the distance that a clear way is clear for; a wall within this share."""
WALLS_WITHIN = 0.75
"""So many of the walls that are said to be ahead are as near as an obstacle."""
FARTHER = 0.65
"""What is nearer than a clear way, and no obstacle, is beyond the distance of walls in so many cases."""
ASIDE_SHARE = 1.0 / 1.5
"""A way to the left or the right is clear for this share of that distance ..."""
ASIDE = math.radians(25.0)
"""... and lies so far [rad] to the side."""
HALF_LINE = 0.08
"""Cells whose middle is so far [m] beside a line that was said to be clear count as clear."""
BESIDE = 0.07
"""So far [m] beside such a line the robot may drive without another image; cells are too coarse for that."""
LINES = 100
"""So many lines are remembered, each for `LINE_AGE` [s]."""
LINE_AGE = 40.0
MOST = 4.0
"""Log odds are kept within plus and minus this, so that one answer is enough to doubt what was known before."""
WRONG = 0.02
"""However sure an answer is, it is wrong with this probability."""
FADING = 60.0
"""Time constant [s] with which knowledge fades: somebody may put something there."""
KNOWN, PASSABLE = math.log(0.88 / 0.12), 0.5
"""Log odds from which on a cell is free to drive on without another look, and is worth to be planned through."""
DOUBTED = 0.15, 0.5
"""Between these distances [m] ahead is what the robot could not pass."""
_KNOWN_BLOCKED = 2.0  # log odds
NEXT = 0.2
"""So far [m] a way must be known to be free beyond where the robot stands."""
NEWEST = 0.5
"""What is behind a wall or a passage is believed by so much of the newest image, and by the rest of those before."""
SAME_VIEW = 0.3
"""Another image of the same view that says free counts so much: it is wrong where the one before was."""
WALL_REACH = 5.0
"""A wall hides what is so far [m] behind it."""
NEAR_BY, FADING_DISTANCE = 1.5, 2.0
"""Within this distance [m] of known free places the floor goes on, and beyond with a chance that falls
with the square of the distance over the second [m]."""
PASSAGE = (0.5, 4.5), 0.35, 0.8
"""A doorway or corridor leads to floor between these distances [m], within this angle [rad], with this chance."""


@dataclass(frozen=True)
class Routes:
    """The ways from one cell over cells that are known to be passable; distances in [m]."""

    distance: Mapping[Cell, float]
    before: Mapping[Cell, Cell]
    passable: np.ndarray

    def to(self, cell: Cell) -> list[Cell]:
        """Return the cells from the start to `cell`, both included."""
        way = [cell]
        while way[-1] in self.before:
            way.append(self.before[way[-1]])
        return way[::-1]

    def corners(self, cell: Cell) -> list[Cell]:
        """Return the corners of the way to `cell` without its start, with as few as straight lines need."""
        way, corners, here = self.to(cell), [], 0
        while here < len(way) - 1:
            there = len(way) - 1
            while there > here + 1 and not _is_straight(self.passable, way[here], way[there]):
                there -= 1
            corners.append(way[there])
            here = there
        return corners


class FreeMap:
    """Log odds that the robot's centre can be in a cell, when that was measured [s], and where floor may be at all.

    `clear_distance` [m] is how far the way is free, from the robot's centre, when the model says that it is clear, and
    `width` [m] is what the robot needs.
    """

    FILLS: ClassVar[Mapping[str, float]] = {"free": 0.0, "measured": 0.0, "floor": 0.0, "passage": 0.0, "walled": 0.0}

    def __init__(self, grid: Grid, clear_distance: float, width: float) -> None:
        self._grid = grid
        self._lines: deque[tuple[Pose, float, float]] = deque(maxlen=LINES)
        self._begin = math.nan  # the layer of times is too coarse for those of a clock
        self._last = Pose(math.inf, math.inf)
        self.clear_distance = clear_distance
        self.width = width

    def add(self, pose: Pose, surroundings: Surroundings, now: float) -> None:
        """Take what an image that was taken at `pose` showed of the way ahead."""
        reach = self.clear_distance - self.width / 2
        weight = SAME_VIEW if is_same_view(self._last, pose) else 1.0
        self._last = pose
        window = self._grid.window(pose.x, pose.y, max(reach, 0.0) + 2.0 * CELL)
        free, measured = (self._grid.layers[name][window.slices] for name in ("free", "measured"))
        ways = [(0.0, self._chances(surroundings), reach)]
        for side, chance in ((ASIDE, surroundings.left), (-ASIDE, surroundings.right)):
            if chance > 0.5:
                ways.append((side, ([0.0], [chance]), ASIDE_SHARE * self.clear_distance - self.width / 2))
        for side, (lengths, chances), far in ways:
            along, aside = _along(window.x - pose.x, window.y - pose.y, pose.heading + side)
            line = (np.abs(aside) <= HALF_LINE) & (along > 0.0) & (along <= far)
            chance = np.interp(along[line] + self.width / 2, lengths, chances)
            odds = self._faded(free[line], measured[line], now)
            news = _log_odds(chance)
            free[line] = np.clip(odds + np.where(news > 0.0, weight * news, news), -MOST, MOST)
            measured[line] = self._since(now)
            self._remember(replace(pose, heading=pose.heading + side), lengths, chances, far, now)
        self.stand(pose, now)
        self._suppose(pose, surroundings)

    def forget(self) -> None:
        """Forget the lines; the grid's cells are forgotten with the grid."""
        self._lines.clear()
        self._begin = math.nan
        self._last = Pose(math.inf, math.inf)

    def _since(self, now: float) -> float:
        """Return the time [s] since the first one."""
        if math.isnan(self._begin):
            self._begin = now
        return now - self._begin

    def _remember(
        self, start: Pose, lengths: Sequence[float], chances: Sequence[float], far: float, now: float
    ) -> None:
        """Remember how far [m] the robot's centre can go straight on from `start`."""
        along = np.arange(0.0, far + CELL / 4, CELL / 4)
        chance = np.interp(along + self.width / 2, lengths, chances)
        free = _log_odds(chance) >= KNOWN
        if free[0]:
            self._lines.append((start, float(along[-1] if free.all() else along[int(np.argmin(free)) - 1]), now))

    def _chances(self, surroundings: Surroundings) -> tuple[list[float], list[float]]:
        """Return lengths [m], and the probability that the way is free for so long."""
        open_ahead = 1.0 - surroundings.blocked
        clear = min(surroundings.center, open_ahead)
        near = max(0.0, 1.0 - surroundings.obstacle - WALLS_WITHIN * surroundings.wall)
        lengths = [share * self.clear_distance for share in (0.0, OBSTACLE_SHARE, WALL_SHARE, 1.0)]
        return lengths, [1.0, near, clear + FARTHER * (open_ahead - clear), clear]

    def stand(self, pose: Pose, now: float) -> None:
        """Take that the robot is at `pose`, so that it can be there."""
        window = self._grid.window(pose.x, pose.y, 2.0 * CELL)
        here = np.hypot(window.x - pose.x, window.y - pose.y) <= 0.75 * CELL
        self._grid.layers["free"][window.slices][here] = MOST
        self._grid.layers["measured"][window.slices][here] = self._since(now)

    def doubt(self, pose: Pose, now: float) -> None:
        """Take that the robot cannot go straight on from `pose`: ways lead elsewhere until an image shows it free."""
        window = self._grid.window(pose.x, pose.y, DOUBTED[1] + CELL)
        along, aside = _along(window.x - pose.x, window.y - pose.y, pose.heading)
        ahead = (along > DOUBTED[0]) & (along < DOUBTED[1]) & (np.abs(aside) < DOUBTED[0] + HALF_LINE)
        self._grid.layers["free"][window.slices][ahead] = -_KNOWN_BLOCKED
        self._grid.layers["measured"][window.slices][ahead] = self._since(now)

    def _suppose(self, pose: Pose, surroundings: Surroundings) -> None:
        """Suppose that floor goes on around free places and behind passages, and not behind walls."""
        window = self._grid.window(pose.x, pose.y, 6.0)
        names = "floor", "passage", "walled"
        floor, passage, walled = (self._grid.layers[name][window.slices] for name in names)
        dx, dy = window.x - pose.x, window.y - pose.y
        along, aside = _along(dx, dy, pose.heading)
        free = self.clear_distance * min(surroundings.center, 1.0 - surroundings.blocked)
        distance = np.hypot(along - np.clip(along, 0.0, free), aside)
        np.maximum(floor, np.exp(-((np.maximum(0.0, distance - NEAR_BY) / FADING_DISTANCE) ** 2)), out=floor)
        (near, far), angle, _ = PASSAGE
        behind = (along > near) & (along < far) & (np.abs(aside) < math.tan(angle) * along)
        passage[behind] += NEWEST * (surroundings.passage - passage[behind])
        start = WALL_SHARE * self.clear_distance + CELL
        behind = (along > start) & (along < WALL_REACH) & (np.abs(aside) < 0.25 + 0.25 * along)
        walled[behind] += NEWEST * (surroundings.wall - walled[behind])
        walled[distance < 0.4] = 0.0

    def _faded(self, free: np.ndarray, measured: np.ndarray, now: float) -> np.ndarray:
        return free * np.exp(-np.maximum(0.0, self._since(now) - measured) / FADING)

    def odds(self, now: float) -> np.ndarray:
        """Return the log odds of all cells at `now` [s]."""
        layers = self._grid.layers
        return self._faded(layers["free"], layers["measured"], now)

    def floor(self) -> np.ndarray:
        """Return the probability, for all cells, that there is floor that can be reached."""
        layers = self._grid.layers
        return np.maximum(layers["floor"], PASSAGE[2] * layers["passage"]) * (1.0 - layers["walled"])

    def ahead(self, pose: Pose, now: float, direction: float = 0.0) -> float:
        """Return how far [m] the robot's centre can go straight on from `pose`, as is known for certain enough."""
        heading = pose.heading + direction
        lines = [(start, length) for start, length, then in self._lines if now - then < LINE_AGE]
        far = max((_along_line(pose, heading, start, length) for start, length in lines), default=0.0)
        if far < NEXT:
            return 0.0
        distances = np.arange(0.0, far, CELL / 2)
        window = self._grid.window(pose.x, pose.y, self.clear_distance + 2.0 * CELL)
        rows, columns = (
            np.floor((start + distances * slope) / CELL).astype(int) - first - part.start
            for start, slope, first, part in zip(
                (pose.x, pose.y), (math.cos(heading), math.sin(heading)), self._grid.first, window.slices, strict=True
            )
        )
        layers = self._grid.layers
        free, measured = (layers[name][window.slices][rows, columns] for name in ("free", "measured"))
        known = self._faded(free, measured, now) >= KNOWN
        known[distances < NEXT / 2] = True  # where it stands
        if not known.all():
            far = float(distances[int(np.argmin(known)) - 1])
        return far if far >= NEXT else 0.0

    def routes(self, pose: Pose, now: float, farthest: float = math.inf) -> Routes:
        """Return the shortest ways from `pose` over passable cells, up to `farthest` [m] (Dijkstra 1959)."""
        passable = self.odds(now) >= PASSABLE
        start = self._grid.cell(pose.x, pose.y)
        if start is None:
            return Routes({}, {}, passable)
        rows, columns = passable.shape
        distance: dict[Cell, float] = {start: 0.0}
        before: dict[Cell, Cell] = {}
        heap = [(0.0, start)]
        while heap:
            far, (i, j) = heapq.heappop(heap)
            if far > distance[i, j] or far > farthest:
                continue
            for di, dj, step in _STEPS:
                other = i + di, j + dj
                if not (0 <= other[0] < rows and 0 <= other[1] < columns and passable[other]):
                    continue
                if di and dj and not (passable[i + di, j] and passable[i, j + dj]):
                    continue  # it would cut a corner
                if (longer := far + step) < distance.get(other, math.inf) - 1e-9:
                    distance[other], before[other] = longer, (i, j)
                    heapq.heappush(heap, (longer, other))
        return Routes(distance, before, passable)


def _along_line(pose: Pose, heading: float, start: Pose, length: float) -> float:
    """Return how far [m] from `pose` straight on in a heading [rad] the robot stays on a line that is free."""
    along, aside = (float(value) for value in _along(pose.x - start.x, pose.y - start.y, start.heading))
    turn = wrap(heading - start.heading)
    if abs(aside) > BESIDE or abs(turn) > math.pi / 3 or along < -CELL:
        return 0.0
    sideways = math.sin(turn)
    leaves = (BESIDE - math.copysign(1.0, sideways) * aside) / max(abs(sideways), 1e-6)
    return min(leaves, (length - along) / math.cos(turn))


_ROUND = [(i, j) for i in (-0.2, 0.2) for j in (-0.2, 0.2)]
_STEPS = [(i, j, CELL * math.hypot(i, j)) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]


def _is_straight(passable: np.ndarray, start: Cell, end: Cell) -> bool:
    """Tell whether the straight line between the middles of two cells runs over passable cells alone."""
    steps = 4 * max(abs(end[0] - start[0]), abs(end[1] - start[1])) + 1
    rows, columns = (np.linspace(a, b, steps) for a, b in zip(start, end, strict=True))
    touched = [(np.rint(rows + di).astype(int), np.rint(columns + dj).astype(int)) for di, dj in _ROUND]
    return all(bool(passable[cells].all()) for cells in touched)


def _along(dx: Any, dy: Any, heading: float) -> tuple[Any, Any]:
    """Return how far [m] along a heading, and to its left, the points are."""
    cos, sin = math.cos(heading), math.sin(heading)
    return cos * dx + sin * dy, cos * dy - sin * dx


def _log_odds(chance: np.ndarray) -> np.ndarray:
    chance = WRONG + (1.0 - 2.0 * WRONG) * chance
    return np.log(chance / (1.0 - chance))
