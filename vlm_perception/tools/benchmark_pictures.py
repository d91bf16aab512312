"""The pictures that a benchmark asks about: the user's, else rendered rooms, else drawn shapes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SIZE = (480, 640)
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
POSES = 4
"""Pictures of each room."""


def find_pictures(source: Path | None, count: int) -> tuple[list[np.ndarray], str]:
    """At most `count` RGB pictures, uint8 (height, width, 3), and what they are, in words.

    `source` is a folder of pictures, or a video, from all over which they are taken. Raises ValueError when there is
    none in it.
    """
    if source is None:
        try:
            return rendered(count), "rooms that no model was trained on, rendered at 640x480"
        except Exception as error:  # a machine that cannot render still has a model to measure
            reason = " ".join(str(error).split())
            return drawn(count), f"drawn shapes at 640x480, as the simulator cannot render ({reason:.120})"
    if source.is_dir():
        files = sorted(file for file in source.iterdir() if file.suffix.lower() in ENDINGS)
        pictures = [
            _as_rgb(picture) for file in _spread(files, count) if (picture := cv2.imread(str(file))) is not None
        ]
    elif source.is_file():
        pictures = from_video(source, count)
    else:
        raise ValueError(f"--images is {str(source)!r}, which does not exist; expected a folder of pictures or a video")
    if not pictures:
        raise ValueError(f"{source} holds no picture, expected {', '.join(sorted(ENDINGS))} in a folder, or a video")
    height, width = pictures[0].shape[:2]
    return pictures, f"{len(pictures)} of {source}, the first is {width}x{height}"


def rendered(count: int) -> list[np.ndarray]:
    """What the simulator's robot sees. Raises whatever a renderer that does not work raises."""
    from vlm_perception.simulation.room import make_room
    from vlm_perception.simulation.world import World
    from vlm_perception.training.dataset import TEST_SEEDS, random_pose

    pictures = []
    for seed in TEST_SEEDS[: -(-count // POSES)]:
        room, rng = make_room(seed), np.random.default_rng(seed)
        with World(room, SIZE[1], SIZE[0]) as world:
            for _ in range(POSES):
                world.place(random_pose(room, rng))
                pictures.append(world.picture().copy())
    return pictures[:count]


def drawn(count: int) -> list[np.ndarray]:
    """Coloured balls on a grey ground, as good as others for times, and for nothing else."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(count):
        picture = np.full((*SIZE, 3), rng.integers(90, 200), np.uint8)
        for _ in range(rng.integers(1, 5)):
            place = (int(rng.integers(SIZE[1])), int(rng.integers(SIZE[0])))
            colour = tuple(int(value) for value in rng.integers(0, 256, 3))
            cv2.circle(picture, place, int(rng.integers(20, 120)), colour, -1, cv2.LINE_AA)
        pictures.append(picture)
    return pictures


def from_video(file: Path, count: int) -> list[np.ndarray]:
    """Pictures from all over a video; none when it cannot be read."""
    video = cv2.VideoCapture(str(file))
    try:
        wanted = set(_spread(range(int(video.get(cv2.CAP_PROP_FRAME_COUNT))), count))
        pictures: list[np.ndarray] = []
        for number in range(max(wanted, default=-1) + 1):
            if not video.grab():
                break
            if number in wanted:
                there, picture = video.retrieve()
                pictures += [_as_rgb(picture)] if there else []
        return pictures
    finally:
        video.release()


def _spread(things: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of `things`, evenly from the first to the last."""
    if len(things) <= count:
        return list(things)
    return [things[round(n * (len(things) - 1) / max(1, count - 1))] for n in range(count)]


def _as_rgb(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
