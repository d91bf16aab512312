"""What people look at: the camera's image with the answers drawn on it, a video of it, the paths from above."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from vlm_perception.navigation.grid import CELL
from vlm_perception.navigation.map_view import FULL, UNKNOWN, GridView
from vlm_perception.navigation.motion import Pose, placed
from vlm_perception.perception.annotation import WARNING, font_for

if TYPE_CHECKING:
    from vlm_perception.simulation.room import Room

WHITE, BLACK, GREY, GREEN, RED = (255, 255, 255), (0, 0, 0), (170, 170, 170), (90, 220, 90), (240, 90, 80)
DARK_GREEN, DARK_GREY = (40, 130, 40), (100, 100, 100)
PATH_COLOURS = ((230, 40, 40), (40, 90, 230))
MOST_BARS = 10
"""Most bars of one question; of more options, the most probable ones are shown."""
SHEET_WIDTH = 320
"""Width of each image on a contact sheet [px]."""
ON_THE_SHEET = 30
MAP_SHARE = 0.36
"""Width of the map in an image of the video, as a share of it."""
FAINTEST, STRONGEST = 0.15, 0.75
"""Opacity of the belief where it is lowest and highest."""
WIDTHS = (640, 1280)
"""Smallest and largest edge of a drawn image [px]: below, words do not fit; above, a video only gets large."""


class AnsweredQuestion(NamedTuple):
    """A `question`, the probability of each of its `options` for this image, and the one that is `chosen`."""

    question: str
    options: Sequence[tuple[str, float]]
    chosen: str


class Canvas:
    """A copy of an RGB image (height, width, 3), at least and at most as wide as `WIDTHS`, to be written on."""

    def __init__(self, image: np.ndarray) -> None:
        width = min(max(image.shape[1], WIDTHS[0]), WIDTHS[1])
        if width != image.shape[1]:
            height = max(1, round(image.shape[0] * width / image.shape[1]))
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        self._image = Image.fromarray(image)
        self._draw = ImageDraw.Draw(self._image)
        self.height, self.width = image.shape[:2]
        self.unit = self.width / 640
        """What is drawn grows with the image."""

    @property
    def image(self) -> np.ndarray:
        return np.array(self._image)

    def darken(self, left: float, top: float, right: float, bottom: float) -> None:
        x0, y0 = round(max(0, left)), round(max(0, top))
        x1, y1 = round(min(self.width, right)), round(min(self.height, bottom))
        if x0 < x1 and y0 < y1:
            box = (x0, y0, x1, y1)
            part = self._image.crop(box)
            self._image.paste(Image.blend(part, Image.new("RGB", part.size), 0.65), box)

    def text(self, words: str, x: float, y: float, colour: tuple = WHITE, size: int = 13, anchor: str = "la") -> None:
        """Write `words` with their `anchor` (as Pillow calls it) at (x, y); what no font can write is left out."""
        if font := font_for(words, round(size * self.unit)):
            self._draw.text((x, y), words, colour, font, anchor=anchor)

    def wrapped(self, words: str, size: int, width: float) -> list[str]:
        """Return `words` in lines that are about as long as `width`."""
        font = font_for(words, round(size * self.unit))
        letter = font.getlength(words) / max(1, len(words)) if font else size
        return textwrap.wrap(words, max(8, int(width / max(letter, 1.0)))) or [""]

    def asked(self, questions: Sequence[AnsweredQuestion], top: float) -> None:
        """Draw each question over its options, a bar for each as long as its probability, from `top` downwards."""
        unit, line, wide = self.unit, 18 * self.unit, 180 * self.unit
        y = top
        for question in questions:
            heading = self.wrapped(question.question, 12, wide)
            options = list(question.options)
            if len(options) > MOST_BARS:
                options = sorted(options, key=lambda option: -option[1])[:MOST_BARS]
            self.darken(6 * unit, y, wide + 18 * unit, y + line * (len(heading) + len(options)) + 6 * unit)
            for words in heading:
                self.text(words, 12 * unit, y + 3 * unit, WHITE, 12)
                y += line
            for option, probability in options:
                colour = DARK_GREEN if option == question.chosen else DARK_GREY
                box = (12 * unit, y + 1 * unit, 12 * unit + max(1.0, wide * probability), y + line - 2 * unit)
                self._draw.rectangle(box, colour)
                self.text(f"{option:.24} {probability:.2f}", 16 * unit, y + line / 2, WHITE, 12, "lm")
                y += line
            y += 10 * unit

    def legend(self, words: str) -> None:
        """Write what the colours mean along the lower edge."""
        self.darken(0, self.height - 18 * self.unit, self.width, self.height)
        self.text(words, 8 * self.unit, self.height - 9 * self.unit, GREY, 11, "lm")

    def warning(self, words: str) -> None:
        """Write `words` above the legend, where nobody can miss them."""
        lines = self.wrapped(words, 13, self.width - 20 * self.unit)
        top = self.height - (24 + 18 * len(lines)) * self.unit
        self.darken(0, top, self.width, self.height - 18 * self.unit)
        for number, line in enumerate(lines):
            self.text(line, 8 * self.unit, top + (3 + 18 * number) * self.unit, WARNING, 13)

    def paste(self, image: np.ndarray, right: float, top: float) -> None:
        """Put an RGB image there, with a thin frame."""
        height, width = image.shape[:2]
        place = (round(right) - width, round(top))
        self._image.paste(Image.fromarray(image), place)
        self._draw.rectangle((place[0] - 1, place[1] - 1, place[0] + width, place[1] + height), outline=GREY)

    def arrow(self, forward: float, turn: float) -> None:
        """Draw a command [m/s], [rad/s] as an arrow, longer for faster; a red spot is standing still."""
        x, y, unit = self.width - 60 * self.unit, self.height - 66 * self.unit, self.unit
        if not (forward or turn):
            self._draw.ellipse((x - 6 * unit, y - 6 * unit, x + 6 * unit, y + 6 * unit), RED)
            return
        tip = (x - 60 * unit * turn, y - (25 + 150 * abs(forward)) * unit)
        image = np.array(self._image)
        cv2.arrowedLine(
            image,
            (round(x), round(y)),
            (round(tip[0]), round(tip[1])),
            GREEN,
            round(3 * unit),
            cv2.LINE_AA,
            tipLength=0.3,
        )
        self._image.paste(Image.fromarray(image))


def annotate(
    image: np.ndarray,
    state: str,
    reason: str,
    answer: str,
    asked: AnsweredQuestion,
    command: tuple[float, float],
    clock: float,
    above: np.ndarray | None = None,
) -> np.ndarray:
    """Draw what the demo's robot thinks and does on a copy of an RGB image (height, width, 3).

    `state` and `reason` are the navigator's, `answer` is about its target, `asked` the label, `command` in [m/s] and
    [rad/s], `clock` in [s]. `above` is a view of the room with what the robot believes, as an RGB image.
    """
    canvas = Canvas(image)
    width, height, unit = canvas.width, canvas.height, canvas.unit
    canvas.darken(0, 0, width, 54 * unit)
    canvas.text(state, 10 * unit, 6 * unit, GREEN if state == "arrived" else WHITE, 17)
    canvas.text(reason[:90], 10 * unit, 32 * unit, GREY, 13)
    canvas.text(f"{clock:.1f} s", width - 10 * unit, 8 * unit, WHITE, 14, "ra")
    canvas.asked([asked], 60 * unit)
    canvas.darken(0, height - 48 * unit, width, height - 18 * unit)
    canvas.text(answer, 10 * unit, height - 42 * unit, WHITE, 15)
    forward, turn = command
    canvas.text(f"{forward:.2f} m/s {turn:+.2f} rad/s", width - 10 * unit, height - 41 * unit, WHITE, 13, "ra")
    canvas.arrow(forward, turn)
    legend = "bars: probability of each answer for this image; green: the label, smoothed; arrow: velocity"
    if above is not None:
        size = (round(MAP_SHARE * width), round(MAP_SHARE * width * above.shape[0] / above.shape[1]))
        canvas.paste(cv2.resize(above, size, interpolation=cv2.INTER_AREA), width - 8 * unit, 62 * unit)
        legend = (
            "bars: answers about this image; green: the label, smoothed; map: where the target may be; arrow: velocity"
        )
    canvas.legend(legend)
    return canvas.image


@contextmanager
def _silent() -> Iterator[None]:
    """Without what a library's C code writes to standard error."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


class Video:
    """A WebM (VP8) of RGB images, which browsers play; opened with the first one.

    OpenCV's wheels have no encoder for H.264: those that there are would bring the GPL or a patent licence.
    """

    def __init__(self, path: Path, rate: float):
        self.path = path
        self._rate = rate
        self._size = (0, 0)
        self._writer: cv2.VideoWriter | None = None

    def add(self, image: np.ndarray) -> None:
        if self._writer is None:
            try:
                str(self.path).encode()
            except UnicodeEncodeError:  # OpenCV would end the process
                raise OSError(f"cannot write the video {os.fsencode(self.path)!r}: its name is not UTF-8") from None
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._size = (image.shape[1], image.shape[0])
            with _silent():  # OpenCV complains of a tag that WebM does not have, and does the right thing
                fourcc = cv2.VideoWriter.fourcc(*"VP80")
                self._writer = cv2.VideoWriter(str(self.path), cv2.CAP_FFMPEG, fourcc, self._rate, self._size)
            if not self._writer.isOpened():
                raise OSError(f"cannot write the video {self.path}: is the folder writable, and has OpenCV its FFmpeg?")
        if (image.shape[1], image.shape[0]) != self._size:  # a writer drops what is of another size
            image = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None


def draw_paths(
    room: Room,
    paths: Mapping[str, Sequence[tuple[float, float]]],
    target: str,
    file: Path,
    crosses: Sequence[tuple[float, float]] = (),
    belief: GridView | None = None,
) -> None:
    """Write an image of the room from above: the target, the paths, and crosses where something was touched.

    `paths` holds points [m] by the name of the controller, in at most as many as there are `PATH_COLOURS`. `belief` is
    where the target may be, in the room's frame.
    """
    from vlm_perception.simulation.world import World

    with World(room, 960, 720) as world:

        def pixel(x: float, y: float) -> tuple[int, int]:
            column, row = world.pixel_from_above(x, y)
            return round(column), round(row)

        image = world.image("above").copy()
        if belief is not None:
            lay_over(image, belief, world.pixel_from_above)
        for path, colour in zip(paths.values(), PATH_COLOURS, strict=False):
            points = [pixel(*place) for place in path]
            if len(points) > 1:
                cv2.polylines(image, [np.array(points, np.int32)], False, WHITE, 4, cv2.LINE_AA)
                cv2.polylines(image, [np.array(points, np.int32)], False, colour, 2, cv2.LINE_AA)
            if points:
                cv2.circle(image, points[0], 6, WHITE, -1, cv2.LINE_AA)
                cv2.circle(image, points[-1], 8, colour, -1, cv2.LINE_AA)
        for place in crosses:
            cv2.drawMarker(image, pixel(*place), BLACK, cv2.MARKER_TILTED_CROSS, 18, 3, cv2.LINE_AA)
        if (thing := room.thing(target)) is not None:
            reach = pixel(thing.x + thing.outer_radius + 1.0, thing.y)[0] - pixel(thing.x, thing.y)[0]
            cv2.circle(image, pixel(thing.x, thing.y), reach, WHITE, 1, cv2.LINE_AA)
    canvas = Canvas(image)
    canvas.darken(0, 0, canvas.width, 30 * canvas.unit)
    canvas.text(f"room {room.seed}: where is the {target}?", 8 * canvas.unit, 6 * canvas.unit, size=15)
    for number, (name, colour) in enumerate(zip(paths, PATH_COLOURS, strict=False)):
        place = (canvas.width - 8 * canvas.unit, (34 + 18 * number) * canvas.unit)
        canvas.darken(canvas.width - 110 * canvas.unit, place[1], canvas.width, place[1] + 18 * canvas.unit)
        canvas.text(name, *place, colour, 13, "ra")
    touched = "; cross: touched something" if crosses else ""
    believed = "; yellow to dark: where the target may be" if belief is not None else ""
    canvas.legend(f"small spot: start; large spot: end; ring: within 1 m of the target{touched}{believed}")
    _write(canvas.image, file)


def lay_over(image: np.ndarray, belief: GridView, pixel: Callable[[float, float], tuple[float, float]]) -> None:
    """Colour an RGB image of the floor by a `belief`: dark violet where it is low, yellow where it is high.

    `pixel` returns column and row of a place [m] in the frame of the belief's corner.
    """
    values = np.clip(belief.cells, 0, FULL).astype(np.float32) / FULL
    colours = cv2.applyColorMap(np.uint8(255 * values), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    opacity = np.where(belief.cells == UNKNOWN, 0.0, FAINTEST + (STRONGEST - FAINTEST) * values).astype(np.float32)
    corners = [placed(belief.corner, Pose(CELL * (i + 0.5), CELL * (j + 0.5))) for i, j in ((0, 0), (1, 0), (0, 1))]
    there = np.array([pixel(corner.x, corner.y) for corner in corners], np.float32)
    to_image = cv2.getAffineTransform(np.array([(0, 0), (1, 0), (0, 1)], np.float32), there)
    size = (image.shape[1], image.shape[0])
    colours, opacity = (cv2.warpAffine(layer, to_image, size, flags=cv2.INTER_LINEAR) for layer in (colours, opacity))
    image[...] = image + opacity[:, :, None] * (colours.astype(np.float32) - image)


def draw_robot(
    image: np.ndarray,
    path: Sequence[tuple[float, float]],
    pixel: Callable[[float, float], tuple[float, float]],
    pose: Pose,
) -> None:
    """Draw the robot's way so far, in pixels, and the robot with its heading."""
    if len(path) > 1:
        cv2.polylines(image, [np.rint(path).astype(np.int32)], False, PATH_COLOURS[0], 2, cv2.LINE_AA)
    here, tip = (tuple(round(value) for value in pixel(*place)) for place in ((pose.x, pose.y), pose.ahead(0.4)))
    cv2.arrowedLine(image, here, tip, WHITE, 2, cv2.LINE_AA, tipLength=0.5)
    cv2.circle(image, here, 5, PATH_COLOURS[0], -1, cv2.LINE_AA)


def contact_sheet(images: Sequence[tuple[np.ndarray, bool]], file: Path, columns: int = 10) -> None:
    """Write all RGB `images` as one, small, each in its shape; those that are not good get a red frame."""
    width, edge = SHEET_WIDTH, 6
    height = max(round(width * image.shape[0] / image.shape[1]) for image, _ in images)
    height = min(max(height, 80), 480)
    columns = min(columns, len(images))
    sheet = np.zeros((-(-len(images) // columns) * height, columns * width, 3), np.uint8)
    for number, (image, good) in enumerate(images):
        scale = min(width / image.shape[1], height / image.shape[0])
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        right, below = small.shape[1] - 1, small.shape[0] - 1
        cv2.rectangle(small, (0, 0), (right, below), DARK_GREEN if good else RED, 1 if good else edge)
        row, column = divmod(number, columns)
        sheet[row * height : row * height + small.shape[0], column * width : column * width + small.shape[1]] = small
    _write(sheet, file)


class Kept:
    """Some of any number of RGB images, at most `ON_THE_SHEET`, evenly from the first to the last."""

    def __init__(self) -> None:
        self.images: list[np.ndarray] = []
        self._step, self._count = 1, 0

    def add(self, image: np.ndarray) -> None:
        """Keep `image` if it is its turn; of too many, every other one stays."""
        if self._count % self._step == 0:
            height = max(1, round(SHEET_WIDTH * image.shape[0] / image.shape[1]))
            self.images.append(cv2.resize(image, (SHEET_WIDTH, height), interpolation=cv2.INTER_AREA))
            if len(self.images) > ON_THE_SHEET:
                self.images, self._step = self.images[::2], 2 * self._step
        self._count += 1

    def write(self, file: Path) -> None:
        """Write what was kept as one image; nothing if there is none."""
        if self.images:
            contact_sheet([(image, True) for image in self.images], file, columns=5)


def _write(image: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # By its bytes: OpenCV cannot take every name.
    file.write_bytes(cv2.imencode(file.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())
