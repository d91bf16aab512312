"""What a depth image or a laser scan says: how far things are in a direction, and how far the way is free. No ROS."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlm_perception.navigation.evidence import FUTURE
from vlm_perception.navigation.motion import Pose

COLUMNS = 80
"""A wider depth image is thinned out to about so many columns: enough for a chair's leg within a metre."""
FLOOR = 0.05
"""What is lower [m] is the floor; it leaves room for a camera that is not mounted quite as it is said to be."""
KNOWN = 0.2
"""With depth at a smaller share of what is ahead a sensor sees nothing: it is covered, or something is too close."""
RANGE_PERCENTILE = 10.0
"""A target is as far as the nearest tenth of what is in its direction: before a wall, and behind single outliers."""
ENCODINGS = {"32FC1": ("f4", 1.0), "16UC1": ("u2", 0.001), "mono16": ("u2", 0.001)}
"""Of depth images: type of a pixel, and how many [m] is 1 (REP 118)."""


class UnusableDepth(ValueError):  # noqa: N818 - as UnusableAnswer
    """A depth image or scan that says nothing about what is ahead; the message says why."""


@dataclass(frozen=True, eq=False)
class Points:
    """Where something is, seen from the camera at `stamp` [s]: `ahead`, `left` and `up` from the floor [m].

    The arrays are float64 of shape (n,). So many points as `enough`, and no less, are a thing and no noise.
    """

    stamp: float
    ahead: np.ndarray
    left: np.ndarray
    up: np.ndarray
    enough: int

    def moved(self, then: Pose, now: Pose) -> Points:
        """Return the same points as seen from `now`, when they were seen from `then`.

        These are poses of the robot; that its camera is not in the centre of its turns is neglected.
        """
        x, y = now.x - then.x, now.y - then.y
        along = x * math.cos(then.heading) + y * math.sin(then.heading)
        across = y * math.cos(then.heading) - x * math.sin(then.heading)
        turned = now.heading - then.heading
        c, s = math.cos(turned), math.sin(turned)
        ahead, left = self.ahead - along, self.left - across
        return replace(self, ahead=c * ahead + s * left, left=c * left - s * ahead)

    def free(self, width: float, height: float) -> float:
        """Return how far [m] a robot of this size could drive straight on; inf when nothing is there."""
        in_the_way = (self.ahead >= 0.0) & (np.abs(self.left) <= width / 2) & (self.up <= height)
        ahead = self.ahead[in_the_way]
        return float(np.partition(ahead, self.enough - 1)[self.enough - 1]) if len(ahead) >= self.enough else math.inf

    def range_between(self, right: float, left: float) -> float:
        """Return how far [m] things are between two bearings [rad, positive left]; NaN when nothing is there."""
        bearing = np.arctan2(self.left, self.ahead)
        there = (bearing >= right) & (bearing <= left)
        if np.count_nonzero(there) < self.enough:
            return math.nan
        return float(np.percentile(np.hypot(self.ahead[there], self.left[there]), RANGE_PERCENTILE))


@dataclass(frozen=True)
class DepthReading:
    """How depth is measured.

    The camera sees `field_of_view` [rad] wide, is `camera_height` [m] above the floor and looks down by `camera_pitch`
    [rad]. A laser is at `scan_pose` (ahead [m], left [m], turned left [rad]) of the camera.
    """

    field_of_view: float
    camera_height: float
    camera_pitch: float
    scan_pose: tuple[float, ...] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if len(self.scan_pose) != 3:
            raise ValueError(f"scan_pose is {list(self.scan_pose)}, expected ahead [m], left [m] and yaw [rad]")

    def read_image(self, message: Any, stamp: float) -> Points:
        """Return what is in a `sensor_msgs/Image` with the pixels of the camera's picture; raises UnusableDepth.

        Its pixels are distances along the optical axis, as REP 118 has them: metres as 32FC1 (NaN: unknown, -inf: too
        close, inf: nothing in reach) or millimetres as 16UC1 (0: unknown).
        """
        z = _pixels(message)
        step = max(1, z.shape[1] // COLUMNS)
        z = z[step // 2 :: step, step // 2 :: step]
        close = np.isneginf(z)
        _check_known((z > 0.0) | close)
        z = np.where(close, 0.0, z)
        rows, columns = z.shape
        focal = columns / 2 / math.tan(self.field_of_view / 2)
        right = (np.arange(columns) - (columns - 1) / 2) / focal
        down = ((np.arange(rows) - (rows - 1) / 2) / focal)[:, None]
        c, s = math.cos(self.camera_pitch), math.sin(self.camera_pitch)
        there = ((z > 0.0) | close) & np.isfinite(z)
        z = np.where(there, z, 0.0)
        up = self.camera_height - z * (down * c + s)
        there &= up > FLOOR
        return Points(stamp, (z * (c - down * s))[there], (-z * right)[there], up[there], enough=5)

    def read_scan(self, message: Any, stamp: float) -> Points:
        """Return what is in a `sensor_msgs/LaserScan` (REP 117: inf is nothing in reach, -inf too close, NaN unknown).

        Raises UnusableDepth.
        """
        ranges = np.asarray(message.ranges, np.float64)
        angles = message.angle_min + message.angle_increment * np.arange(len(ranges))
        if not (len(ranges) and np.isfinite(angles[[0, -1]]).all()):
            raise UnusableDepth(
                f"a scan of {len(ranges)} ranges from {message.angle_min} rad in steps of {message.angle_increment} "
                "rad, expected some ranges and finite angles"
            )
        x, y, yaw = self.scan_pose
        bearing = np.remainder(angles + yaw + math.pi, math.tau) - math.pi
        close = np.isneginf(ranges)
        _check_known(((ranges >= message.range_min) | close)[np.abs(bearing) < self.field_of_view / 2])
        there = (ranges >= message.range_min) & (ranges <= message.range_max) & np.isfinite(ranges) | close
        ranges, bearing = np.where(close, 0.001, ranges)[there], bearing[there]
        ahead, left = x + ranges * np.cos(bearing), y + ranges * np.sin(bearing)
        return Points(stamp, ahead, left, np.zeros_like(ahead), enough=1)


def _pixels(message: Any) -> np.ndarray:
    """Return a depth image [m] as float64 of shape (height, width); raises UnusableDepth."""
    height, width = message.height, message.width
    if message.encoding not in ENCODINGS:
        raise UnusableDepth(f"the depth image is {message.encoding!r:.50}, expected one of {list(ENCODINGS)}")
    kind, unit = ENCODINGS[message.encoding]
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    if min(height, width) < 3 or message.step < width * dtype.itemsize or len(message.data) < height * message.step:
        raise UnusableDepth(
            f"the depth image is {width}x{height} pixels of {dtype.itemsize} bytes in {len(message.data)} bytes with a "
            f"step of {message.step}, which do not fit together"
        )
    raw = np.ndarray((height, width), dtype, memoryview(message.data).cast("B"), strides=(message.step, dtype.itemsize))
    return raw.astype(np.float64) * unit


def _check_known(known: np.ndarray) -> None:
    share = float(known.mean()) if known.size else 0.0
    if share < KNOWN:
        raise UnusableDepth(
            f"there is depth at {share:.0%} of what is ahead, expected at least {KNOWN:.0%}: is the sensor covered, "
            "turned away, or something too close to it?"
        )


class DepthSensor:
    """The newest points of one sensor, and whether they may still be used.

    Points that are older than `max_age` [s], by their stamp or by their arrival, count as none. A sensor that was in
    use and has no fresh points any more is a doubt: the robot drove on because of it.
    """

    def __init__(self, name: str, max_age: float) -> None:
        self.name = name
        self.max_age = max_age
        self.faults: Counter[str] = Counter()
        self._points: Points | None = None
        self._pose = Pose()
        self._arrived = -math.inf
        self.in_use = False
        self._problem = ""

    def forget(self) -> None:
        """Begin anew: what does not come from now on is not missed."""
        self.in_use = False

    def add(self, points: Points, pose: Pose, steady: float) -> None:
        """Take points that were seen from `pose`."""
        self._points, self._pose, self._arrived, self._problem = points, pose, steady, ""

    def fail(self, reason: str) -> None:
        """There were points, but none that say anything."""
        self._points, self._problem = None, reason
        self.faults[f"unusable {self.name}"] += 1

    def points(self, now: float, steady: float, pose: Pose) -> Points | None:
        """Return the newest points as seen from `pose`, or None when they are not fresh."""
        points = self._points
        if points is None or steady - self._arrived > self.max_age:
            return None
        if not -FUTURE <= now - points.stamp <= self.max_age:
            return None
        self.in_use = True
        return points.moved(self._pose, pose)

    def doubt(self, now: float, steady: float) -> str:
        """Return why the robot must not move, or an empty text."""
        if self.points(now, steady, self._pose) is not None or not self.in_use:
            return ""
        why = self._problem or f"nothing newer than {self.max_age:g} s (max_depth_age) comes from it"
        return (
            f"the {self.name} was in use and has failed: {why} (set the target or the mode again to go on without it)"
        )
