"""The maps of a search together, and that late answers tell what timely ones do."""

import math

import numpy as np
import pytest
from search_world import BEGIN, PERIOD, search_map, sighting, surroundings

from vlm_perception.navigation.motion import Limits, Pose
from vlm_perception.navigation.pilot import Pilot
from vlm_perception.navigation.search_map import SearchMap
from vlm_perception.navigation.tuning import Tuning

HERE = Pose()
IMAGES = [
    (Pose(0.0, 0.0, 0.0), "no", "clear", "center"),
    (Pose(0.4, 0.1, 0.9), "left far", "doorway", "left"),
    (Pose(0.7, 0.4, 1.5), "center far", "wall", "none"),
    (Pose(0.7, 0.4, 1.5), "center far", "wall", "none"),
    (Pose(0.3, 0.8, 3.0), "no", "obstacle", "right"),
]


def taught(*images: tuple) -> SearchMap:
    search = search_map()
    for number, (pose, target, label, way) in enumerate(images):
        search.add(pose, surroundings(label, way), sighting(target), float(number))
    return search


def pose_at(stamp: float) -> Pose:
    """A way through the poses of the images, one a second from the first second on."""
    since = max(0.0, stamp - 1.0)
    k = min(len(IMAGES) - 2, int(since))
    share = min(1.0, since - k)
    a, b = IMAGES[k][0], IMAGES[k + 1][0]
    return Pose(*(p + share * (q - p) for p, q in ((a.x, b.x), (a.y, b.y), (a.heading, b.heading))))


def driven(delay: float) -> Pilot:
    """A pilot that went along a way by odometry while each answer came late by `delay` [s]."""
    pilot = Pilot(PERIOD, Tuning(), Limits(), max_answer_age=10.0)
    pilot.start("search", "ball", "a test")
    waiting = [(number + delay, float(number), image) for number, image in enumerate(IMAGES, 1)]
    for step in range(round((len(IMAGES) + 4.0) / PERIOD)):
        time = step * PERIOD
        pilot.odometry.add_odometry(BEGIN + time, pose_at(time))
        while waiting and time >= waiting[0][0] - 1e-9:
            _, taken, (_, target, label, way) = waiting.pop(0)
            stamp = BEGIN + taken
            assert pilot.take(surroundings(label, way, stamp), sighting(target, stamp), BEGIN + time, time)
    assert not waiting
    return pilot


@pytest.mark.parametrize("delay", [0.4, 3.0])
def test_late_answers_give_the_map_that_timely_ones_give(delay):
    timely, late = driven(0.0).map, driven(delay).map
    assert timely.answers == late.answers == len(IMAGES)
    assert timely.grid.shape == late.grid.shape
    for name, layer in timely.grid.layers.items():
        assert np.allclose(layer, late.grid.layers[name], atol=1e-4), name
    assert timely.absent == pytest.approx(late.absent, abs=1e-6) and timely.absent < 0.9


def test_an_answer_counts_where_its_image_was_taken_not_where_the_robot_is():
    search = driven(3.0).map
    places = [pose for pose, _ in search.target.views()]
    assert len(places) == len({image[0] for image in IMAGES})
    for pose, (wanted, *_) in zip(places, dict.fromkeys(image[:1] for image in IMAGES), strict=True):
        assert pose.distance_to((wanted.x, wanted.y)) < 0.01 and abs(pose.heading - wanted.heading) < 0.01


def test_what_is_known_follows_each_change():
    search = taught(*IMAGES[:1])
    before, floor = search.absent, search.floor.sum()
    search.add(Pose(0.0, 0.0, 1.0), surroundings("doorway", "center"), sighting("center far"), 1.0)
    assert search.absent < before and search.floor.sum() != floor
    sector = search.sector(HERE)
    x, y = 2.0 * math.cos(1.0), 2.0 * math.sin(1.0)
    assert abs(math.atan2(sector.y, sector.x) - math.atan2(y, x)) < 0.3
    before = search.absent
    search.reject(sector.x, sector.y)
    assert search.absent != before
    search.forget_target()
    assert search.absent > 0.0 and not search.target.views() and search.searched == 0.0
    assert search.free.ahead(HERE, 1.0) > 0.5, "what is free stays known"
    search.forget()
    assert search.answers == 0 and search.free.ahead(HERE, 1.0) < 0.25
    assert not any(np.any(layer != search.grid._fills[name]) for name, layer in search.grid.layers.items())


def test_all_adds_up_to_one_and_looking_in_vain_says_that_it_is_not_here():
    search = search_map()
    shares, absents = [], []
    for k in range(12):
        pose = Pose(0.0, 0.0, k * math.tau / 12)
        search.add(pose, surroundings("clear", "center"), sighting("no"), float(k))
        cells, absent = search.belief
        assert float(cells.sum(dtype=float)) + absent == pytest.approx(1.0, abs=1e-4)
        shares.append(search.searched)
        absents.append(absent)
    assert shares[-1] > 0.5 and all(0.0 <= share <= 1.0 for share in shares)
    assert absents[-1] > absents[0]


def test_without_a_target_only_what_is_free_is_learnt():
    search = search_map()
    search.add(HERE, surroundings("clear", "center"), None, 0.0)
    assert search.free.ahead(HERE, 0.0) > 0.5 and not search.target.views()


def test_what_was_known_before_odometry_was_lost_does_not_count_any_more():
    pilot = driven(0.0)
    now = BEGIN + len(IMAGES) + 4.0
    pilot.odometry.add_odometry(now, IMAGES[-1][0])
    pilot.step(now, 20.0)
    assert pilot.map.answers == len(IMAGES)
    for k in range(1, 40):
        pilot.step(now + k * PERIOD, 20.0 + k * PERIOD)
    assert pilot.map.answers == 0 and not pilot.map.target.views()
