"""Images for a benchmark: the user's, else rendered rooms, else drawn shapes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from vlm_perception.perception.source import sample

SIZE = (480, 640)
POSES = 4
"""Images of each room."""


def find_images(source: Path | None, count: int) -> tuple[list[np.ndarray], str]:
    """Return at most `count` RGB images, uint8 (height, width, 3), and their description in words.

    They are spread evenly over `source`, a folder of images or a video. Raises SourceError for a source without images.
    """
    if source is None:
        try:
            return rendered(count), "rooms that no model was trained on, rendered at 640x480"
        except Exception as error:  # a machine that cannot render can still measure a model
            reason = " ".join(str(error).split())
            return drawn(count), f"drawn shapes at 640x480, as the simulator cannot render ({reason:.120})"
    images = sample(source, count)
    height, width = images[0].shape[:2]
    return images, f"{len(images)} of {source}, the first is {width}x{height}"


def rendered(count: int) -> list[np.ndarray]:
    """Render images of rooms. Raises the exception of a renderer that does not work."""
    from vlm_perception.simulation.room import make_room
    from vlm_perception.simulation.world import World
    from vlm_perception.training.dataset import TEST_SEEDS, random_pose

    images = []
    for seed in TEST_SEEDS[: -(-count // POSES)]:
        room, rng = make_room(seed), np.random.default_rng(seed)
        with World(room, SIZE[1], SIZE[0]) as world:
            for _ in range(POSES):
                world.place(random_pose(room, rng))
                images.append(world.image().copy())
    return images[:count]


def drawn(count: int) -> list[np.ndarray]:
    """Draw coloured balls on a grey ground, which are good for measuring time only."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        image = np.full((*SIZE, 3), rng.integers(90, 200), np.uint8)
        for _ in range(rng.integers(1, 5)):
            place = (int(rng.integers(SIZE[1])), int(rng.integers(SIZE[0])))
            colour = tuple(int(value) for value in rng.integers(0, 256, 3))
            cv2.circle(image, place, int(rng.integers(20, 120)), colour, -1, cv2.LINE_AA)
        images.append(image)
    return images
