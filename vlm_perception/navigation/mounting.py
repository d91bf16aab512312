"""From transforms between frames (REP 103, REP 105) to how a camera and a laser are mounted. No ROS."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LEVEL = 0.26
"""A camera may look aside and be rolled, and a laser may be tilted, by so much [rad]; the rest is not computed with."""
HEIGHT = (0.0, 5.0)
"""Lowest and highest camera above the floor [m]."""
PITCH = 1.5
"""A camera looks down or up by less [rad]."""
FAR = 10.0
"""A laser is not so far [m] from the camera."""


class MountingError(ValueError):
    """A mounting with which images or scans are not read rightly; the message says what is wrong."""


@dataclass(frozen=True)
class Transform:
    """Where a frame is in another one: `translation` (x, y, z) [m] and the quaternion `rotation` (x, y, z, w)."""

    translation: tuple[float, float, float]
    rotation: tuple[float, float, float, float]

    def axes(self) -> np.ndarray:
        """Return the frame's axes in the other frame, as the columns of a 3x3 matrix; raises MountingError."""
        norm = math.hypot(*self.rotation)
        if not all(map(math.isfinite, self.translation)) or not abs(norm - 1.0) < 0.01:
            raise MountingError(
                f"{self.translation}, {self.rotation} is not a transform: its quaternion has no length 1"
            )
        x, y, z, w = (part / norm for part in self.rotation)
        return np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )


def camera_mounting(camera: Transform) -> tuple[float, float]:
    """Return how high [m] a camera is and how far [rad] it looks down.

    `camera` is its optical frame (z forward, x right, y down) in a frame on the floor (x forward, z up). Raises
    MountingError for one that does not look ahead.
    """
    right, down, forward = camera.axes().T
    pitch = math.atan2(-forward[2], math.hypot(forward[0], forward[1]))
    if abs(pitch) > PITCH:
        raise MountingError(
            f"the camera looks straight {'down' if pitch > 0 else 'up'}: is its frame the optical one (REP 103: z "
            "forward, x right, y down)?"
        )
    aside = math.atan2(forward[1], forward[0])
    if abs(aside) > LEVEL:
        side = "left" if aside > 0 else "right"
        raise MountingError(f"the camera looks {abs(aside):.2f} rad to the {side}, expected ahead: within {LEVEL} rad")
    roll = math.atan2(right[2], -down[2])
    if abs(roll) > LEVEL:
        raise MountingError(f"the camera is rolled by {roll:.2f} rad, expected upright: within {LEVEL} rad")
    height = camera.translation[2]
    if not HEIGHT[0] <= height <= HEIGHT[1]:
        raise MountingError(f"the camera is {height:.3g} m above the floor, expected {HEIGHT[0]:g} to {HEIGHT[1]:g} m")
    return height, pitch


def scan_pose(camera: Transform, laser: Transform) -> tuple[float, float, float]:
    """Return where a laser is, seen from the camera: ahead [m], left [m], turned left [rad].

    Both are in one frame of the robot (x forward, z up): the camera's optical frame, and the laser's (x at its angle 0,
    z up). Raises MountingError for a laser that does not scan level.
    """
    forward = camera.axes()[:, 2]
    axes = laser.axes()
    if axes[2, 2] < math.cos(LEVEL):
        raise MountingError(
            f"the laser is tilted by {math.acos(max(-1.0, axes[2, 2])):.2f} rad, expected level and upright: within "
            f"{LEVEL} rad"
        )
    heading = math.atan2(forward[1], forward[0])
    x, y, _ = np.subtract(laser.translation, camera.translation)
    c, s = math.cos(heading), math.sin(heading)
    ahead, left = float(c * x + s * y), float(c * y - s * x)
    if math.hypot(ahead, left) > FAR:
        raise MountingError(f"the laser is {math.hypot(ahead, left):.3g} m from the camera, expected at most {FAR:g} m")
    turned = math.atan2(axes[1, 0], axes[0, 0]) - heading
    return ahead, left, math.remainder(turned, math.tau)
