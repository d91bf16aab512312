"""What moves before a camera that stands still is followed, and nothing else is."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vlm_perception.perception.region import Motion, Region

HEIGHT, WIDTH = 480, 640
RNG = np.random.default_rng(0)
ROOM = cv2.resize(RNG.integers(60, 180, (24, 32, 3), dtype=np.uint8), (WIDTH + 80, HEIGHT + 60))
NOISE = RNG.normal(0, 1, (HEIGHT + 64, WIDTH + 64, 3)).astype(np.float32)
THING = cv2.resize(RNG.integers(0, 255, (6, 6, 3), dtype=np.uint8), (70, 90))


def scene(x=None, y=200, camera=0, light=1.0, noise=5.0):
    """What the camera sees: the room, and a thing at `x`; all of it `camera` pixels further."""
    seen = ROOM[:HEIGHT, camera : camera + WIDTH].astype(np.float32)
    if x is not None:
        seen[y : y + 90, x : x + 70] = THING
    dx, dy = RNG.integers(0, 64, 2)
    seen = np.clip(seen * light + noise * NOISE[dy : dy + HEIGHT, dx : dx + WIDTH], 0, 255).astype(np.uint8)
    seen.flags.writeable = False
    return seen


def holds(region, x, y=200):
    return region.x <= x and region.y <= y and region.x + region.width >= x + 70 and region.y + region.height >= y + 90


@pytest.mark.parametrize("step", [8, 16, 30])
def test_what_moves_is_in_the_region_wherever_it_goes(step):
    motion = Motion()
    motion.region(scene(20))
    for x in range(20 + step, WIDTH - 70, step):
        region = motion.region(scene(x))
        assert holds(region, x), (x, region)
        assert region.width <= WIDTH * 0.5 and abs(region.width * HEIGHT - region.height * WIDTH) <= WIDTH
        assert 0 <= region.x <= WIDTH - region.width and 0 <= region.y <= HEIGHT - region.height


def test_the_whole_image_is_seen_while_nothing_moves_and_when_it_stops():
    motion = Motion()
    assert [motion.region(scene(100)) for _ in range(5)] == [None] * 5
    assert motion.region(scene(120)) is not None
    assert motion.region(scene(120)) is None


@pytest.mark.parametrize("change", [{"camera": 12}, {"camera": 70}, {"light": 1.15}, {"light": 0.7}, {"noise": 12.0}])
def test_a_camera_that_moves_other_light_and_noise_are_no_region(change):
    motion = Motion()
    motion.region(scene(100))
    assert motion.region(scene(100, **change)) is None


def test_the_first_image_and_one_of_another_size_are_seen_whole():
    motion = Motion()
    assert motion.region(scene(100)) is None
    assert motion.region(np.ascontiguousarray(scene(130)[:360])) is None
    motion.region(scene(100))
    motion.clear()
    assert motion.region(scene(130)) is None


def test_two_that_move_far_apart_are_both_seen():
    near = Motion()
    before, after = scene(200).copy(), scene(220).copy()
    before[200:290, 330:400] = THING
    after[200:290, 310:380] = THING
    near.region(before)
    region = near.region(after)
    assert holds(region, 220) and holds(region, 310)
    wide = Motion()
    before, after = scene(10).copy(), scene(40).copy()
    before[380:470, 560:630] = THING
    after[380:470, 530:600] = THING
    wide.region(before)
    assert wide.region(after) is None, "that is nearly all of the image"


def test_a_region_is_a_view_that_stays_read_only():
    image = scene()
    part = Region(10, 20, 200, 150).of(image)
    assert part.shape == (150, 200, 3) and np.shares_memory(part, image) and not part.flags.writeable
    assert np.array_equal(part[0, 0], image[20, 10])
