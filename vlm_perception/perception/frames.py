"""From a camera message to a picture: `sensor_msgs/Image` and `CompressedImage` to an RGB array.

Messages are read by their fields, so that this works without ROS. What a message claims is checked
first, and what the libraries do not agree about (row padding, byte order, 16 bits, nameless
encodings) is settled here; then cv_bridge converts the colours where it works, rosbags-image otherwise.
"""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

MAX_PIXELS = 100_000_000
"""More than any camera has: such a message is broken."""

BYTES_PER_PIXEL = {
    "rgb8": 3,
    "bgr8": 3,
    "rgba8": 4,
    "bgra8": 4,
    "mono8": 1,
    "bayer_rggb8": 1,
    "bayer_bggr8": 1,
    "bayer_gbrg8": 1,
    "bayer_grbg8": 1,
    "yuv422": 2,
    "yuv422_yuy2": 2,
}
ALIASES = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8", "uyvy": "yuv422", "yuyv": "yuv422_yuy2"}
SIXTEEN_BITS = {name[:-1] + "16": name for name in BYTES_PER_PIXEL if name.endswith("8")}
TWO_PLANES = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
ENCODINGS = sorted({*BYTES_PER_PIXEL, *ALIASES, *SIXTEEN_BITS, *TWO_PLANES})


class FrameError(ValueError):
    """A camera message that cannot be a picture; the message says what it claims and what was expected."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture and where it comes from: `image` is RGB, uint8, (height, width, 3), read-only; `stamp` [ns]."""

    image: np.ndarray
    stamp: int
    frame_id: str


@dataclass
class PlainImage:
    """An `Image` message at its simplest: 8 bits, no padding. Both libraries read it alike."""

    encoding: str
    height: int
    width: int
    step: int
    data: np.ndarray
    is_bigendian: int = 0


def stamp_of(message: Any) -> int:
    """When the picture was taken [ns]."""
    return nanoseconds(message.header.stamp)


def nanoseconds(time: Any) -> int:
    """Return a `builtin_interfaces/Time` in [ns]."""
    return time.sec * 1_000_000_000 + time.nanosec


def form_of(message: Any) -> str:
    """Size and encoding that the message claims, in words."""
    return message.format if hasattr(message, "format") else f"{message.width}x{message.height} {message.encoding}"


def decode(message: Any) -> Frame:
    """Return the `Frame` of an `Image` or `CompressedImage` message; FrameError when it is not a picture."""
    try:
        image = _decode_compressed(message) if hasattr(message, "format") else _decode_raw(message)
    except (cv2.error, MemoryError) as error:
        raise FrameError(f"the picture cannot be decoded: {' '.join(str(error).split())}") from None
    image = np.ascontiguousarray(image)
    image.flags.writeable = False  # so a model may keep what it has found out about this very picture
    return Frame(image, stamp_of(message), message.header.frame_id)


def _decode_compressed(message: Any) -> np.ndarray:
    what = f"the compressed picture ({message.format or 'no format named'}, {len(message.data)} bytes)"
    data = np.frombuffer(message.data, np.uint8)
    if not data.size:
        raise FrameError(f"{what} is empty, expected jpeg or png data")
    start, end = data[:4].tobytes(), data[-64:].tobytes()
    if (start[:2] == b"\xff\xd8" and b"\xff\xd9" not in end) or (start == b"\x89PNG" and b"IEND" not in end):
        # OpenCV paints what is missing grey, and grey would be taken for what the camera sees.
        raise FrameError(f"{what} ends too early, expected the whole file")
    # Not the libraries' own: they take a grey or transparent picture for bgr8.
    image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise FrameError(f"{what} cannot be decoded, expected jpeg or png data")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _decode_raw(message: Any) -> np.ndarray:
    height, width, step = message.height, message.width, message.step
    encoding = ALIASES.get(message.encoding, message.encoding)
    what = f"the picture ({message.encoding}, {width}x{height})"
    if message.encoding not in ENCODINGS:
        raise FrameError(f"encoding {message.encoding!r:.60} is not known, expected one of {', '.join(ENCODINGS)}")
    if width < 1 or height < 1:
        raise FrameError(f"{what} has no pixels, expected at least 1x1")
    if width * height > MAX_PIXELS:
        raise FrameError(f"{what} has {width * height} pixels, expected at most {MAX_PIXELS}")
    if (encoding.startswith("yuv") or encoding in TWO_PLANES) and width % 2:
        raise FrameError(f"{what} has an odd width, expected an even one for this encoding")
    if encoding in TWO_PLANES and height % 2:
        raise FrameError(f"{what} has an odd height, expected an even one for this encoding")

    rows = height * 3 // 2 if encoding in TWO_PLANES else height
    sixteen = encoding in SIXTEEN_BITS
    row_bytes = width * BYTES_PER_PIXEL.get(SIXTEEN_BITS.get(encoding, encoding), 1) * (2 if sixteen else 1)
    if step < row_bytes:
        raise FrameError(f"{what} has rows of {step} bytes (step), expected at least {row_bytes}")
    data = np.frombuffer(message.data, np.uint8)
    if data.size < rows * step:
        raise FrameError(f"{what} has {data.size} bytes of data, expected {rows * step} (rows of {step} bytes)")

    pixels = data[: rows * step].reshape(rows, step)[:, :row_bytes]
    if encoding in TWO_PLANES:
        return cv2.cvtColor(np.ascontiguousarray(pixels), TWO_PLANES[encoding])
    if sixteen:
        values = np.ascontiguousarray(pixels).view(">u2" if message.is_bigendian else "<u2")
        pixels = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 becomes 255, to the nearest
        encoding = SIXTEEN_BITS[encoding]
    pixels = np.ascontiguousarray(pixels)
    return _to_rgb()(PlainImage(encoding, height, width, pixels.shape[1], pixels.reshape(-1)))


@functools.cache
def _to_rgb() -> Callable[[PlainImage], np.ndarray]:
    """Whatever converts colours here: cv_bridge's where that works, rosbags-image's otherwise."""
    return cv_bridge_to_rgb if cv_bridge_works() else rosbags_to_rgb


@functools.cache
def cv_bridge_works() -> bool:
    """Whether cv_bridge is there and survives the NumPy that is installed.

    A cv_bridge that was built for NumPy 1 imports under NumPy 2 and then kills the process, so the
    question is asked in another one.
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
    """Convert by cv_bridge."""
    from cv_bridge import CvBridge  # only there on a ROS distribution

    return CvBridge().imgmsg_to_cv2(image, "rgb8")


def rosbags_to_rgb(image: PlainImage) -> np.ndarray:
    """Convert by rosbags-image."""
    try:
        from rosbags.image import message_to_cvimage
    except ImportError:
        raise FrameError(
            "pictures cannot be decoded, there is neither a cv_bridge that works nor rosbags-image: "
            "pip install rosbags-image"
        ) from None

    return message_to_cvimage(image, "rgb8")
