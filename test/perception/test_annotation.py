"""What is written on an image can be read: in any script that there is a font for, and never as question marks."""

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from vlm_perception.perception import annotation

CHOICES = ("墙", "门口")
IMAGE = np.full((120, 480, 3), (200, 20, 20), np.uint8)
IMAGE.flags.writeable = False


@pytest.fixture
def fonts(monkeypatch):
    """Sets the fonts that are looked for."""

    def use(*names):
        monkeypatch.setattr(annotation, "FONTS", names)
        annotation._fonts.cache_clear()
        annotation.font_for.cache_clear()

    yield use
    annotation._fonts.cache_clear()
    annotation.font_for.cache_clear()


@pytest.fixture
def chinese_font(tmp_path):
    """A font that has the labels, digits, the percent sign and the blank; each character is a box of its own width."""
    characters = [*"门口墙0123456789% "]
    order = [".notdef", *(f"g{number}" for number in range(len(characters)))]
    glyphs = {}
    for number, name in enumerate(order):
        pen = TTGlyphPen(None)
        right, top = 300 + 20 * number, 500
        for move, point in zip(
            ("moveTo", *["lineTo"] * 3), ((50, 0), (50, top), (right, top), (right, 0)), strict=True
        ):
            getattr(pen, move)(point)
        pen.closePath()
        glyphs[name] = pen.glyph()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(order)
    font.setupCharacterMap({ord(c): name for c, name in zip(characters, order[1:], strict=True)})
    font.setupGlyf(glyphs)
    font.setupHorizontalMetrics({name: (1000, 0) for name in order})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Boxes", "styleName": "Regular"})
    font.setupPost()
    font.save(tmp_path / "boxes.ttf")
    return str(tmp_path / "boxes.ttf")


def written(label, words=""):
    return annotation.annotate(IMAGE, label, 0.87, words, CHOICES)


def test_label_and_description_are_on_a_copy(fonts):
    fonts()
    alone, both = written("clear"), written("clear", "red ball left near")
    assert both.shape == IMAGE.shape and both.dtype == np.uint8
    assert (IMAGE == (200, 20, 20)).all()
    assert (both == 255).all(-1).any() and (both == (200, 20, 20)).all(-1).any()
    assert not np.array_equal(alone, both)
    assert np.array_equal(alone[:26], both[:26]), "the description stands below the label"


def test_chinese_is_written_where_a_font_has_it(fonts, chinese_font):
    fonts("no such font.ttf", chinese_font)
    assert not np.array_equal(written("门口"), written("墙"))
    assert not np.array_equal(written("门口"), written("choices[1]"))
    assert not np.array_equal(written("门口", "墙"), written("门口"))


def test_without_a_font_the_labels_place_is_written_and_the_description_left_out(fonts):
    fonts("no such font.ttf")
    assert np.array_equal(written("门口", "墙"), written("choices[1]"))
    assert np.array_equal(written("墙"), written("choices[0]"))
    assert np.array_equal(written("不明"), written("unknown"))


def test_a_warning_stands_below_in_lines_as_long_as_the_image_is_wide():
    grey = np.full((240, 320, 3), 90, np.uint8)
    warning = "nano knows this package's simulator only, and these images are not the simulator's"
    drawn = annotation.annotate(grey, "clear", 0.9, "", ["clear"], warning)
    rows, columns = np.nonzero((drawn == annotation.WARNING).all(-1))
    assert rows.min() > 160 and columns.min() >= 2 and columns.max() < 318  # all of it can be read
    assert (annotation.annotate(grey, "clear", 0.9, "", ["clear"]) != annotation.WARNING).any(-1).all()
