"""Where to look next: the view that is most likely to show the target, per second that it costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vlm_perception.navigation.grid import CELL
from vlm_perception.navigation.motion import Pose, wrap
from vlm_perception.navigation.search_map import SearchMap
from vlm_perception.navigation.target_map import APART, MISSED, SIGHT

BINS = 64
"""Gains are counted in so many directions."""
HEADINGS = 16
"""So many directions are compared."""
POOL = 2
"""Gains are counted by squares of so many cells a side."""
SPACING = 0.5
"""Places to look from are so far [m] apart, and twice as far where they are farther away."""
FARTHEST, PLACES = 6.0, 40
"""At most so far [m] ways are planned, and to so many places, the nearest first."""
SOFT_BORDER = 0.05
"""What is nearer [rad] to the border of the image than this is not counted on."""
FEW = 5
"""At most so many views are planned at one place."""
WORTH_A_TURN, WORTH_A_WAY = 0.04, 0.12
"""A view from here must show the target with at least this probability, and those from elsewhere with this one."""
UNKNOWN_IS_FREE = 0.4
"""A way in a direction that was never looked in is free with this probability."""
TRIED = 0.36, 0.64
"""At these shares of the distance that the robot can drive by one image, a way is known or not known yet, ..."""
TRIED_ODDS = 0.5
"""... by these log odds."""
BEYOND, STILL_BLOCKED, UNTRIED = 1.5, 10.0, 3.0
"""A way that goes on towards something known to be blocked within this distance [m] counts as so much longer [s], one
that was never looked at as so much longer [s]."""
SIMILAR = 0.3, 0.35
"""Two views are similar within this distance [m] and angle [rad]: ..."""
NEWS = 0.5
"""... each image of a similar view leaves this share of what another one would show."""
HESITATION = 1.5
"""A way takes so many times as long as it would at full speed: the robot waits for images, and ways end sooner."""
CORNER = 0.5
"""What a corner of the way costs [s]."""


Corners = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class View:
    """A heading [rad] to look in, behind a way of `corners` [m], with the probability that the target shows then.

    `gain` is that of all views at the place, which `seconds` is the time for. `is_way` says that it is looked for a
    way more than for the target.
    """

    corners: Corners
    heading: float
    gain: float
    seconds: float
    is_way: bool = False

    @property
    def rate(self) -> float:
        return self.gain / self.seconds


@dataclass(frozen=True)
class Pace:
    """How fast the robot turns [rad/s] and drives [m/s], and the time [s] between two views at one place."""

    turn: float
    forward: float
    view: float

    def turning(self, angle: float) -> float:
        """Return the time [s] of a turn in place by `angle` [rad]."""
        return abs(angle) / self.turn + (0.3 if abs(angle) > 0.1 else 0.0)


class Gains:
    """The probability of seeing the target from a place, by direction."""

    def __init__(self, search: SearchMap, pending: Sequence[Pose]) -> None:
        belief, grid = search.belief[0], search.grid
        rows, columns = (size // POOL * POOL for size in belief.shape)
        pooled = belief[:rows, :columns].reshape(rows // POOL, POOL, columns // POOL, POOL).sum((1, 3))
        keep = pooled > 1e-6
        i, j = np.nonzero(keep)
        self._mass = pooled[keep]
        self._x, self._y = (
            ((index * POOL + first + POOL / 2) * CELL).astype(np.float32)
            for index, first in zip((i, j), grid.first, strict=True)
        )
        seen, seen_x, seen_y, evidence = (
            grid.layers[name][:rows:POOL, :columns:POOL][keep] for name in ("seen", "seen_x", "seen_y", "evidence")
        )
        self._seen, self._seen_x, self._seen_y = np.where(evidence > 0.0, np.float32(0.0), seen), seen_x, seen_y
        self._half = max(0.0, search.target.field_of_view / 2 - SOFT_BORDER)
        self._bins = max(1, round(self._half / math.tau * BINS))
        taken = [*search.target.views(), *((pose, 1) for pose in pending)]
        self._taken = np.array([(pose.x, pose.y, pose.heading, count) for pose, count in taken]).reshape(-1, 4)
        for pose in pending:  # nobody knows yet what they show: most probably nothing
            distance, bearing = self._polar(pose.x, pose.y)
            inside = np.abs((bearing - pose.heading + math.pi) % math.tau - math.pi) <= self._half
            self._mass = self._mass * np.where(inside, 1.0 - self._visible(distance), 1.0)
            self._seen = np.where(inside, 1.0, self._seen)
            self._seen_x, self._seen_y = np.where(inside, pose.x, self._seen_x), np.where(inside, pose.y, self._seen_y)

    def _polar(self, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
        dx, dy = self._x - np.float32(x), self._y - np.float32(y)
        return np.hypot(dx, dy), np.arctan2(dy, dx)

    @staticmethod
    def _visible(distance: np.ndarray) -> np.ndarray:
        return np.exp(-((distance / SIGHT) ** 2)) * (1.0 - MISSED)

    def around(self, x: float, y: float) -> np.ndarray:
        """Return the probability of seeing the target from a place, by direction: `BINS` from -pi on."""
        distance, bearing = self._polar(x, y)
        apart = np.hypot(self._seen_x - np.float32(x), self._seen_y - np.float32(y))
        news = 1.0 - self._seen * np.exp(-apart / np.float32(APART))
        index = ((bearing + math.pi) / math.tau * BINS).astype(int) % BINS
        return np.bincount(index, self._mass * self._visible(distance) * news, BINS)

    def news(self, x: float, y: float, heading: float) -> float:
        """Return the share of a view that is new: similar ones were taken before."""
        far, turned = SIMILAR
        their_x, their_y, headings, counts = self._taken.T
        apart = np.abs((headings - heading + math.pi) % math.tau - math.pi)
        count = float(counts[(np.hypot(their_x - x, their_y - y) < far) & (apart < turned)].sum())
        return NEWS**count

    def views(self, x: float, y: float) -> list[tuple[float, float]]:
        """Return headings [rad] and gains of the best views at a place that do not overlap, the best first."""
        around = self.around(x, y)
        left, best = around.copy(), []
        half = self._bins
        offsets = np.arange(-half, half + 1)
        for _ in range(FEW):
            by_heading = _window_sums(left, half)
            middle = int(np.argmax(by_heading))
            if by_heading[middle] <= 0.0:
                break
            heading = (middle + 0.5) / BINS * math.tau - math.pi
            best.append((heading, self.news(x, y, heading) * float(by_heading[middle])))
            left[(middle + offsets) % BINS] = 0.0
        return sorted(best, key=lambda view: -view[1])

    def at(self, around: np.ndarray, heading: float) -> float:
        """Return the probability that a view in one direction shows the target."""
        half = self._bins
        middle = int((wrap(heading) + math.pi) / math.tau * BINS) % BINS
        return float(around[(middle + np.arange(-half, half + 1)) % BINS].sum())


def _window_sums(values: np.ndarray, half: int) -> np.ndarray:
    """Return the sums of the circle of values over windows of 2 half + 1."""
    padded = np.concatenate([values[-half:], values, values[:half]])
    sums = np.concatenate([[0.0], np.cumsum(padded)])
    return sums[2 * half + 1 :] - sums[: len(values)]


def next_view(
    search: SearchMap,
    pose: Pose,
    pace: Pace,
    now: float,
    pending: Sequence[Pose] = (),
    here_only: bool = False,
    side: float = 0.0,
) -> View | None:
    """Return the best next view, or None when none is worth while: what can be reached was searched.

    `here_only` counts what is elsewhere only if nothing here is worth while. A turn to a `side` (positive left) goes on
    to that side, if there is something to look at.
    """
    gains = Gains(search, pending)
    views = _views_here(gains, pose, pace)
    views = [view for view in views if wrap(view.heading - pose.heading) * side > 0.0] or views
    if not here_only or not views:
        views += _views_elsewhere(search, gains, pose, pace, now)
        views += _ways(search, gains, pose, pace, now)
    return max(views, key=lambda view: view.rate, default=None)


def _views_here(gains: Gains, pose: Pose, pace: Pace) -> list[View]:
    around = gains.around(pose.x, pose.y)
    views = []
    for k in range(HEADINGS):
        turn = wrap(k * math.tau / HEADINGS)
        heading = wrap(pose.heading + turn)
        gain = gains.news(pose.x, pose.y, heading) * gains.at(around, heading)
        views.append(View((), heading, gain, max(pace.view, pace.turning(turn))))
    return [view for view in views if view.gain >= WORTH_A_TURN]


def _best_share(views: list[tuple[float, float]], travel: float, view: float) -> tuple[float, float]:
    """Return the gain and the time of as many of the views at a place as make its rate the best."""
    best, gain = (0.0, 1.0), 0.0
    for number, (_, more) in enumerate(views, 1):
        gain += more
        seconds = travel + number * view
        if gain / seconds > best[0] / best[1]:
            best = gain, seconds
    return best


def _places(search: SearchMap, pose: Pose, pace: Pace, now: float) -> Iterator[tuple[Corners, float]]:
    """Yield ways to places that can be reached, and how long they take [s]."""
    routes = search.free.routes(pose, now, FARTHEST)
    farthest: dict[tuple[float, int, int], tuple[float, tuple[int, int]]] = {}
    for cell, far in routes.distance.items():
        x, y = search.grid.centre(cell)
        if (apart := math.hypot(x - pose.x, y - pose.y)) < SPACING:
            continue
        spacing = SPACING if apart < 4.0 * SPACING else 2.0 * SPACING
        place = spacing, round(x / spacing), round(y / spacing)
        if place not in farthest or far > farthest[place][0]:
            farthest[place] = far, cell
    for far, cell in sorted(farthest.values())[:PLACES]:
        corners = tuple(search.grid.centre(corner) for corner in routes.corners(cell))
        first = pose.bearing_of(corners[0])
        yield corners, HESITATION * far / pace.forward + pace.turning(first) + CORNER * (len(corners) - 1) + pace.view


def _untried(search: SearchMap, pose: Pose, pace: Pace, now: float) -> Iterator[tuple[Pose, float]]:
    """Yield poses ahead in directions in which nobody knows whether the way is free, and how long it takes [s]."""
    odds = search.free.odds(now)
    reach = search.free.clear_distance - search.free.width / 2
    for k in range(2 * HEADINGS):
        heading = wrap(k * math.pi / HEADINGS)
        here = Pose(pose.x, pose.y, heading)
        cells = [search.grid.cell(*here.ahead(share * reach)) for share in TRIED]
        if any(cell is None or abs(float(odds[cell])) > TRIED_ODDS for cell in cells):
            continue
        x, y = here.ahead(reach)
        seconds = reach / pace.forward + pace.turning(heading - pose.heading) + 2.0 * pace.view
        yield Pose(x, y, heading), seconds


def _views_elsewhere(search: SearchMap, gains: Gains, pose: Pose, pace: Pace, now: float) -> list[View]:
    views = []
    for corners, travel in _places(search, pose, pace, now):
        best = gains.views(*corners[-1])
        if best:
            gain, seconds = _best_share(best, travel, pace.view)
            views.append(View(corners, best[0][0], gain, seconds))
    return [view for view in views if view.gain >= WORTH_A_WAY]


def _ways(search: SearchMap, gains: Gains, pose: Pose, pace: Pace, now: float) -> list[View]:
    """Return the directions in which nobody knows yet whether the way is free, and what may be seen from there."""
    views = []
    for place, travel in _untried(search, pose, pace, now):
        gain, seconds = _best_share(gains.views(place.x, place.y), travel, pace.view)
        views.append(View((), place.heading, UNKNOWN_IS_FREE * gain, seconds, is_way=True))
    return [view for view in views if view.gain >= UNKNOWN_IS_FREE * WORTH_A_WAY]


def way_around(search: SearchMap, pose: Pose, goal: tuple[float, float], pace: Pace, now: float) -> View | None:
    """Return the way around what is between `pose` and the `goal` [m], to where the robot should look for it again.

    It is the quickest, if the rest of it is free for which nobody knows yet; None when there is none.
    """
    odds = search.free.odds(now)

    def rest(x: float, y: float) -> float:
        there = Pose(x, y)
        far = there.distance_to(goal)
        toward = Pose(x, y, there.bearing_of(goal))
        cells = [search.grid.cell(*toward.ahead(step)) for step in np.arange(0.0, min(far, BEYOND), CELL)]
        blocked = any(cell is not None and odds[cell] < -TRIED_ODDS for cell in cells)
        return HESITATION * far / pace.forward + (STILL_BLOCKED if blocked else 0.0)

    views = []
    for corners, seconds in _places(search, pose, pace, now):
        end = Pose(*corners[-1])
        views.append(View(corners, end.bearing_of(goal), 1.0, seconds + rest(end.x, end.y)))
    for place, seconds in _untried(search, pose, pace, now):
        views.append(View((), place.heading, 1.0, seconds + rest(place.x, place.y) + UNTRIED, is_way=True))
    return min(views, key=lambda view: view.seconds, default=None)
