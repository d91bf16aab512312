"""An image as the JPEG file that goes into a request."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

JPEG_QUALITY = 95
"""Quality whose errors are below a camera's noise."""


@dataclass(frozen=True)
class EncodedImage:
    """A JPEG file in base64, as it goes into JSON."""

    data: str

    @property
    def url(self) -> str:
        """The image as a data URL."""
        return f"data:image/jpeg;base64,{self.data}"


def encode(image: np.ndarray, edge: int = 0) -> EncodedImage:
    """Return the JPEG of an RGB image, uint8, shape (height, width, 3), with at most `edge` [px], 0: no limit.

    `edge` limits the longer edge. JPEG, because a PNG of a camera's image is five times as large and goes over the
    robot's radio. The colours keep their full resolution (4:4:4).
    """
    file = io.BytesIO()
    pil_image = Image.fromarray(image)
    if edge:
        pil_image.thumbnail((edge, edge))
    pil_image.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return EncodedImage(base64.b64encode(file.getvalue()).decode("ascii"))
