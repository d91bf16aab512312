"""The pixels of a compressed image, in a message or a file.

The size is read from the header before anything is decoded. An image that is cut or damaged is refused: OpenCV paints
missing parts grey, and a model would take the grey for what the camera sees.
"""

from __future__ import annotations

import io
import re
import struct
import zlib

import cv2
import numpy as np
import PIL.Image

from vlm_perception.perception.colour_conversion import pixels_to_rgb
from vlm_perception.perception.frame import FrameError

MAX_PIXELS = 100_000_000
"""Most pixels of an image, raw or compressed. A larger image is broken, or made to fill the memory."""
MESSAGE_FORMATS = ("JPEG", "PNG", "TIFF")
"""Formats of messages: what image_transport compresses to."""
FILE_FORMATS = (*MESSAGE_FORMATS, "BMP", "WEBP", "PPM")
"""Formats of image files."""
MAX_SCANS = 100
"""Most scans of a progressive JPEG, which usually has about ten; each takes as much time as an image."""
MAX_CHUNKS = 100_000
"""Most chunks of a PNG; the largest allowed image has half as many."""
WEBCAM_PADDING = 16
"""Most extra bytes before a JPEG's markers. Many webcams write some; more are damage."""
JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"


def decode_file(data: bytes, name: str) -> np.ndarray:
    """Return the upright image of a file's `data`: RGB, uint8, (height, width, 3). FrameError, which has the `name`."""
    try:
        image = pixels_to_rgb(unpack(np.frombuffer(data, np.uint8), name, FILE_FORMATS))
        orientation = _orientation(data) if data[:2] == JPEG else 1
    except (cv2.error, MemoryError) as error:
        raise FrameError(f"{name} cannot be decoded: {' '.join(str(error).split())}") from None
    return np.ascontiguousarray(_upright(image, orientation))


def unpack(data: np.ndarray, what: str, formats: tuple[str, ...] = MESSAGE_FORMATS) -> np.ndarray:
    """Return the pixels of a compressed image as they are stored: uint8 or uint16, (height, width) or RGB (..., 3).

    `data` are its bytes, uint8, shape (bytes,); bytes after its end are ignored. Raises FrameError, which begins with
    `what`, when it is none of the `formats`, larger than `MAX_PIXELS`, cut or damaged.
    """
    start = data[:8].tobytes()
    if not start:
        raise FrameError(f"{what} is empty, expected {_either(formats)} data")
    if start[:2] == JPEG:
        return _unpack_jpeg(data, what)
    return _unpack_png(data, what) if start == PNG else _unpack_other(data, what, formats)


def _unpack_jpeg(data: np.ndarray, what: str) -> np.ndarray:
    try:
        import simplejpeg
    except ImportError:
        raise FrameError("JPEG cannot be decoded, there is no simplejpeg: pip install simplejpeg") from None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # a header that is cut, or one of a rare kind
        return _unpack_other(data, what, ("JPEG",))
    check_size(what, width, height)
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
    """Return where the PNG ends. Raises FrameError when it is not whole, or too large."""
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
            check_size(what, *struct.unpack_from(">II", view, position + 8))
        if kind == b"IEND":
            return end
        position = end
    raise FrameError(f"{what} ends too early, expected the whole PNG")


def _unpack_other(data: np.ndarray, what: str, formats: tuple[str, ...]) -> np.ndarray:
    """Decode with Pillow, which is slower and also refuses what is cut."""
    try:
        with PIL.Image.open(io.BytesIO(data.tobytes()), formats=formats) as image:
            check_size(what, image.width, image.height)
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
    except Exception as error:  # the readers in Pillow may raise anything
        raise FrameError(f"{what} is cut or damaged: {' '.join(str(error).split()) or type(error).__name__}") from None


def check_size(what: str, width: int, height: int) -> None:
    """Raise FrameError, which begins with `what`, unless an image of this size [px] may be decoded."""
    if width < 1 or height < 1:
        raise FrameError(f"{what} has no pixels ({width}x{height}), expected at least 1x1")
    if width * height > MAX_PIXELS:
        raise FrameError(f"{what} has {width * height} pixels ({width}x{height}), expected at most {MAX_PIXELS}")


def _either(formats: tuple[str, ...]) -> str:
    return f"{', '.join(formats[:-1])} or {formats[-1]}" if len(formats) > 1 else formats[0]


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return `image` turned and mirrored as its EXIF `orientation` says: 1 to 8, anything else is upright."""
    if 5 <= orientation <= 8:
        image = image.swapaxes(0, 1)
    return image[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]


def _orientation(data: bytes) -> int:
    """Return the orientation in the EXIF data of a JPEG, 1 (upright) without such data."""
    try:
        with PIL.Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return int(image.getexif().get(0x0112, 1))
    except Exception:  # unreadable EXIF data mean no turn
        return 1
