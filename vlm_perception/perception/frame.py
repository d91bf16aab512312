"""A frame: the image that a camera's message shows, with the message's header."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlm_perception.perception.region import Region


class FrameError(ValueError):
    """A message or file that is no image. The text says what it claims to be and what was expected."""


@dataclass(frozen=True, eq=False)
class Frame:
    """An image of one `camera` with the `header` of its message.

    `full_image` is RGB, uint8, shape (height, width, 3), read-only. The message came at `arrival`, and the frame was
    taken up at `taken` [s, monotonic]. The camera has delivered this very image, pixel by pixel, for `unchanged` [s, by
    the stamps]. `region` is the part to look at, None for the whole image. `doubt` says why the image may not show what
    the camera sees, None without a reason.
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
        """The part to look at, in the form of `full_image`."""
        return self.region.of(self.full_image) if self.region else self.full_image

    @property
    def stamp(self) -> int:
        """Time [ns] at which the image was taken."""
        return nanoseconds(self.header.stamp)


def stamp_of(message: Any) -> int:
    """Return the time [ns] at which the image of `message` was taken."""
    return nanoseconds(message.header.stamp)


def nanoseconds(time: Any) -> int:
    """Return a `builtin_interfaces/Time` in ns."""
    return time.sec * 1_000_000_000 + time.nanosec
