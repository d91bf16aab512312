"""The label and the description written on their image, in any script that there is a font for."""

from __future__ import annotations

import contextlib
import functools
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf")
"""Files of fonts, in the order in which they are tried. Debian has them as fonts-dejavu-core, fonts-noto-cjk, ..."""
WARNING = (255, 190, 0)
"""RGB colour of the warning: amber."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def annotate(
    image: np.ndarray, label: str, confidence: float, words: str, choices: Sequence[str], warning: str | None = None
) -> np.ndarray:
    """Return a copy of the RGB `image` (height, width, 3) with the label and the description written on it.

    The `warning` is written at the bottom, in lines as long as the image is wide. When no font has a label's
    characters, its place in the SceneLabel message is written, such as choices[1]. A description that no font can
    write is left out.
    """
    size = max(12, image.shape[1] // 32)
    drawn = Image.fromarray(image)
    draw = ImageDraw.Draw(drawn)
    if not font_for(label, size):
        label = f"choices[{choices.index(label)}]" if label in choices else "unknown"
    for line, text in enumerate((f"{label} {confidence:.0%}", words)):
        if font := font_for(text, size):
            place = (size // 2, size // 2 + line * size * 4 // 3)
            draw.text(place, text, "white", font, stroke_width=max(1, size // 10), stroke_fill="black")
    if warning and (font := font_for(warning, size)):
        lines = textwrap.wrap(warning, max(10, int(image.shape[1] / font.getlength("n")) - 2))
        draw.multiline_text(
            (size // 2, image.shape[0] - size // 2),
            "\n".join(lines),
            WARNING,
            font,
            anchor="ld",
            stroke_width=max(1, size // 10),
            stroke_fill="black",
        )
    return np.asarray(drawn)


@functools.lru_cache(maxsize=512)
def font_for(text: str, size: int) -> Font | None:
    """Return the first font, `size` pixels high, that has every character of `text`."""
    for font in _fonts(size):
        missing = _shape(font, "\uffff")  # not a character: shows what the font draws for a missing one
        if all(character.isspace() or _shape(font, character) != missing for character in text):
            return font
    return None


@functools.cache
def _fonts(size: int) -> list[Font]:
    """Return the `FONTS` that are installed, and the font that Pillow brings, which has little more than ASCII."""
    fonts: list[Font] = []
    for name in FONTS:
        with contextlib.suppress(OSError):
            fonts.append(ImageFont.truetype(name, size))
    return [*fonts, ImageFont.load_default(size)]


@functools.lru_cache(maxsize=4096)
def _shape(font: Font, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)
