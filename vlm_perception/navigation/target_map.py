"""Where the target probably is: a belief over the floor, from answers with the poses of their own images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vlm_perception.navigation.grid import CELL, Grid, Window
from vlm_perception.navigation.motion import Pose, is_same_view
from vlm_perception.navigation.sighting import Surroundings

SIGHT = 6.5
"""The chance of seeing a target that is in view falls with the square of its distance over this [m]."""
FARTHEST = 8.0
"""Beyond this distance [m] nothing is seen."""
MISSED = 0.05
"""A target in plain view is overlooked with this probability."""
EDGE = 0.05, 0.15
"""The borders of the image and of its thirds are blurred by so much [rad], and by half of how wide a target is [m]."""
NEAR_EDGE = 0.12
"""The border between near and far is blurred by so much [m]."""
BEHIND_SURFACE, RANGE_ERROR, NOT_MEASURED = 0.25, 0.3, 0.1
"""A target's middle is so far [m] from the robot's centre beyond its distance from the camera, with this deviation [m];
depth is of something else with this probability."""
OTHER_SIDE = 0.03
"""A target is said to be in a third of the image in which it is not with this probability, for each."""
USUAL_ABSENT, USUAL_SIDE = 0.4, 0.2
"""How often a model says that the target is absent, and in one of the thirds, before it has looked."""
WRONG = 0.05
"""An answer is no better than chance with this probability."""
ALIKE = 0.8
"""Exponent of what speaks for the target: images of the same thing look alike, so that two are not two proofs."""
AGAIN = 1.5
"""Images of the same view count as one, and never more than so many."""
APART = 1.0
"""What is hidden from one place is hidden from another with a correlation that falls with this distance [m]."""
EVIDENCE = -8.0, 8.0
"""Log likelihood ratios are kept within these; above, all that speaks for the target is lowered alike."""
FADING = 300.0
"""Time constant [s] with which evidence fades: things move."""
PRIOR = 0.13
"""Prior odds of a target's being on a square metre of floor, against its being nowhere in reach."""
SECTOR = 0.35
"""A target counts as one whose probable places lie within this angle [rad] to each side."""
REJECTED = 0.5, 0.98
"""What turned out to be something else is within this distance [m]; the target is not there with this probability."""
VIEWS = 64
"""So many views are remembered, to recognize the same view again."""


@dataclass
class _View:
    """Images from one place in one direction: their mean answer, and what it added to the evidence."""

    pose: Pose
    chances: np.ndarray
    count: int
    added: np.ndarray
    novelty: np.ndarray


@dataclass(frozen=True)
class Sector:
    """The direction in which the target most probably is, from one place.

    `mass` is the probability that it is there at all. `x`, `y` [m] are the mean of its places there, `covariance`
    [m^2] theirs (xx, xy, yx, yy). `places` [m] (2, n) are the middles of its cells, `weights` (n) add up to 1.
    """

    mass: float
    x: float
    y: float
    covariance: tuple[float, ...]
    places: np.ndarray
    weights: np.ndarray

    def near(self, pose: Pose, distance: float) -> float:
        """Return the probability that a target in this sector is within `distance` [m] of `pose`."""
        far = np.hypot(self.places[0] - pose.x, self.places[1] - pose.y)
        return float(self.weights[far < distance].sum())


class TargetMap:
    """The log likelihood ratio of the target's being in a cell against its being elsewhere, and what follows.

    `field_of_view` is horizontal [rad]. A target is near when its middle is within `near_distance` [m].
    """

    FILLS: ClassVar[Mapping[str, float]] = dict.fromkeys(("evidence", "seen", "seen_x", "seen_y", "rejected"), 0.0)

    def __init__(self, grid: Grid, field_of_view: float, near_distance: float) -> None:
        self._grid = grid
        self.field_of_view = field_of_view
        self.near_distance = near_distance
        self._views: list[_View] = []
        self._stamp = math.nan

    def forget(self) -> None:
        """Begin anew, with another target."""
        self._grid.clear(*self.FILLS)
        self._views.clear()
        self._stamp = math.nan

    # From answers

    def add(
        self,
        pose: Pose,
        chances: Sequence[float],
        surroundings: Surroundings | None,
        stamp: float,
        measured: float = math.nan,
    ) -> None:
        """Take the answer about an image that was taken at `pose` at `stamp` [s].

        `chances` are the probabilities of absent, left near, left far, center near, center far, right near, right far.
        `measured` [m] is the distance from the camera in that direction, as depth has it, NaN when nobody measures.
        """
        self._fade(stamp)
        answer = np.asarray(chances, float)
        view = next((view for view in reversed(self._views) if is_same_view(view.pose, pose)), None)
        if view is None:
            window = self._grid.window(pose.x, pose.y, FARTHEST)
            seen = self._visibility(window, pose, surroundings)
            view = _View(pose, answer, 1, np.float32(0.0), self._novelty(window, pose))
            self._views = [*self._views[1 - VIEWS :], view]
            weight = 1.0
        else:
            view.count += 1
            view.chances = view.chances + (answer - view.chances) / view.count
            window = self._grid.window(view.pose.x, view.pose.y, FARTHEST)
            seen = self._visibility(window, view.pose, surroundings)
            weight = AGAIN - (AGAIN - 1.0) * 0.5 ** (view.count - 1)
        ratio = self._ratio(window, view.pose, view.chances, seen, measured)
        added = weight * np.where(ratio < 0.0, view.novelty * ratio, ALIKE * ratio).astype(np.float32)
        evidence = self._grid.layers["evidence"][window.slices]
        evidence += added - view.added
        self._limit(evidence)
        view.added = added
        self._remember(window, view.pose, seen)

    def _limit(self, evidence: np.ndarray) -> None:
        low, high = EVIDENCE
        np.maximum(evidence, low, out=evidence)
        if (excess := float(evidence.max()) - high) > 0.0:
            everything = self._grid.layers["evidence"]
            np.maximum(everything - excess, np.minimum(everything, 0.0), out=everything)

    def _fade(self, stamp: float) -> None:
        passed = stamp - self._stamp
        if passed <= 0.0:
            return
        self._stamp = stamp
        if passed > 0.0:  # not at first
            left = np.float32(math.exp(-passed / FADING))
            for name in ("evidence", "seen", "rejected"):
                self._grid.layers[name] *= left
            for view in self._views:
                view.added = view.added * left

    def _visibility(self, window: Window, pose: Pose, surroundings: Surroundings | None) -> np.ndarray:
        """Return the probability that a target in a cell is to be seen from `pose`."""
        distance, bearing = _polar(window, pose)
        seen = np.exp(-((distance / SIGHT) ** 2)) * (1.0 - MISSED)
        seen *= _step((self.field_of_view / 2 - np.abs(bearing)) / _blur(distance))
        if surroundings is not None:
            ahead = np.abs(bearing) < 0.4
            for chance, beyond in ((surroundings.wall, 1.2), (0.7 * surroundings.obstacle, 0.9)):
                seen[ahead & (distance > beyond)] *= 1.0 - chance
        return seen

    def _ratio(self, window: Window, pose: Pose, chances: np.ndarray, seen: np.ndarray, measured: float) -> np.ndarray:
        """Return how much more likely the answer is with a target in a cell than elsewhere (log)."""
        distance, bearing = _polar(window, pose)
        absent = WRONG + (1.0 - WRONG) * chances[0] / USUAL_ABSENT
        sides = WRONG + (1.0 - WRONG) * chances[1:].reshape(3, 2) / USUAL_SIDE
        near = _step((self.near_distance - distance) / NEAR_EDGE)
        by_range = [side[1] + (side[0] - side[1]) * near for side in sides]
        border = math.atan(math.tan(self.field_of_view / 2) / 3)
        blur = _blur(distance)
        left, right = _step((bearing - border) / blur), _step((-bearing - border) / blur)
        share = [OTHER_SIDE + (1.0 - 3.0 * OTHER_SIDE) * part for part in (left, 1.0 - left - right, right)]
        visible = sum(part * likelihood for part, likelihood in zip(share, by_range, strict=True))
        if math.isfinite(measured):
            off = (distance - (measured + BEHIND_SURFACE)) / RANGE_ERROR
            visible *= NOT_MEASURED + (1.0 - NOT_MEASURED) * np.exp(-0.5 * off**2)
        return np.log((absent + seen * (visible - absent)) / absent)

    def _novelty(self, window: Window, pose: Pose) -> np.ndarray:
        """Return how far what is hidden from `pose` is not what was hidden from where the cell was seen before."""
        layers = self._grid.layers
        seen, x, y = (layers[name][window.slices] for name in ("seen", "seen_x", "seen_y"))
        hidden = seen * np.exp(-np.hypot(x - np.float32(pose.x), y - np.float32(pose.y)) / np.float32(APART))
        # What seemed to be seen is not hidden: that it is not seen again speaks against it.
        return np.where(layers["evidence"][window.slices] > 0.0, np.float32(1.0), 1.0 - hidden)

    def _remember(self, window: Window, pose: Pose, seen: np.ndarray) -> None:
        layers = self._grid.layers
        before, x, y = (layers[name][window.slices] for name in ("seen", "seen_x", "seen_y"))
        share = np.minimum(1.0, seen / (np.exp(-((_polar(window, pose)[0] / SIGHT) ** 2)) * (1.0 - MISSED)))
        better = share >= before - 0.3
        better &= share > 0.3
        before[better] = np.maximum(before, share)[better]
        x[better], y[better] = pose.x, pose.y

    def views(self) -> list[tuple[Pose, int]]:
        """Return from where images were taken, and how many."""
        return [(view.pose, view.count) for view in self._views]

    def reject(self, x: float, y: float) -> None:
        """Remember that what is at a place [m] turned out to be something else."""
        radius, share = REJECTED
        window = self._grid.window(x, y, radius)
        layer = self._grid.layers["rejected"][window.slices]
        layer[np.hypot(window.x - x, window.y - y) <= radius] = share

    # What follows

    def belief(self, floor: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the probability of the target's being in each cell, and of its being nowhere in reach.

        `floor` is the probability of each cell's being floor that can be reached. All add up to 1.
        """
        evidence = self._grid.layers["evidence"]
        weights = (PRIOR * CELL**2) * floor * np.exp(evidence) * (1.0 - self._grid.layers["rejected"])
        total = 1.0 + float(weights.sum(dtype=float))
        return weights / np.float32(total), 1.0 / total

    def searched(self, floor: np.ndarray) -> float:
        """Return the share of what can be reached that was searched: of how much of the prior the answers took away."""
        total = float(floor.sum(dtype=float))
        left = float((floor * np.exp(np.minimum(0.0, self._grid.layers["evidence"]))).sum(dtype=float))
        return 1.0 - left / total if total > 0.0 else 0.0

    def sector(self, belief: np.ndarray, pose: Pose) -> Sector:
        """Return in which direction from `pose` the target most probably is."""
        rows, columns = np.nonzero(belief > 1e-6)
        weights = belief[rows, columns].astype(float)
        if not len(weights):
            return Sector(0.0, pose.x, pose.y, (0.0, 0.0, 0.0, 0.0), np.zeros((2, 0)), weights)
        x, y = (rows + self._grid.first[0] + 0.5) * CELL, (columns + self._grid.first[1] + 0.5) * CELL
        bearing = np.arctan2(y - pose.y, x - pose.x)
        bins = 72
        index = ((bearing + math.pi) / math.tau * bins).astype(int) % bins
        mass = np.bincount(index, weights, bins)
        half = max(1, round(SECTOR / math.tau * bins))
        around = sum(np.roll(mass, shift) for shift in range(-half, half + 1))
        middle = (int(np.argmax(around)) + 0.5) / bins * math.tau - math.pi
        inside = np.abs((bearing - middle + math.pi) % math.tau - math.pi) <= (half + 0.5) / bins * math.tau
        total = float(weights[inside].sum())
        if total <= 0.0:
            return Sector(0.0, pose.x, pose.y, (0.0, 0.0, 0.0, 0.0), np.zeros((2, 0)), np.zeros(0))
        share, places = weights[inside] / total, np.stack([x[inside], y[inside]])
        mean = places @ share
        apart = places - mean[:, None]
        covariance = (apart * share) @ apart.T + np.eye(2) * CELL**2 / 12
        return Sector(total, float(mean[0]), float(mean[1]), tuple(float(v) for v in covariance.ravel()), places, share)


def _polar(window: Window, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance [m] of the cells, and their bearing [rad, positive left, -pi..pi]."""
    dx, dy = window.x - np.float32(pose.x), window.y - np.float32(pose.y)
    bearing = np.arctan2(dy, dx) - np.float32(pose.heading)
    tau = np.float32(math.tau)
    return np.maximum(np.hypot(dx, dy), np.float32(CELL / 2)), bearing - tau * np.rint(bearing / tau)


def _blur(distance: np.ndarray) -> np.ndarray:
    """Return how blurred [rad] a border is for a target that is so far away [m]."""
    angle, width = EDGE
    return angle + np.arctan(width / distance) / 2


def _step(x: np.ndarray) -> np.ndarray:
    """Return a step from 0 to 1 around 0 that is about as wide as the normal distribution's (logistic)."""
    return 1.0 / (1.0 + np.exp(np.clip(-1.7 * x, -30.0, 30.0)))
