"""Where to look next: what is worth while, in which order, and when nothing is."""

import math

import numpy as np
import pytest
from search_world import search_map, sighting, surroundings

from vlm_perception.navigation import next_view as next_view_module
from vlm_perception.navigation import next_view as planning
from vlm_perception.navigation.free_map import PASSABLE
from vlm_perception.navigation.motion import Pose, wrap
from vlm_perception.navigation.next_view import Gains, Pace, next_view, way_around
from vlm_perception.navigation.search_map import SearchMap

HERE = Pose()
PACE = Pace(turn=1.0, forward=0.4, view=1.0)
HALF_VIEW = search_map().target.field_of_view / 2


def looked(*headings: float, label: str = "clear", way: str = "center", target: str = "no") -> SearchMap:
    search = search_map()
    for number, heading in enumerate(headings):
        search.add(Pose(0.0, 0.0, heading), surroundings(label, way), sighting(target), float(number))
    return search


def room(half: float) -> SearchMap:
    """A square of known floor around the origin, in which nobody has looked for the target."""
    search = looked(0.0)
    search.forget_target()
    cells, layers = search.grid.everything(), search.grid.layers
    inside = (np.abs(cells.x) < half) & (np.abs(cells.y) < half)
    layers["free"][...] = np.where(inside, 4.0, -4.0)
    layers["measured"][...] = 0.0
    layers["floor"][...] = inside
    layers["passage"][...] = layers["walled"][...] = 0.0
    search._changed()
    return search


def test_the_first_views_go_around_and_none_is_taken_twice():
    search, pose, time = looked(0.0), HERE, 1.0
    headings = [0.0]
    for _ in range(12):
        view = next_view(search, pose, PACE, time, here_only=True)
        if view is None or view.corners or view.is_way:
            break
        assert all(abs(wrap(view.heading - other)) > 0.5 * HALF_VIEW for other in headings)
        headings.append(view.heading)
        pose = Pose(0.0, 0.0, view.heading)
        search.add(pose, surroundings("clear", "center"), sighting("no"), time)
        time += 1.0
    assert len(headings) <= 2 + math.tau / HALF_VIEW
    around = sorted(heading % math.tau for heading in headings)
    gaps = np.diff([*around, around[0] + math.tau])
    assert max(gaps) < 2.2 * HALF_VIEW, "all around"


def test_what_is_taken_again_tells_less_until_there_is_news():
    search = looked(0.0)
    fresh, again = (Gains(search, []).news(0.0, 0.0, heading) for heading in (2.0, 0.0))
    assert fresh == 1.0 and again == pytest.approx(planning.NEWS)
    before = Gains(search, []).at(Gains(search, []).around(0.0, 0.0), 0.0)
    search.add(Pose(2.0, -2.0, math.pi / 2), surroundings("clear", "center"), sighting("center far"), 1.0)
    news = Gains(search, []).at(Gains(search, []).around(0.0, 0.0), 0.0)
    assert news > before, "from elsewhere it seemed to be there"


def test_a_view_that_waits_for_its_answer_is_not_taken_again():
    search = looked(0.0)
    pending: list[Pose] = []
    for _ in range(10):
        view = next_view(search, HERE, PACE, 0.0, pending, here_only=True)
        if view is None or view.corners or view.is_way:
            break
        assert all(abs(wrap(view.heading - pose.heading)) > 0.5 * HALF_VIEW for pose in pending)
        assert abs(view.heading) > 0.5 * HALF_VIEW
        pending.append(Pose(0.0, 0.0, view.heading))
    assert 2 <= len(pending) <= 1 + math.tau / HALF_VIEW
    beside = Pose(-2.0 * planning.SIMILAR[0], 0.0, 1.5)  # not a similar view, but most of the same cells
    gains = [Gains(search, waits) for waits in ([], [Pose(0.0, 0.0, 1.5)])]
    worth = [gain.at(gain.around(beside.x, beside.y), beside.heading) for gain in gains]
    assert worth[1] < 0.7 * worth[0]


def test_a_doorway_is_worth_more_than_a_wall():
    headings = {"doorway": 0.0, "wall": math.pi, "clear": math.pi / 2}
    search = search_map()
    for number, (label, heading) in enumerate(headings.items()):
        for _ in range(2):
            search.add(Pose(0.0, 0.0, heading), surroundings(label, "none"), None, float(number))
    gains = Gains(search, [])

    def worth(label: str) -> float:
        x, y = Pose(0.0, 0.0, headings[label]).ahead(1.2)
        around = gains.around(x, y)
        return gains.at(around, headings[label])

    assert worth("doorway") > 1.2 * worth("clear") and worth("clear") > 1.2 * worth("wall")


def test_a_side_that_is_begun_is_gone_on_with():
    search = looked(0.0)
    left, right = (next_view(search, HERE, PACE, 0.0, here_only=True, side=side) for side in (1.0, -1.0))
    assert wrap(left.heading) > 0.0 > wrap(right.heading)


def test_elsewhere_is_behind_a_way_over_what_is_known_to_be_free():
    search = room(1.5)
    views = next_view_module._views_elsewhere(search, Gains(search, []), Pose(-1.0, -1.0, 0.0), PACE, 0.0)
    view = max(views, key=lambda view: view.rate)
    assert view.corners and 0.0 < view.gain <= 1.0
    odds = search.free.odds(0.0)
    here = (-1.0, -1.0)
    for corner in view.corners:
        for share in np.linspace(0.0, 1.0, 50):
            x, y = (a + share * (b - a) for a, b in zip(here, corner, strict=True))
            assert odds[search.grid.cell(x, y)] >= PASSABLE
        here = corner
    assert view.seconds > math.dist((-1.0, -1.0), view.corners[-1]) / PACE.forward


def test_none_when_all_was_searched_and_none_of_a_way():
    search = room(1.0)
    assert next_view(search, HERE, PACE, 0.0) is not None
    time, pose = 0.0, HERE
    for _ in range(40):
        view = next_view(search, pose, PACE, 0.0)
        if view is None:
            break
        x, y = view.corners[-1] if view.corners else (pose.x, pose.y)
        pose, time = Pose(x, y, view.heading), time + 1.0
        search.target.add(pose, sighting("no").chances, None, time)
        search._changed()
    assert view is None, "it never ends"
    assert search.searched > 0.6
    search.add(Pose(0.0, 0.0, 1.0), surroundings("clear", "center"), sighting("left far"), time)
    search.free._grid.layers["floor"][...] = 1.0
    search._changed()
    assert next_view(search, pose, PACE, time) is not None, "news"


def test_equal_maps_give_equal_views():
    one, other = (looked(0.0, 1.0, -2.0) for _ in range(2))
    for here_only in (False, True):
        assert next_view(one, HERE, PACE, 3.0, [], here_only) == next_view(other, HERE, PACE, 3.0, [], here_only)
    before = {name: layer.copy() for name, layer in one.grid.layers.items() if layer.shape == one.grid.shape}
    next_view(one, HERE, PACE, 3.0)
    assert all(np.array_equal(layer, before[name]) for name, layer in one.grid.layers.items()), "it only plans"


@pytest.mark.parametrize("field_of_view", [0.1, 0.15, 0.19, 0.3, 1.3, 3.0])
@pytest.mark.parametrize("here_only", [False, True])
def test_any_camera_that_is_allowed_finds_a_view(field_of_view, here_only):
    search = search_map(field_of_view)
    for number in range(2):
        search.add(HERE, surroundings("clear", "center"), sighting("no"), float(number))
    view = next_view(search, HERE, PACE, 1.0, [Pose(0.0, 0.0, 3.0)], here_only)
    assert view is None or (0.0 < view.gain <= 1.0 and view.seconds > 0.0 and math.isfinite(view.heading))
    for place in (HERE, Pose(0.5, 0.1, 0.0)):
        for heading, gain in Gains(search, []).views(place.x, place.y):
            assert -math.pi <= heading <= math.pi and 0.0 <= gain <= 1.0


def test_nothing_is_divided_by_zero_on_an_empty_map_or_far_from_it():
    assert next_view(search_map(), HERE, PACE, 0.0) is None
    search = looked(0.0)
    far = Pose(1000.0, -1000.0, 50.0)
    view = next_view(search, far, PACE, 0.0)
    assert view is None or view.gain >= 0.0


def test_the_way_around_something_ends_nearer_to_the_goal_and_not_in_it():
    search = room(2.0)
    layer = search.grid.layers["free"]
    cells = search.grid.everything()
    thing = (np.abs(cells.x - 0.6) < 0.25) & (np.abs(cells.y) < 0.45)
    layer[thing] = -4.0
    view = way_around(search, HERE, (1.7, 0.0), PACE, 0.0)
    assert view is not None and view.corners and not view.is_way
    end = view.corners[-1]
    assert math.dist(end, (1.7, 0.0)) < 1.5
    assert search.free.odds(0.0)[search.grid.cell(*end)] >= PASSABLE
    assert abs(wrap(view.heading - math.atan2(-end[1], 1.7 - end[0]))) < 0.01, "it looks towards the goal"
