"""The part of the image of a still camera where something moves. No ROS.

Dense inverse search ([Kroeger et al. 2016](https://arxiv.org/abs/1603.03590), in OpenCV) on small grey images finds the
motion of every part since the last image. The region is what moved, with a margin.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

WIDTH = 160
"""Width of the grey images [px]."""
MOVES = 0.6
"""Least motion [small pixels] from one image to the next; less is no motion."""
DIFFERS = 12.0
"""Least difference [0 to 255] of two images; where it is less, the flow follows only noise."""
SMALLEST = 12
"""Least number of moving small pixels; fewer are noise."""
ALL_MOVES = 0.4
"""Largest share of the image that moves; if more moves, the camera or the light changed."""
ROOM = 1.5
"""Size of the region relative to what moves in it."""
LEAST, MOST = 0.25, 0.8
"""Edge of a region as a share of the image's: a smaller one lacks surroundings, a larger one is the whole image."""
SPECK = np.ones((2, 2), np.uint8)
"""Size [small pixels] below which what moves is noise."""
NEAR = np.ones((17, 17), np.uint8)
"""Neighbourhood [small pixels] of what moves, in which all that differs moves with it."""


class Region(NamedTuple):
    """A part of an image [px]: its upper left corner and its size."""

    x: int
    y: int
    width: int
    height: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """Return this part of `image`, read-only if `image` is."""
        return image[self.y : self.y + self.height, self.x : self.x + self.width]


class Motion:
    """Follows what moves from image to image of one camera."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._before: np.ndarray | None = None

    def region(self, image: np.ndarray) -> Region | None:
        """Return the part of `image` in which something moved since the last image; None for the whole image.

        `image` is RGB, uint8, shape (height, width, 3). The region has the aspect ratio of the image, so a model that
        squashes images sees things in the usual shape.
        """
        height, width = image.shape[:2]
        size = (WIDTH, max(16, round(WIDTH * height / width)))
        grey = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        before, self._before = self._before, grey
        if before is None or before.shape != grey.shape:
            return None
        flow = self._flow.calc(grey, before, None)  # from now to then, so that it is at the places of now
        differs = (cv2.absdiff(grey, before) > DIFFERS).astype(np.uint8)
        moving = (np.hypot(flow[..., 0], flow[..., 1]) > MOVES) * differs
        moving = cv2.morphologyEx(moving, cv2.MORPH_OPEN, SPECK)
        moving = cv2.dilate(moving, NEAR) * differs  # flow loses the edges of what moves fast
        count = cv2.countNonZero(moving)
        if not SMALLEST <= count <= ALL_MOVES * moving.size:
            return None
        x, y, w, h = (value * width / WIDTH for value in cv2.boundingRect(moving))
        share = max(w / width, h / height, LEAST / ROOM) * ROOM
        if share > MOST:
            return None
        region_width, region_height = round(share * width), round(share * height)
        left = min(max(0, round(x + w / 2 - region_width / 2)), width - region_width)
        top = min(max(0, round(y + h / 2 - region_height / 2)), height - region_height)
        return Region(left, top, region_width, region_height)

    def clear(self) -> None:
        """Forget the last image."""
        self._before = None
