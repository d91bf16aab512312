"""The image of a camera message as RGB.

Messages are read by their fields, so that this works without ROS. What a message claims is checked first. Row padding,
byte order, 16 bits and missing names of encodings are settled here, because the libraries do not agree about them.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import cv2
import numpy as np

from vlm_perception.perception.colour_conversion import encoding_to_rgb, pixels_to_rgb, to_8_bits
from vlm_perception.perception.compressed_image import check_size, unpack
from vlm_perception.perception.frame import FrameError

TWELVE_BITS = 4096
"""Number of values of a 12-bit image."""
BAYER = tuple(f"bayer_{pattern}8" for pattern in ("rggb", "bggr", "gbrg", "grbg"))
BYTES_PER_PIXEL = {
    **dict.fromkeys(("mono8", *BAYER), 1),
    **dict.fromkeys(("yuv422", "yuv422_yuy2"), 2),
    **dict.fromkeys(("rgb8", "bgr8"), 3),
    **dict.fromkeys(("rgba8", "bgra8"), 4),
}
ALIASES = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8", "uyvy": "yuv422", "yuyv": "yuv422_yuy2"}
SIXTEEN_BITS = {name[:-1] + "16": name for name in BYTES_PER_PIXEL if name.endswith("8")}
TWO_PLANES = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
ENCODINGS = sorted({*BYTES_PER_PIXEL, *ALIASES, *SIXTEEN_BITS, *TWO_PLANES})


class Decoded(NamedTuple):
    """The image of a message and the `doubt` about it, see `Frame`."""

    image: np.ndarray
    doubt: str | None


def form_of(message: Any) -> str:
    """Return the size and encoding that the message claims, as printable text."""
    words = message.format if hasattr(message, "format") else f"{message.width}x{message.height} {message.encoding}"
    return "".join(letter if letter.isprintable() else "?" for letter in words[:100])


def decode(message: Any) -> Decoded:
    """Return the image of an `Image` or `CompressedImage` message. Raises FrameError when it is not an image."""
    try:
        image, doubt = _decode_compressed(message) if hasattr(message, "format") else _decode_raw(message)
    except (cv2.error, MemoryError) as error:
        raise FrameError(f"the image cannot be decoded: {' '.join(str(error).split())}") from None
    image = np.ascontiguousarray(image)
    image.flags.writeable = False  # a model may keep results about this very image
    return Decoded(image, doubt)


def _doubt_of_depth(encoding: str, values: np.ndarray) -> str | None:
    """Return the doubt about an image of 12 bits in the lower ones of 16, as some drivers send it; else None."""
    if values.dtype != np.uint16 or not 0 < values.max() < TWELVE_BITS:
        return None
    return (
        f"all values of the {encoding} image are below {TWELVE_BITS}, so it is nearly black: does it have 12 bits? "
        "Set the driver to 8 bits, or to shift them up"
    )


def _decode_compressed(message: Any) -> tuple[np.ndarray, str | None]:
    what = f"the compressed image ({form_of(message) or 'no format named'}, {len(message.data)} bytes)"
    pixels = unpack(np.frombuffer(message.data, np.uint8), what)
    # image_transport names the encodings before and after: "bayer_rggb8; png compressed ", "rgb8; jpeg compressed bgr8"
    named = re.fullmatch(r"\s*(\w+)\s*;\s*\w+ compressed\s*(\w*)\s*", message.format)
    original, sent = named.groups() if named else ("", "")
    if pixels.ndim == 3 or original not in ENCODINGS or original.startswith(("mono", "8UC1")):
        return pixels_to_rgb(pixels), _doubt_of_depth(original or "16 bit", pixels)
    if original.startswith("bayer") and sent in ("", original):
        mosaic = SIXTEEN_BITS.get(original, original)
        return encoding_to_rgb(mosaic, pixels.shape[1], to_8_bits(pixels)), _doubt_of_depth(original, pixels)
    doubt = f"the colours of {original} were lost when it was compressed ({form_of(message)}): "
    return pixels_to_rgb(pixels), doubt + "set the driver to rgb8 or bgr8, or use the raw images"


def _decode_raw(message: Any) -> tuple[np.ndarray, str | None]:
    height, width, step = message.height, message.width, message.step
    encoding = ALIASES.get(message.encoding, message.encoding)
    what = f"the image ({message.encoding}, {width}x{height})"
    if message.encoding not in ENCODINGS:
        raise FrameError(f"encoding {message.encoding!r:.60} is not known, expected one of {', '.join(ENCODINGS)}")
    check_size(what, width, height)
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

    doubt: str | None = None
    if data.size > rows * step:
        doubt = f"{what} has {data.size} bytes of data, its encoding needs {rows * step}: is it of another encoding?"
    pixels = data[: rows * step].reshape(rows, step)[:, :row_bytes]
    if encoding in TWO_PLANES:
        return cv2.cvtColor(np.ascontiguousarray(pixels), TWO_PLANES[encoding]), doubt
    if sixteen:
        values = np.ascontiguousarray(pixels).view(">u2" if message.is_bigendian else "<u2")
        values = values.astype(np.uint16, copy=False)
        doubt = doubt or _doubt_of_depth(encoding, values)
        pixels, encoding = to_8_bits(values), SIXTEEN_BITS[encoding]
    return encoding_to_rgb(encoding, width, pixels), doubt
