"""A CameraInfo tells the field of view, or is refused in words."""

from __future__ import annotations

import contextlib
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest

from vlm_perception.navigation.camera_info import CameraInfoError, field_of_view

FOCAL = 400.0


def info(**changes):
    """A `sensor_msgs/CameraInfo` of 640x480 pixels, with what is different about it."""
    values = {
        "width": 640,
        "height": 480,
        "k": [FOCAL, 0.0, 319.5, 0.0, FOCAL, 239.5, 0.0, 0.0, 1.0],
        "d": [],
        "distortion_model": "plumb_bob",
        "binning_x": 0,
        "binning_y": 0,
        "roi": region(0, 0, 0, 0),
    }
    return SimpleNamespace(**{**values, **changes})


def region(x, y, width, height):
    return SimpleNamespace(x_offset=x, y_offset=y, width=width, height=height)


def test_the_field_of_view_follows_from_the_focal_length():
    assert field_of_view(info()) == pytest.approx(2 * math.atan(320 / 400))


def test_binning_changes_nothing_and_a_region_in_the_middle_sees_less():
    assert field_of_view(info(binning_x=2, binning_y=2)) == pytest.approx(field_of_view(info()))
    half = info(roi=region(160, 120, 320, 240), binning_x=2)
    assert field_of_view(half) == pytest.approx(2 * math.atan(160 / 400))


@pytest.mark.parametrize(
    ("model", "d"),
    [("plumb_bob", [-0.2, 0.03, 0.0, 0.0, 0.0]), ("rational_polynomial", [0.1, 0, 0, 0, 0, 0.3, 0.01, 0])],
)
def test_distortion_counts(model, d):
    """The direction that is found is distorted back to the image's edge."""
    half = field_of_view(info(distortion_model=model, d=d)) / 2
    k1, k2, _, _, k3, k4, k5, k6 = [*d, 0, 0, 0][:8]
    r2 = math.tan(half) ** 2
    factor = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    assert math.tan(half) * factor == pytest.approx(320 / 400, abs=1e-4)
    assert half > math.atan(320 / 400) + 0.03


def test_a_fisheye_sees_as_many_radians_as_focal_lengths():
    assert field_of_view(info(distortion_model="equidistant", d=[0.0] * 4)) == pytest.approx(640 / 400)


def k(fx=FOCAL, fy=FOCAL, cx=319.5, cy=239.5):
    return [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 0, "height": 0}, "its size is 0x0"),
        ({"k": [0.0] * 9}, "not calibrated"),
        ({"k": k(fx=math.nan)}, "not finite"),
        ({"d": [math.inf]}, "not finite"),
        ({"k": k(fx=-400.0)}, "focal lengths are -400 and 400"),
        ({"k": k(fy=100.0)}, "expected two similar ones"),
        ({"width": 1920, "height": 1080}, "calibrated at another size"),
        ({"width": 320, "height": 240}, "calibrated at another size"),
        ({"roi": region(0, 0, 320, 240)}, "region of interest not in the middle"),
        ({"roi": region(600, 0, 320, 240)}, "not within 640x480"),
        ({"k": k(fx=8000.0, fy=8000.0)}, "field of view is 0.08 rad"),
        ({"k": k(fx=1.0, fy=1.0)}, "field of view is 3.14 rad"),
        ({"distortion_model": "telepathy"}, "distortion_model is 'telepathy'"),
        ({"d": [-0.9, 0.0, 0.0, 0.0, 0.0]}, "does not fit to its K"),
    ],
)
def test_what_is_implausible_is_refused_in_words(changes, words):
    with pytest.raises(CameraInfoError, match=words):
        field_of_view(info(**changes))


def test_whatever_comes_is_a_field_of_view_or_refused():
    draw = random.Random(3)
    numbers = [0.0, 1.0, -1.0, 320.0, 400.0, 1e-300, 1e300, 1e308, -1e308, math.nan, math.inf, 0.3, -0.3]
    for _ in range(3000):
        one = info(
            width=draw.choice([0, 1, 640, 2**32 - 1]),
            k=np.array([draw.choice(numbers) if draw.random() < 0.2 else value for value in k()]),
            d=[draw.choice(numbers) for _ in range(draw.choice([0, 1, 4, 5, 8, 14]))],
            distortion_model=draw.choice(["", "plumb_bob", "rational_polynomial", "equidistant", "\0"]),
            roi=region(*(draw.choice([0, 1, 160, 320, 2**32 - 1]) for _ in range(4))),
        )
        with contextlib.suppress(CameraInfoError):
            assert 0.1 <= field_of_view(one) <= 3.0
