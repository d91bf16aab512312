"""The part of the image where something moves, before a camera that stands still. No ROS.

Dense inverse search ([Kroeger et al. 2016](https://arxiv.org/abs/1603.03590), in OpenCV) on small grey images finds
how every part moved since the last one. What moved, with room around it, is the region.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

WIDTH = 160
"""Width of the grey images [px]."""
MOVES = 0.6
"""What moves less than this from one image to the next [small pixels] stands still."""
DIFFERS = 12.0
"""Where two images differ by less than this [0 to 255], flow is imagined: there is nothing to follow but noise."""
SMALLEST = 12
"""Fewer moving small pixels than this are noise."""
ALL_MOVES = 0.4
"""When more than this share of the image moves, it is the camera that does, or the light."""
ROOM = 1.5
"""The region is so many times as large as what moves in it."""
LEAST, MOST = 0.25, 0.8
"""Edge of a region as a share of the image's: smaller ones lack surroundings, larger ones are the whole image."""
SPECK = np.ones((2, 2), np.uint8)
"""What moves and is thinner [small pixels] is noise."""
NEAR = np.ones((17, 17), np.uint8)
"""What differs so near to what moves, by half of this [small pixels], moves with it."""


class Region(NamedTuple):
    """A part of an image [pixels]: its left upper corner, its size."""

    x: int
    y: int
    width: int
    height: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """Return this part of `image`, read-only if that is."""
        return image[self.y : self.y + self.height, self.x : self.x + self.width]


class Motion:
    """Follows what moves from image to image of one camera."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._before: np.ndarray | None = None

    def region(self, image: np.ndarray) -> Region | None:
        """Return the part of `image` in which something has moved since the last one; None: all of it is to be seen.

        `image` is RGB, uint8, shape (height, width, 3). The region has the shape of the image, so that a model that
        squashes images sees things as it is used to.
        """
        height, width = image.shape[:2]
        size = (WIDTH, max(16, round(WIDTH * height / width)))
        grey = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        before, self._before = self._before, grey
        if before is None or before.shape != grey.shape:
            return None
        flow = self._flow.calc(grey, before, None)  # from now to then: it says where things are now
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
