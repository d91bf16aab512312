"""The field of view that a `sensor_msgs/CameraInfo` tells. No ROS."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

LIMITS = (0.1, 3.0)
"""A field of view outside of these [rad] is none of a camera that looks ahead."""
OFF_CENTER = 0.15
"""The optical axis is in the middle of the image, up to this share of its size; pixels are read as if it was."""
SQUARE = 0.8
"""The two focal lengths differ by this factor at most: pixels are read as if they were square."""
ANGLES = np.linspace(0.0, 1.55, 1551)
"""Where the distortion is looked up [rad]."""
PINHOLE = ("", "plumb_bob", "rational_polynomial")
"""The distortion models that distort the image of a pinhole (`sensor_msgs/distortion_models`)."""
FISHEYE = "equidistant"


class CameraInfoError(ValueError):
    """A CameraInfo that tells no field of view; the message says why."""


def field_of_view(info: Any) -> float:
    """Return how wide [rad] the raw image is that `info` belongs to; raises CameraInfoError.

    K and the region of interest count in pixels of the whole sensor without binning, so binning changes nothing.
    """
    width, height = info.width, info.height
    if not (width and height):
        raise CameraInfoError(f"its size is {width}x{height}")
    if not any(info.k):
        raise CameraInfoError("its K is zero, so the camera is not calibrated")
    if not all(map(math.isfinite, (*info.k, *info.d))):
        raise CameraInfoError("its K or D is not finite")
    focal, _, center_x, _, focal_y, center_y, *_ = map(float, info.k)
    if not (focal > 0.0 and focal_y > 0.0 and SQUARE <= focal / focal_y <= 1 / SQUARE):
        raise CameraInfoError(f"its focal lengths are {focal:.4g} and {focal_y:.4g}, expected two similar ones above 0")
    left, top, width, height = _region(info)
    for center, first, size, name in ((center_x, left, width, "column"), (center_y, top, height, "row")):
        if abs(center - (first + size / 2)) > OFF_CENTER * size:
            raise CameraInfoError(
                f"its optical axis is in {name} {center:.4g}, expected about the middle of {first} to {first + size}: "
                "was it calibrated at another size, or is the region of interest not in the middle?"
            )
    field = 2.0 * _angle(width / 2 / focal, info.distortion_model, list(info.d))
    if not LIMITS[0] <= field <= LIMITS[1]:
        raise CameraInfoError(f"its field of view is {field:.3g} rad, expected {LIMITS[0]} to {LIMITS[1]} rad")
    return field


def _region(info: Any) -> tuple[int, int, int, int]:
    """Return the first column and row, the width and the height of what is read of the sensor."""
    roi = info.roi
    if not (roi.width and roi.height):
        return 0, 0, info.width, info.height
    if roi.x_offset + roi.width > info.width or roi.y_offset + roi.height > info.height:
        raise CameraInfoError(
            f"its region of interest, {roi.width}x{roi.height} at {roi.x_offset}, {roi.y_offset}, is not within "
            f"{info.width}x{info.height}"
        )
    return roi.x_offset, roi.y_offset, roi.width, roi.height


def _angle(edge: float, model: str, d: list[float]) -> float:
    """Return the angle [rad] to the optical axis of what is seen `edge` focal lengths beside it."""
    if model not in (*PINHOLE, FISHEYE):
        raise CameraInfoError(f"its distortion_model is {model!r:.50}, expected one of {[*PINHOLE[1:], FISHEYE]}")
    if not any(d) and model != FISHEYE:
        return math.atan(edge)
    with np.errstate(all="ignore"):
        if model == FISHEYE:
            k = [*d, 0.0, 0.0, 0.0, 0.0][:4]
            square = ANGLES**2
            seen = ANGLES * (1.0 + square * (k[0] + square * (k[1] + square * (k[2] + square * k[3]))))
        else:
            k1, k2, _, _, k3, k4, k5, k6 = [*d, *[0.0] * 8][:8]
            square = np.tan(ANGLES) ** 2
            above = 1.0 + square * (k1 + square * (k2 + square * k3))
            seen = np.tan(ANGLES) * above / (1.0 + square * (k4 + square * (k5 + square * k6)))
        reached = seen >= edge
        first = int(np.argmax(reached))
        if not first or not reached[first] or not np.all(np.diff(seen[: first + 1]) > 0.0):
            raise CameraInfoError("its distortion D does not fit to its K: no direction is seen at the image's edge")
    return float(np.interp(edge, seen[: first + 1], ANGLES[: first + 1]))
