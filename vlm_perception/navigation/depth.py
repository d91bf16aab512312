"""What a depth image or a laser scan says: how far things are in a direction, and how far the way is free. No ROS."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlm_perception.navigation.answer_monitor import FUTURE
from vlm_perception.navigation.motion import Pose
from vlm_perception.navigation.sighting import third

COLUMNS = 80
"""A wider depth image is thinned out to about so many columns: enough for a chair's leg within a metre."""
FLOOR = 0.05
"""What is lower [m] is the floor; it leaves room for a camera that is not mounted quite as it is said to be."""
KNOWN = 0.2
"""With depth at a smaller share of what is ahead a sensor sees nothing: it is covered, or something is too close."""
KNOWN_IN_THE_MIDDLE = 0.5
"""Smallest known share of the middle third, where the robot drives: what is too close often has no depth."""
RANGE_PERCENTILE = 10.0
"""A target is as far as the nearest tenth of what is in its direction: before a wall, and behind single outliers."""
FARTHEST = 65.0
"""A depth image has no distance from here on [m]: it is 65535 for "unknown", or millimetres that are called metres."""
FARTHEST_SCAN = 500.0
"""As above, for a scan."""
ANGLES_AGREE = 0.03
"""The angles of a scan may miss its angle_max by this much [rad], or by two and a half of its steps."""
ENCODINGS = {"32FC1": ("f4", 1.0), "16UC1": ("u2", 0.001), "mono16": ("u2", 0.001)}
"""Encodings of depth images: type of a pixel, and its unit [m] (REP 118)."""


class UnusableDepthError(ValueError):
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
    [rad]. A laser is at `scan_pose` (ahead [m], left [m], turned left [rad]) of the camera. The robot is to stop when
    something is `stop_distance` [m] from the camera, so a laser must measure there.
    """

    field_of_view: float
    camera_height: float
    camera_pitch: float
    scan_pose: tuple[float, ...] = (0.0, 0.0, 0.0)
    stop_distance: float = 0.35

    def __post_init__(self) -> None:
        if len(self.scan_pose) != 3:
            raise ValueError(f"scan_pose is {list(self.scan_pose)}, expected ahead [m], left [m] and yaw [rad]")

    def read_image(self, message: Any, stamp: float) -> Points:
        """Return what is in a `sensor_msgs/Image` with the pixels of the camera's image; raises UnusableDepthError.

        Its pixels are distances along the optical axis, as REP 118 has them: metres as 32FC1 (NaN: unknown, -inf: too
        close, inf: nothing in reach) or millimetres as 16UC1 (0 and 65535: unknown).
        """
        z = _pixels(message)
        step = max(1, z.shape[1] // COLUMNS)
        z = z[step // 2 :: step, step // 2 :: step]
        close = np.isneginf(z)
        z = np.where((z > FARTHEST) & np.isfinite(z), np.nan, z)
        known = (z > 0.0) | close
        side = known.shape[1] // 3
        _check_known(float(known.mean()), float(known[:, side : known.shape[1] - side].mean()))
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

        Raises UnusableDepthError.
        """
        _check_angles(message)
        self._check_limits(message)
        ranges = np.asarray(message.ranges, np.float64)
        angles = message.angle_min + message.angle_increment * np.arange(len(ranges))
        x, y, yaw = self.scan_pose
        bearing = np.remainder(angles + yaw + math.pi, math.tau) - math.pi
        close = np.isneginf(ranges)
        there = (ranges >= message.range_min) & (ranges <= message.range_max) | close
        # A finite range beyond the limit contradicts it, so it is none: what has nothing in reach is inf (REP 117).
        known = there | np.isposinf(ranges)
        halves = self.field_of_view / 2, third("center", self.field_of_view)[1]
        seen = [np.count_nonzero(known & (np.abs(bearing) < half)) for half in halves]
        step = abs(message.angle_increment)
        _check_known(*(count * step / (2.0 * half) for count, half in zip(seen, halves, strict=True)))
        ranges, bearing = np.where(close, 0.001, ranges)[there], bearing[there]
        ahead, left = x + ranges * np.cos(bearing), y + ranges * np.sin(bearing)
        return Points(stamp, ahead, left, np.zeros_like(ahead), enough=1)

    def _check_limits(self, message: Any) -> None:
        """Raise UnusableDepthError unless the limits of the scan are possible and the robot can stop within them."""
        nearest, farthest = message.range_min, message.range_max
        limits = f"its range_min is {nearest:.4g} m and its range_max {farthest:.4g} m"
        if not 0.0 <= nearest < farthest <= FARTHEST_SCAN:
            raise UnusableDepthError(f"{limits}, expected 0 <= range_min < range_max <= {FARTHEST_SCAN:g} m")
        stop = self.stop_distance - self.scan_pose[0]
        if not nearest <= stop + 1e-3 < farthest:
            raise UnusableDepthError(
                f"{limits}, but the robot is to stop for what is {stop:.4g} m from the laser (stop_distance less the "
                "first of scan_pose): set stop_distance so that the laser measures there"
            )


def _pixels(message: Any) -> np.ndarray:
    """Return a depth image [m] as float64 of shape (height, width); raises UnusableDepthError."""
    height, width = message.height, message.width
    if message.encoding not in ENCODINGS:
        raise UnusableDepthError(f"the depth image is {message.encoding!r:.50}, expected one of {list(ENCODINGS)}")
    kind, unit = ENCODINGS[message.encoding]
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    if min(height, width) < 3 or message.step < width * dtype.itemsize or len(message.data) != height * message.step:
        raise UnusableDepthError(
            f"the depth image is {width}x{height} pixels of {dtype.itemsize} bytes in {len(message.data)} bytes with a "
            f"step of {message.step}, which do not fit together"
        )
    raw = np.ndarray((height, width), dtype, memoryview(message.data).cast("B"), strides=(message.step, dtype.itemsize))
    return raw.astype(np.float64) * unit


def _check_angles(message: Any) -> None:
    """Raise UnusableDepthError unless the angles of a scan are one turn at most and fit together."""
    count, first, last, step = len(message.ranges), message.angle_min, message.angle_max, message.angle_increment
    told = f"a scan of {count} ranges from {first:.4g} rad to {last:.4g} rad in steps of {step:.4g} rad"
    if not (count and math.isfinite(first + last + step) and step != 0.0):
        raise UnusableDepthError(f"{told}, expected some ranges and finite angles")
    span = (count - 1) * step
    if abs(span) > math.tau + 0.1:
        raise UnusableDepthError(f"{told}, which is more than a turn: are its angles in degrees?")
    if abs(first + span - last) > max(ANGLES_AGREE, 2.5 * abs(step)):
        raise UnusableDepthError(f"{told}, which do not fit together: is a sign wrong, or are ranges missing?")


def _check_known(share: float, center: float) -> None:
    """Raise UnusableDepthError if too little is known of what is ahead, or of its middle third."""
    for known, least, what in (
        (share, KNOWN, "what is ahead"),
        (center, KNOWN_IN_THE_MIDDLE, "the middle of what is ahead"),
    ):
        if known < least:
            raise UnusableDepthError(
                f"there is depth at {known:.0%} of {what}, expected at least {least:.0%}: is the sensor covered, "
                "turned away, or something too close to it, or its unit wrong?"
            )


class DepthSensor:
    """The newest points of one sensor, and whether they may still be used.

    Points that are older than `max_age` [s], by their stamp or by their arrival, count as none. A sensor that was in
    use and has no fresh points any more is a doubt: the robot drove on because of it. In use is whatever sends, even
    if it is not usable or has wrong stamps: only a sensor that is silent from the start is not missed.
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
        self.in_use = True

    def fail(self, reason: str) -> None:
        """There were points, but none that say anything."""
        self._points, self._problem = None, reason
        self.in_use = True
        self.faults[f"unusable {self.name}"] += 1

    def points(self, now: float, steady: float, pose: Pose) -> Points | None:
        """Return the newest points as seen from `pose`, or None when they are not fresh."""
        points = self._points
        if points is None or steady - self._arrived > self.max_age:
            return None
        if not -FUTURE <= now - points.stamp <= self.max_age:
            return None
        return points.moved(self._pose, pose)

    def doubt(self, now: float, steady: float) -> str | None:
        """Return why the robot must not move, or None."""
        if self.points(now, steady, self._pose) is not None or not self.in_use:
            return None
        if self._problem:
            return f"the {self.name} is not usable: {self._problem}"
        limit = f"{self.max_age:g} s"
        if self._points is not None and steady - self._arrived <= self.max_age:
            old = now - self._points.stamp
            return f"the stamps of the {self.name} are {old:.2g} s old, expected 0 to {limit}: do the clocks agree?"
        return (
            f"the {self.name} was in use and has failed: nothing newer than {limit} comes from it (set the target or "
            "the mode again to go on without it)"
        )
