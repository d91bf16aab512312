"""From a camera message or the bytes of a file to an image: an RGB array.

Messages are read by their fields, so that this works without ROS. What a message claims is checked
first, and what the libraries do not agree about (row padding, byte order, 16 bits, nameless
encodings) is settled here; then cv_bridge converts the colours where it works, rosbags-image otherwise.

Compressed images: the size is read from the header before anything is decoded, and what is cut or damaged is refused.
OpenCV paints what is missing grey, and grey would be taken for what the camera sees.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL.Image

from vlm_perception.perception.region import Region

MAX_PIXELS = 100_000_000
"""More than any camera has: such an image is broken, or made to fill the memory. Raw and compressed alike."""
MESSAGE_FORMATS = ("JPEG", "PNG", "TIFF")
"""What image_transport compresses to. In messages, nothing else is decoded."""
FILE_FORMATS = (*MESSAGE_FORMATS, "BMP", "WEBP", "PPM")
"""What an image file may be."""
MAX_SCANS = 100
"""Most scans of a progressive JPEG, which has about ten; each costs as much time as an image."""
MAX_CHUNKS = 100_000
"""Most chunks of a PNG; the largest allowed image has half as many."""
WEBCAM_PADDING = 16
"""Many webcams write some bytes too many before a JPEG's markers. More than these [bytes] are damage."""
TWELVE_BITS = 4096

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
    """A camera message or file that cannot be an image; the message says what it claims and what was expected."""


@dataclass(frozen=True, eq=False)
class Frame:
    """An image of one `camera` with the `header` of its message.

    `full_image` is RGB, uint8, shape (height, width, 3), read-only. `arrival` is when the message came, `taken` when
    the frame was taken up [s, monotonic]. `unchanged` [s, by the stamps]: for how long the camera has delivered this
    very image, pixel by pixel. `region`: the part that is looked at, None for all of it. `doubt`: why the image may
    not show what the camera sees, in words; None if nothing speaks for that.
    """

    camera: str
    full_image: np.ndarray
    header: Any
    arrival: float
    taken: float
    unchanged: float = 0.0
    region: Region | None = None
    doubt: str | None = None

    @functools.cached_property
    def image(self) -> np.ndarray:
        """What is looked at, as `full_image`."""
        return self.region.of(self.full_image) if self.region else self.full_image

    @property
    def stamp(self) -> int:
        """When the image was taken [ns]."""
        return nanoseconds(self.header.stamp)


class Decoded(NamedTuple):
    """What a message shows, see `Frame`."""

    image: np.ndarray
    doubt: str | None


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
    """When the image was taken [ns]."""
    return nanoseconds(message.header.stamp)


def nanoseconds(time: Any) -> int:
    """Return a `builtin_interfaces/Time` in [ns]."""
    return time.sec * 1_000_000_000 + time.nanosec


def form_of(message: Any) -> str:
    """Size and encoding that the message claims, in words, fit to be shown."""
    words = message.format if hasattr(message, "format") else f"{message.width}x{message.height} {message.encoding}"
    return "".join(letter if letter.isprintable() else "?" for letter in words[:100])


def decode(message: Any) -> Decoded:
    """Return what an `Image` or `CompressedImage` message shows; FrameError when it is not an image."""
    try:
        image, doubt = _decode_compressed(message) if hasattr(message, "format") else _decode_raw(message)
    except (cv2.error, MemoryError) as error:
        raise FrameError(f"the image cannot be decoded: {' '.join(str(error).split())}") from None
    image = np.ascontiguousarray(image)
    image.flags.writeable = False  # so a model may keep what it has found out about this very image
    return Decoded(image, doubt)


def decode_file(data: bytes, name: str) -> np.ndarray:
    """Return the image of the `data` of a file, upright: RGB, uint8, (height, width, 3). FrameError with the `name`."""
    try:
        image = _to_rgb8(unpack(np.frombuffer(data, np.uint8), name, FILE_FORMATS))
        orientation = _orientation(data) if data[:2] == JPEG else 1
    except (cv2.error, MemoryError) as error:
        raise FrameError(f"{name} cannot be decoded: {' '.join(str(error).split())}") from None
    return np.ascontiguousarray(UPRIGHT.get(orientation, lambda image: image)(image))


def unpack(data: np.ndarray, what: str, formats: tuple[str, ...] = MESSAGE_FORMATS) -> np.ndarray:
    """Return the pixels of a compressed image as they are stored: uint8 or uint16, (height, width) or RGB (..., 3).

    `data` are its bytes (uint8, one-dimensional); what follows its end does not matter. FrameError, which begins with
    `what`, when it is none of the `formats`, larger than MAX_PIXELS, cut or damaged.
    """
    start = data[:8].tobytes()
    if not start:
        raise FrameError(f"{what} is empty, expected {_either(formats)} data")
    if start[:2] == JPEG:
        pixels = _unpack_jpeg(data, what)
    elif start == PNG:
        pixels = _unpack_png(data, what)
    else:
        pixels = _unpack_other(data, what, formats)
    return pixels


JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: np.rot90(image),
}
"""How an image is turned upright, by the orientation in its EXIF data."""


def _unpack_jpeg(data: np.ndarray, what: str) -> np.ndarray:
    try:
        import simplejpeg
    except ImportError:
        raise FrameError("JPEG cannot be decoded, there is no simplejpeg: pip install simplejpeg") from None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # a header that is cut, or one of a rare kind
        return _unpack_other(data, what, ("JPEG",))
    _check_size(what, width, height)
    if data.tobytes().count(b"\xff\xda") > MAX_SCANS:
        raise FrameError(f"{what} has more than {MAX_SCANS} scans, expected an ordinary JPEG")
    if colours not in ("Gray", "YCbCr", "RGB"):
        return _unpack_other(data, what, ("JPEG",))
    wanted = "Gray" if colours == "Gray" else "RGB"
    try:
        try:
            pixels = simplejpeg.decode_jpeg(data, wanted, strict=True)
        except ValueError as error:
            extra = re.search(r"(\d+) extraneous bytes", str(error))
            if extra is None or int(extra[1]) > WEBCAM_PADDING:
                raise
            pixels = simplejpeg.decode_jpeg(data, wanted, strict=False)
    except ValueError as error:
        raise FrameError(f"{what} is cut or damaged, expected a whole JPEG ({error})") from None
    return pixels[:, :, 0] if wanted == "Gray" else pixels


def _unpack_png(data: np.ndarray, what: str) -> np.ndarray:
    end = _end_of_png(data, what)
    pixels = cv2.imdecode(data[:end], cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise FrameError(f"{what} cannot be decoded, its PNG data contradict themselves")
    if pixels.ndim == 2:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _end_of_png(data: np.ndarray, what: str) -> int:
    """Return where the PNG ends, when it is whole and not too large."""
    view = data.data
    position = len(PNG)
    for number in range(MAX_CHUNKS):
        if position + 12 > len(view):
            break
        length, kind = struct.unpack_from(">I4s", view, position)
        end = position + 12 + length
        if end > len(view):
            break
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise FrameError(f"{what} is damaged: a checksum of the PNG is wrong")
        if number == 0:
            if kind != b"IHDR" or length != 13:
                raise FrameError(f"{what} cannot be decoded, expected a PNG with its size at the start")
            _check_size(what, *struct.unpack_from(">II", view, position + 8))
        if kind == b"IEND":
            return end
        position = end
    raise FrameError(f"{what} ends too early, expected the whole PNG")


def _unpack_other(data: np.ndarray, what: str, formats: tuple[str, ...]) -> np.ndarray:
    """By Pillow, which is slower and refuses what is cut, too."""
    try:
        with PIL.Image.open(io.BytesIO(data.tobytes()), formats=formats) as image:
            _check_size(what, image.width, image.height)
            image.load()
            if image.mode == "F":
                raise FrameError(f"{what} has fractions for pixels (32 bit), expected 8 or 16 bits")
            if image.mode.startswith("I"):
                return np.asarray(image).clip(0, 65535).astype(np.uint16)
            return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    except FrameError:
        raise
    except PIL.Image.DecompressionBombError as error:
        raise FrameError(f"{what} is too large, expected at most {MAX_PIXELS} pixels ({error})") from None
    except PIL.UnidentifiedImageError:
        start = data[:8].tobytes()
        raise FrameError(f"{what} cannot be decoded: it begins with {start!r}, expected {_either(formats)}") from None
    except Exception as error:  # Pillow's own readers raise whatever their data lead to
        raise FrameError(f"{what} is cut or damaged: {' '.join(str(error).split()) or type(error).__name__}") from None


def _check_size(what: str, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise FrameError(f"{what} has no pixels ({width}x{height}), expected at least 1x1")
    if width * height > MAX_PIXELS:
        raise FrameError(f"{what} has {width * height} pixels ({width}x{height}), expected at most {MAX_PIXELS}")


def _either(formats: tuple[str, ...]) -> str:
    return f"{', '.join(formats[:-1])} or {formats[-1]}" if len(formats) > 1 else formats[0]


def _orientation(data: bytes) -> int:
    """Return what the EXIF data of a JPEG say, 1 (upright) without."""
    try:
        with PIL.Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return int(image.getexif().get(0x0112, 1))
    except Exception:  # EXIF data that cannot be read turn nothing
        return 1


def _to_rgb8(pixels: np.ndarray) -> np.ndarray:
    pixels = _to_8_bits(pixels)
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.ndim == 2 else pixels


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """65535 becomes 255, to the nearest."""
    return cv2.convertScaleAbs(pixels, alpha=1 / 257) if pixels.dtype == np.uint16 else pixels


def _doubt_of_depth(encoding: str, values: np.ndarray) -> str | None:
    """Drivers put 12 bits into the lower ones of 16, and the image is all but black."""
    if values.dtype != np.uint16 or not 0 < values.max() < TWELVE_BITS:
        return None
    return (
        f"all values of the {encoding} image are below {TWELVE_BITS}, so it is nearly black: has it 12 bits? "
        "Set the driver to 8 bits, or to shift them up"
    )


def _decode_compressed(message: Any) -> tuple[np.ndarray, str | None]:
    what = f"the compressed image ({form_of(message) or 'no format named'}, {len(message.data)} bytes)"
    pixels = unpack(np.frombuffer(message.data, np.uint8), what)
    # image_transport says what it compressed, and as what: "bayer_rggb8; png compressed ", "rgb8; jpeg compressed bgr8"
    named = re.fullmatch(r"\s*(\w+)\s*;\s*\w+ compressed\s*(\w*)\s*", message.format)
    original, sent = named.groups() if named else ("", "")
    if pixels.ndim == 3 or original not in ENCODINGS or original.startswith(("mono", "8UC1")):
        return _to_rgb8(pixels), _doubt_of_depth(original or "16 bit", pixels)
    if original.startswith("bayer") and sent in ("", original):
        mosaic = SIXTEEN_BITS.get(original, original)
        return _convert(mosaic, pixels.shape[1], _to_8_bits(pixels)), _doubt_of_depth(original, pixels)
    doubt = f"the colours of {original} were lost when it was compressed ({form_of(message)}): "
    return _to_rgb8(pixels), doubt + "set the driver to rgb8 or bgr8, or use the raw images"


def _decode_raw(message: Any) -> tuple[np.ndarray, str | None]:
    height, width, step = message.height, message.width, message.step
    encoding = ALIASES.get(message.encoding, message.encoding)
    what = f"the image ({message.encoding}, {width}x{height})"
    if message.encoding not in ENCODINGS:
        raise FrameError(f"encoding {message.encoding!r:.60} is not known, expected one of {', '.join(ENCODINGS)}")
    _check_size(what, width, height)
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
        pixels, encoding = _to_8_bits(values), SIXTEEN_BITS[encoding]
    return _convert(encoding, width, pixels), doubt


def _convert(encoding: str, width: int, pixels: np.ndarray) -> np.ndarray:
    """Return RGB of `pixels` in an 8 bit `encoding`, uint8, (height, bytes of a row)."""
    pixels = np.ascontiguousarray(pixels)
    return _to_rgb()(PlainImage(encoding, pixels.shape[0], width, pixels.shape[1], pixels.reshape(-1)))


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
            "images cannot be decoded, there is neither a cv_bridge that works nor rosbags-image: "
            "pip install rosbags-image"
        ) from None

    return message_to_cvimage(image, "rgb8")
