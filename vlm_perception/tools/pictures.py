"""What people look at: the camera's picture with the answers drawn on it, a video of it, the paths from above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from vlm_perception.perception.source import read_image
from vlm_perception.simulation.room import Room
from vlm_perception.simulation.world import World

FONT = cv2.FONT_HERSHEY_SIMPLEX
WHITE, BLACK, GREY, GREEN, RED = (255, 255, 255), (0, 0, 0), (170, 170, 170), (90, 220, 90), (240, 90, 80)
DARK_GREEN, DARK_GREY = (40, 130, 40), (100, 100, 100)
PATH_COLOURS = ((230, 40, 40), (40, 90, 230))


def annotate(
    image: np.ndarray,
    state: str,
    reason: str,
    answer: str,
    labels: Sequence[tuple[str, float]],
    label: str,
    command: tuple[float, float],
    clock: float,
) -> np.ndarray:
    """Draw state, answer, label probabilities and command (m/s, rad/s) on a copy of an RGB picture (H, W, 3)."""
    height, width = image.shape[:2]
    picture = image.copy()
    panels = [(slice(0, 58), slice(None)), (slice(height - 42, height), slice(None))]
    if labels:
        panels.append((slice(62, 68 + 20 * len(labels)), slice(6, 150)))
    for panel in panels:
        picture[panel] = (picture[panel] * 0.35).astype(np.uint8)

    def text(words: str, x: int, y: int, colour: tuple[int, int, int] = WHITE, size: float = 0.5) -> None:
        printable = words.encode("ascii", "replace").decode()
        cv2.putText(picture, printable, (x, y), FONT, size, colour, 1, cv2.LINE_AA)

    text(state, 10, 22, GREEN if state == "arrived" else WHITE, 0.65)
    text(reason[:80], 10, 46, GREY, 0.45)
    text(f"{clock:5.1f} s", width - 80, 22)
    text(answer, 10, height - 16, WHITE, 0.55)
    for number, (name, probability) in enumerate(labels):
        y = 80 + 20 * number
        bar = int(136 * probability)
        cv2.rectangle(picture, (10, y - 11), (10 + bar, y + 3), DARK_GREEN if name == label else DARK_GREY, -1)
        text(f"{name} {probability:.2f}", 14, y, WHITE, 0.42)
    linear, angular = command
    base = (width - 60, height - 50)
    text(f"{linear:.2f} m/s {angular:+.2f} rad/s", width - 190, height - 16, WHITE, 0.45)
    if linear or angular:
        tip = (int(base[0] - 60 * angular), int(base[1] - 25 - 150 * abs(linear)))
        cv2.arrowedLine(picture, base, tip, GREEN, 3, cv2.LINE_AA, tipLength=0.3)
    else:
        cv2.circle(picture, base, 6, RED, -1, cv2.LINE_AA)
    return picture


class Video:
    """An MP4 of RGB pictures; opened with the first one."""

    def __init__(self, path: Path, rate: float):
        self.path = path
        self._rate = rate
        self._writer: cv2.VideoWriter | None = None

    def add(self, picture: np.ndarray) -> None:
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            size = (picture.shape[1], picture.shape[0])
            self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter_fourcc(*"mp4v"), self._rate, size)
            if not self._writer.isOpened():
                raise OSError(f"cannot write the video {self.path}: is the folder writable, and has OpenCV its FFmpeg?")
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

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
) -> None:
    """Write a picture of the room from above: the target, who went where, and crosses where something was touched.

    `paths` holds points [m] by the name of who went there, in at most as many as there are `PATH_COLOURS`.
    """
    with World(room, 960, 720) as world:

        def pixel(x: float, y: float) -> tuple[int, int]:
            column, row = world.pixel_from_above(x, y)
            return round(column), round(row)

        picture = world.picture("above").copy()
        for number, ((name, path), colour) in enumerate(zip(paths.items(), PATH_COLOURS, strict=False)):
            points = [pixel(*place) for place in path]
            if len(points) > 1:
                cv2.polylines(picture, [np.array(points, np.int32)], False, WHITE, 4, cv2.LINE_AA)
                cv2.polylines(picture, [np.array(points, np.int32)], False, colour, 2, cv2.LINE_AA)
            if points:
                cv2.circle(picture, points[0], 6, WHITE, -1, cv2.LINE_AA)
                cv2.circle(picture, points[-1], 8, colour, -1, cv2.LINE_AA)
            cv2.putText(picture, name, (16, 62 + 28 * number), FONT, 0.7, WHITE, 4, cv2.LINE_AA)
            cv2.putText(picture, name, (16, 62 + 28 * number), FONT, 0.7, colour, 2, cv2.LINE_AA)
        for place in crosses:
            cv2.drawMarker(picture, pixel(*place), BLACK, cv2.MARKER_TILTED_CROSS, 18, 3, cv2.LINE_AA)
        if (thing := room.thing(target)) is not None:
            reach = pixel(thing.x + thing.outer_radius + 1.0, thing.y)[0] - pixel(thing.x, thing.y)[0]
            cv2.circle(picture, pixel(thing.x, thing.y), reach, WHITE, 1, cv2.LINE_AA)
        cv2.putText(picture, f"room {room.seed}: {target}", (16, 32), FONT, 0.8, WHITE, 2, cv2.LINE_AA)
    _write(picture, file)


def contact_sheet(pictures: Sequence[tuple[Path, bool]], file: Path, columns: int = 10) -> None:
    """Write all `pictures` as one, small; those that are not good get a red frame."""
    width, height, edge = 320, 240, 6
    columns = min(columns, len(pictures))
    sheet = np.zeros((-(-len(pictures) // columns) * height, columns * width, 3), np.uint8)
    for number, (path, good) in enumerate(pictures):
        small = cv2.resize(read_image(path), (width, height), interpolation=cv2.INTER_AREA)
        cv2.rectangle(small, (0, 0), (width - 1, height - 1), DARK_GREEN if good else RED, 1 if good else edge)
        row, column = divmod(number, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = small
    _write(sheet, file)


def _write(picture: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # By its bytes: OpenCV cannot take every name.
    file.write_bytes(cv2.imencode(file.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())
