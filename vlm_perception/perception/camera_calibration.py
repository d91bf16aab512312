"""A camera's calibration: of a pinhole, or from a file of the package `camera_calibration`. No ROS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MAX_SIZE = 1 << 20
"""Largest size [bytes] of a calibration file."""


class CalibrationError(ValueError):
    """A file that is no calibration; the text says why."""


@dataclass(frozen=True)
class CameraCalibration:
    """The content of `sensor_msgs/CameraInfo` for images of `width` x `height` [px]; `k`, `r`, `p` are row by row."""

    width: int
    height: int
    k: tuple[float, ...]
    d: tuple[float, ...]
    r: tuple[float, ...]
    p: tuple[float, ...]
    model: str = "plumb_bob"

    @classmethod
    def pinhole(cls, width: int, height: int, field_of_view: float) -> CameraCalibration:
        """Return the calibration of a camera without distortion; its vertical `field_of_view` is in rad."""
        focal = height / 2 / math.tan(field_of_view / 2)
        x, y = (width - 1) / 2, (height - 1) / 2
        k = (focal, 0.0, x, 0.0, focal, y, 0.0, 0.0, 1.0)
        r = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
        p = (focal, 0.0, x, 0.0, 0.0, focal, y, 0.0, 0.0, 0.0, 1.0, 0.0)
        return cls(width, height, k, (0.0,) * 5, r, p)


def read_calibration(path: Path) -> CameraCalibration:
    """Return the calibration in a YAML file of `camera_calibration`.

    Raises CalibrationError when it is none, OSError when it cannot be read.
    """
    try:
        if path.exists() and not (path.is_file() and path.stat().st_size <= MAX_SIZE):
            raise CalibrationError("it is no file, or too large")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise CalibrationError("it has no image_width and camera_matrix")
        return CameraCalibration(
            _pixels(content, "image_width"),
            _pixels(content, "image_height"),
            _matrix(content, "camera_matrix", 9),
            _matrix(content, "distortion_coefficients"),
            _matrix(content, "rectification_matrix", 9),
            _matrix(content, "projection_matrix", 12),
            _text(content, "distortion_model"),
        )
    except (CalibrationError, UnicodeDecodeError, yaml.YAMLError) as error:
        words = " ".join(str(error).split())
        raise CalibrationError(
            f"{str(path)!r} is no calibration as camera_calibration writes it (YAML): {words:.300}"
        ) from None


def _pixels(content: dict[str, Any], name: str) -> int:
    value = content.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**32:
        raise CalibrationError(f"its {name} is {value!r:.100}, expected a number of pixels")
    return value


def _text(content: dict[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str):
        raise CalibrationError(f"its {name} is {value!r:.100}, expected a text")
    return value


def _matrix(content: dict[str, Any], name: str, size: int | None = None) -> tuple[float, ...]:
    """Return the numbers of the matrix `name`; there must be `size` of them, if given. Raises CalibrationError."""
    matrix = content.get(name)
    data = matrix.get("data") if isinstance(matrix, dict) else None
    expected = "finite numbers" if size is None else f"{size} finite numbers"
    if not isinstance(data, list) or size not in (None, len(data)) or not all(map(_is_finite, data)):
        raise CalibrationError(f"the data of its {name} are {data!r:.100}, expected {expected}")
    return tuple(map(float, data))


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) < 1e300 and math.isfinite(value)
