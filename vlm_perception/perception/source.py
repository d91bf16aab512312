"""Images from a folder, an image file, a video, a camera device or an address. No ROS.

    with open_source("~/recordings/kitchen.mp4") as source:
        for image, stamp in source.images:      # RGB, and seconds since the source began

One image at a time is in memory. Names of files are bytes, so every name works. Files of a folder are in natural order:
frame2 before frame10.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import cv2
import numpy as np

from vlm_perception.address import shown
from vlm_perception.perception.compressed_image import MAX_PIXELS, decode_file
from vlm_perception.perception.frame import FrameError

# FFmpeg would print addresses with their passwords; SourceError says what is wrong.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""Endings of image files, in lower or upper case."""
FOLDER_RATE = 10.0
"""Rate [Hz] of a folder of images, which has none of its own."""
USUAL_RATE = 30.0
"""Rate [Hz] of a video that does not say its own."""
SILENCE = 5.0
"""Time [s] without data after which a network stream has ended."""
LARGEST_FILE = 2**30
"""Largest image file [bytes]."""
VIDEO_DEVICES = 81
"""Major number of camera devices in Linux."""
EXPECTED = "expected a video file, a folder of images, an image, a webcam (0, /dev/video0) or an address (rtsp://...)"


class SourceError(OSError):
    """A source that cannot be opened or read. The text says why, and shows no password."""


@dataclass(frozen=True)
class Place:
    """A source that is not opened yet: a "folder" or "file" with its `path`, a "device" or "address" with `where`."""

    kind: str
    name: str
    path: bytes = b""
    where: str | int = ""

    @property
    def lasting(self) -> bool:
        """Whether it may appear later: a device or an address may, a file does not."""
        return self.kind in ("device", "address")


@dataclass(frozen=True)
class Source:
    """An open source; messages show its `name`.

    `images` yields (image, stamp): RGB, uint8, (height, width, 3), and the time [s] since the source began, which
    rises. A `live` source goes on without us and has no end; its stamps are times of arrival. `rate` [Hz] and `count`
    of its images are approximate, 0 if unknown. `size` is the (width, height) of the first image.
    """

    kind: str
    name: str
    images: Iterator[tuple[np.ndarray, float]]
    live: bool
    rate: float
    count: int
    size: tuple[int, int]

    def __str__(self) -> str:
        facts = [f"{self.size[0]}x{self.size[1]}"]
        if self.rate and self.kind != "image":
            facts.append(f"{self.rate:.4g} Hz")
        if self.count:
            facts.append(f"{self.count} image{'s' * (self.count > 1)}")
        return f"the {self.kind} {self.name}: {', '.join(facts)}"


def ignore(words: str) -> None:
    """Ignore an image that is passed over."""


def locate(source: str | Path) -> Place:
    """Return what `source` is: an existing file or folder, else a webcam's number or an address. Raises SourceError."""
    text = str(source)
    name = shown(text)
    if text.lower().startswith("file://"):
        address = urlsplit(text)
        if address.netloc not in ("", "localhost"):
            raise SourceError(f"{name} is on another machine, expected file:///path")
        path = unquote_to_bytes(address.path)
    else:
        path = os.path.expanduser(os.fsencode(text))
    try:
        mode = os.stat(path)
    except (OSError, ValueError) as error:
        if text.isdecimal() and text.isascii():
            return Place("device", f"camera {text}", where=int(text))
        if text.startswith("/dev/") and isinstance(error, FileNotFoundError):
            return Place("device", name, where=text)
        if "://" in text and not text.lower().startswith("file://"):
            return Place("address", name, where=text)
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise SourceError(f"{name} does not exist, {EXPECTED}") from None
        why = getattr(error, "strerror", None) or error
        raise SourceError(f"{name:.200} cannot be read ({why}), {EXPECTED}") from None
    if stat.S_ISDIR(mode.st_mode):
        return Place("folder", name, path)
    if stat.S_ISREG(mode.st_mode):
        return Place("file", name, path)
    if stat.S_ISCHR(mode.st_mode) and os.major(mode.st_rdev) == VIDEO_DEVICES:
        return Place("device", name, where=os.fsdecode(path))
    raise SourceError(f"{name} is no file (a pipe, a socket or another device), {EXPECTED}")


@contextmanager
def open_source(source: str | Path, passed_over: Callable[[str], None] = ignore) -> Iterator[Source]:
    """Open `source` and read its first image. Raises SourceError when that fails.

    `passed_over` is called with the reason for each image that cannot be read; an error that it raises ends the
    reading.
    """
    place = locate(source)
    if place.kind == "folder":
        files = image_files(place.path)
        if not files:
            raise _no_images(place.name)
        yield _opened("folder", place, _read_files(files, passed_over), False, FOLDER_RATE, len(files))
    elif place.kind == "file" and _is_image(place.path):
        yield _opened("image", place, ((read_image(path), 0.0) for path in [place.path]), False, FOLDER_RATE, 1)
    else:
        with _capture(place) as capture:
            count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
            count = int(count) if 0 < count < 2**53 else 0
            rate = capture.get(cv2.CAP_PROP_FPS)
            rate = rate if 0 < rate < 1000 else 0.0
            # A source with a length is a recording, also at an address.
            live = place.lasting and not count
            kind = "video" if not live else "camera" if place.kind == "device" else "stream"
            images = _read_video(capture, place, live, rate, passed_over)
            yield _opened(kind, place, images, live, rate if live else rate or USUAL_RATE, count)


def image_files(folder: bytes | Path, recursive: bool = False) -> list[bytes]:
    """Return the paths of the image files in `folder`, in natural order; SourceError when it cannot be read."""

    def fail(error: OSError) -> None:
        raise SourceError(f"{shown(os.fsdecode(error.filename))} cannot be read: {error.strerror}")

    found = []
    for where, folders, names in os.walk(os.fsencode(folder), onerror=fail):
        found += [os.path.join(where, name) for name in names if _is_image(name)]
        if not recursive:
            folders.clear()
    return sorted(found, key=_natural)


def read_image(path: bytes | str | Path) -> np.ndarray:
    """Return the image of a file: RGB, uint8, (height, width, 3). FrameError when it has none or a damaged one."""
    path = os.fsencode(path)
    name = shown(os.fsdecode(path))
    try:
        with _open_file(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > LARGEST_FILE:
                raise FrameError(f"{name} has {size} bytes, expected an image of at most {LARGEST_FILE}")
            data = file.read(LARGEST_FILE)
    except OSError as error:
        raise FrameError(f"{name} cannot be read: {error.strerror or error}") from None
    return decode_file(data, name)


def sample(source: Path, count: int, recursive: bool = False) -> list[np.ndarray]:
    """Return at most `count` images from all over a folder or a recording; SourceError when one cannot be read."""

    def fail(words: str) -> None:
        raise SourceError(f"{words}: remove it, or save it anew")

    if source.is_dir():
        images = []
        files = image_files(source, recursive)
        if not files:
            raise _no_images(shown(str(source)))
        for file in spread(files, count):
            try:
                images.append(read_image(file))
            except FrameError as error:
                fail(str(error))
        return images
    with open_source(source, fail) as opened:
        if opened.live:
            raise SourceError(f"{opened.name} has no end, expected a recording")
        total = opened.count or sum(1 for _ in opened.images)
    wanted = set(spread(range(total), count))
    with open_source(source, fail) as opened:
        return [image for number, (image, _) in enumerate(opened.images) if number in wanted]


def spread(things: Sequence[Any], count: int) -> Sequence[Any]:
    """Return at most `count` of `things`, evenly from the first to the last."""
    if len(things) <= count:
        return things
    return [things[round(n * (len(things) - 1) / max(1, count - 1))] for n in range(count)]


def _no_images(name: str) -> SourceError:
    return SourceError(f"the folder {name} has no images, expected files like {', '.join(ENDINGS)}")


def _opened(
    kind: str, place: Place, images: Iterator[tuple[np.ndarray, float]], live: bool, rate: float, count: int
) -> Source:
    try:
        first = next(images, None)
    except FrameError as error:
        raise SourceError(str(error)) from None
    if first is None:
        raise SourceError(f"{place.name} has no image that can be read")
    height, width = first[0].shape[:2]
    return Source(kind, place.name, itertools.chain([first], images), live, rate, count, (width, height))


def _is_image(name: bytes) -> bool:
    return os.path.splitext(name)[1].lower().decode("ascii", "replace") in ENDINGS


def _natural(path: bytes) -> tuple[list[bytes | int], bytes]:
    # Text and numbers alternate, and text is first: so text is compared with text.
    parts = re.split(rb"(\d+)", path)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], path


def _open_file(path: bytes) -> Any:
    """Open a regular file; do not wait for a pipe. Raises OSError for anything else."""
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("it is no file")
    return file


def _read_files(files: list[bytes], passed_over: Callable[[str], None]) -> Iterator[tuple[np.ndarray, float]]:
    number = 0
    for file in files:
        try:
            image = read_image(file)
        except FrameError as error:
            passed_over(str(error))
            continue
        yield image, number / FOLDER_RATE
        number += 1


@contextmanager
def _capture(place: Place) -> Iterator[cv2.VideoCapture]:
    file = None
    if place.kind == "file":
        try:
            file = _open_file(place.path)
        except OSError as error:
            raise SourceError(f"{place.name} cannot be read: {error.strerror or error}") from None
        # By its descriptor, since OpenCV does not accept every name, and would judge the content by the ending.
        capture = cv2.VideoCapture(f"/dev/fd/{file.fileno()}", cv2.CAP_FFMPEG)
    elif place.kind == "device":
        capture = cv2.VideoCapture(place.where)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # a longer buffer shows the past
    else:
        limit = round(1000 * SILENCE)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
        capture = cv2.VideoCapture(place.where, cv2.CAP_FFMPEG, limits)
    try:
        if not capture.isOpened():
            raise SourceError(f"{place.name} cannot be opened as a {'video' if file else 'camera or stream'}")
        yield capture
    finally:
        capture.release()
        if file:
            file.close()


def _read_video(
    capture: cv2.VideoCapture, place: Place, live: bool, rate: float, passed_over: Callable[[str], None]
) -> Iterator[tuple[np.ndarray, float]]:
    # Motion JPEG is decoded here, since FFmpeg and OpenCV show damaged images without an error.
    four = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(8, "little", signed=True)[:4]
    packed = place.kind != "device" and four.upper() in (b"MJPG", b"JPEG") and capture.set(cv2.CAP_PROP_FORMAT, -1)
    pixels = capture.get(cv2.CAP_PROP_FRAME_WIDTH) * capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
    if pixels > MAX_PIXELS:
        raise SourceError(f"{place.name} has images of {pixels:.0f} pixels, expected at most {MAX_PIXELS}")
    begun, stamp = time.monotonic(), -math.inf
    while True:
        good, data = capture.read()
        if not good:
            return
        told = time.monotonic() - begun if live else capture.get(cv2.CAP_PROP_POS_MSEC) * 1e-3
        stamp = told if stamp < told < math.inf else max(0.0, stamp + 1 / (rate or USUAL_RATE))
        try:
            image = decode_file(data.tobytes(), "an image of the video") if packed else _from_bgr(data)
        except FrameError as error:
            passed_over(f"{place.name} at {stamp:.3f} s: {error}")
            continue
        yield image, stamp


def _from_bgr(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
