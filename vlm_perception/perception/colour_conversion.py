"""Pixels of any 8-bit ROS encoding as RGB: by cv_bridge if it works, else by rosbags-image."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from vlm_perception.perception.frame import FrameError


@dataclass
class PlainImage:
    """The simplest `Image` message: 8 bits, no padding. Both libraries read it alike."""

    encoding: str
    height: int
    width: int
    step: int
    data: np.ndarray
    is_bigendian: int = 0


def encoding_to_rgb(encoding: str, width: int, pixels: np.ndarray) -> np.ndarray:
    """Return RGB, uint8, (height, width, 3), of `pixels` in an 8-bit `encoding`, uint8, (height, bytes of a row)."""
    pixels = np.ascontiguousarray(pixels)
    return _converter()(PlainImage(encoding, pixels.shape[0], width, pixels.shape[1], pixels.reshape(-1)))


def pixels_to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Return RGB, uint8, (height, width, 3), of grey or RGB `pixels`, uint8 or uint16."""
    pixels = to_8_bits(pixels)
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.ndim == 2 else pixels


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Return `pixels` as uint8; of uint16, 65535 becomes 255, and values are rounded."""
    return cv2.convertScaleAbs(pixels, alpha=1 / 257) if pixels.dtype == np.uint16 else pixels


@functools.cache
def _converter() -> Callable[[PlainImage], np.ndarray]:
    return cv_bridge_to_rgb if cv_bridge_works() else rosbags_to_rgb


@functools.cache
def cv_bridge_works() -> bool:
    """Whether cv_bridge is installed and works with the installed NumPy.

    A cv_bridge that was built for NumPy 1 imports under NumPy 2 and then kills the process. So another process tries.
    """
    try:
        if importlib.util.find_spec("cv_bridge") is None:
            return False
        code = (
            "import cv_bridge, numpy; image = numpy.zeros((2, 2, 3), numpy.uint8); bridge = cv_bridge.CvBridge();"
            "assert bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(image, 'bgr8'), 'rgb8').shape == image.shape"
        )
        return subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.SubprocessError, ValueError):
        return False


def cv_bridge_to_rgb(image: PlainImage) -> np.ndarray:
    """Convert with cv_bridge."""
    from cv_bridge import CvBridge  # only there on a ROS distribution

    return CvBridge().imgmsg_to_cv2(image, "rgb8")


def rosbags_to_rgb(image: PlainImage) -> np.ndarray:
    """Convert with rosbags-image. Raises FrameError when it is not installed."""
    try:
        from rosbags.image import message_to_cvimage
    except ImportError:
        raise FrameError(
            "images cannot be decoded, there is neither a cv_bridge that works nor rosbags-image: "
            "pip install rosbags-image"
        ) from None

    return message_to_cvimage(image, "rgb8")
