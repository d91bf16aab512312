"""Where the robot can drive, by what images showed: lengths, walls, fading, and ways that never leave what is known."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_world import surroundings

from vlm_perception.navigation import free_map
from vlm_perception.navigation.free_map import KNOWN, PASSABLE, FreeMap
from vlm_perception.navigation.grid import CELL, Grid
from vlm_perception.navigation.motion import Pose
from vlm_perception.navigation.sighting import Surroundings

CLEAR_DISTANCE, WIDTH = 1.5, 0.45
REACH = CLEAR_DISTANCE - WIDTH / 2
HERE = Pose()


def new_map() -> FreeMap:
    return FreeMap(Grid(**FreeMap.FILLS), CLEAR_DISTANCE, WIDTH)


def looked(*images: tuple[Pose, Surroundings], time: float = 0.0) -> FreeMap:
    free = new_map()
    for pose, seen in images:
        free.add(pose, seen, time)
    return free


def odds(free: FreeMap, x: float, y: float, now: float = 0.0) -> float:
    cell = free._grid.cell(x, y)
    return float(free.odds(now)[cell]) if cell else 0.0


CLEAR, WALL, OBSTACLE = (
    surroundings(*words, sure=0.98) for words in (("clear", "center"), ("wall", "none"), ("obstacle", "none"))
)


def test_a_clear_way_is_known_as_far_as_clear_means_less_the_robot_itself():
    free = looked((HERE, CLEAR), (HERE, CLEAR))
    assert free.ahead(HERE, 0.0) == pytest.approx(REACH, abs=1.5 * CELL) and free.ahead(HERE, 0.0) <= REACH + CELL
    assert odds(free, REACH - CELL, 0.01) >= KNOWN and odds(free, REACH + 2 * CELL, 0.01) == 0.0
    for direction in (1.0, -1.0, math.pi):
        assert free.ahead(HERE, 0.0, direction) <= 2 * CELL, "nobody looked there"


def test_what_is_ahead_ends_what_is_known():
    wall, obstacle, clear = (looked((HERE, seen)) for seen in (WALL, OBSTACLE, CLEAR))
    ahead = [free.ahead(HERE, 0.0) for free in (wall, obstacle)]
    assert max(ahead) < 0.5 * clear.ahead(HERE, 0.0) and new_map().ahead(HERE, 0.0) <= CELL
    near = free_map.OBSTACLE_SHARE * CLEAR_DISTANCE - WIDTH / 2 + CELL
    assert odds(obstacle, near, 0.01) < 0.0
    assert odds(wall, 0.9 * REACH, 0.01) < -PASSABLE and odds(obstacle, 0.9 * REACH, 0.01) < -PASSABLE


@pytest.mark.parametrize("moved", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seen", [OBSTACLE, WALL])
def test_one_image_is_enough_to_doubt_what_many_said_from_the_same_place_too(seen, moved):
    free = looked(*[(HERE, CLEAR)] * 20)
    assert odds(free, 1.05, 0.01) == pytest.approx(free_map.MOST)
    there = Pose(moved)
    free.add(there, seen, 0.0)
    ahead = free_map.WALL_SHARE if seen is WALL else free_map.OBSTACLE_SHARE
    assert free.ahead(there, 0.0) <= ahead * CLEAR_DISTANCE - WIDTH / 2 + CELL
    assert odds(free, -3.0, 0.01) == 0.0


def test_the_same_view_twice_is_not_two_proofs_of_a_free_way():
    unsure = surroundings("clear", "center", sure=0.75)
    single, same = looked((HERE, unsure)), looked((HERE, unsure), (HERE, unsure))
    other = looked((HERE, unsure), (Pose(0.4), unsure))
    at = REACH - CELL, 0.01
    assert 0.0 < odds(single, *at) <= odds(same, *at) < odds(other, *at)


def test_the_robot_can_be_where_it_is():
    for pose in (HERE, Pose(-3.7, -12.3, 2.0)):
        free = looked((pose, OBSTACLE))
        assert odds(free, pose.x, pose.y) == free_map.MOST


def test_a_way_to_the_side_that_is_said_to_be_clear_is_known_there():
    for way, sign in (("left", 1.0), ("right", -1.0)):
        free = looked((HERE, surroundings("clear", way, sure=0.99)))
        aside = sign * free_map.ASIDE
        assert odds(free, 0.6 * math.cos(aside), 0.6 * math.sin(aside)) > PASSABLE
        assert odds(free, 0.6 * math.cos(aside), -0.6 * math.sin(aside)) == 0.0


@pytest.mark.parametrize("start", [0.0, 1.764e9, 1.764e9 + 64.0, 1.764e9 + 100.3])
def test_old_knowledge_fades_until_it_is_not_driven_on_any_more_whatever_time_it_is(start):
    free = looked((HERE, CLEAR), (HERE, CLEAR), time=start)
    ages = np.arange(0.0, 300.0, 1.0)
    known = [free.ahead(HERE, start + age) > 0.5 for age in ages]
    assert known[0] and not known[-1] and known == sorted(known, reverse=True)
    lasts = free_map.FADING * math.log(free_map.MOST / KNOWN)
    assert sum(known) <= lasts + 2.0 and sum(known) > 5.0
    assert max(free.ahead(HERE, start + lasts + 10.0, turn) for turn in np.linspace(-3.1, 3.1, 30)) <= 2 * CELL


def test_nothing_is_more_certain_later_or_when_the_clock_goes_back():
    free = looked((HERE, CLEAR), (Pose(0.0, 0.0, 2.0), OBSTACLE), time=10.0)
    before = np.abs(free.odds(10.0))
    assert np.all(np.abs(free.odds(50.0)) <= before) and np.array_equal(np.abs(free.odds(5.0)), before)


def test_floor_goes_on_around_what_is_free_and_behind_passages_but_not_behind_walls():
    def floor(free: FreeMap, x: float, y: float) -> float:
        return float(free.floor()[free._grid.cell(x, y)])

    clear, wall = looked((HERE, CLEAR)), looked((HERE, WALL), (HERE, WALL))
    door, same = (looked((HERE, surroundings(label, "none"))) for label in ("doorway", "clear"))
    assert floor(clear, 1.0, 0.0) > 0.95 and floor(clear, 5.0, 5.0) < floor(clear, 3.0, 0.0)
    assert floor(door, 4.05, 0.05) > 1.5 * floor(same, 4.05, 0.05)
    assert floor(wall, 2.55, 0.05) < 0.3 * floor(clear, 2.55, 0.05)
    assert floor(wall, -1.0, 0.05) == pytest.approx(floor(clear, -1.0, 0.05), rel=0.5)


# Ways

labels = st.sampled_from(["clear", "clear", "clear", "obstacle", "wall", "doorway"])
ways = st.sampled_from(["center", "center", "left", "right", "none"])
poses = st.builds(Pose, st.floats(-2.0, 2.0), st.floats(-2.0, 2.0), st.floats(-10.0, 10.0))
images = st.lists(
    st.tuples(poses, st.builds(surroundings, labels, ways, sure=st.floats(0.4, 1.0)), st.floats(0.0, 20.0)),
    min_size=1,
    max_size=15,
)
seeds = st.integers(0, 10**6)


def map_of(happened: list) -> tuple[FreeMap, float]:
    free, time = new_map(), 0.0
    for pose, seen, passed in happened:
        time += passed
        free.add(pose, seen, time)
    return free, time


def speckled(seed: int) -> FreeMap:
    """A map with free and blocked cells by lot, in lumps."""
    draw = np.random.default_rng(seed)
    free = new_map()
    layer = free._grid.layers["free"]
    lumps = np.kron(draw.random((layer.shape[0] // 2, layer.shape[1] // 2)) > draw.uniform(0.1, 0.5), np.ones((2, 2)))
    layer[...] = np.where((lumps > 0) & (draw.random(layer.shape) > draw.uniform(0.0, 0.3)), 3.0, -1.0)
    return free


def cells_on(start: tuple[float, float], end: tuple[float, float]) -> set[tuple[float, float]]:
    """Points so dense that no cell on the line is missed, but for one that it hardly touches."""
    number = 2 + math.ceil(math.hypot(end[0] - start[0], end[1] - start[1]) / (CELL / 50))
    return set(zip(np.linspace(start[0], end[0], number), np.linspace(start[1], end[1], number), strict=True))


@settings(max_examples=100, deadline=None)
@given(images, poses, st.floats(0.0, 60.0), st.floats(-3.0, 3.0))
def test_ahead_never_goes_beyond_a_blocked_or_unknown_cell(happened, pose, later, direction):
    free, time = map_of(happened)
    pose = Pose(happened[-1][0].x, happened[-1][0].y, pose.heading) if later < 30.0 else pose
    now = time + later
    far = free.ahead(pose, now, direction)
    assert 0.0 <= far <= CLEAR_DISTANCE + 2 * CELL
    for distance in np.arange(2 * CELL, far - CELL / 2, CELL / 4):
        assert odds(free, *pose.ahead(distance, direction), now) >= KNOWN - 1e-3


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(-3.0, 3.0), st.floats(-3.0, 3.0))
def test_planned_ways_never_leave_what_is_passable_corners_included(seed, x, y):
    free = speckled(seed)
    start = free._grid.cell(x, y)
    passable = free.odds(0.0) >= PASSABLE
    routes = free.routes(Pose(x, y), 0.0)
    draw = np.random.default_rng(seed)
    ends = list(routes.distance)
    for cell in [ends[i] for i in draw.integers(len(ends), size=min(5, len(ends)))]:
        way = routes.to(cell)
        assert way[0] == start and way[-1] == cell
        assert all(passable[step] for step in way[1:])
        for (a, b), (c, d) in itertools.pairwise(way):
            assert max(abs(a - c), abs(b - d)) == 1
            assert way[0] == (a, b) or (passable[a, d] and passable[c, b]), "it cuts a corner"
        lengths = [math.dist(a, b) * CELL for a, b in itertools.pairwise(way)]
        assert routes.distance[cell] == pytest.approx(sum(lengths))
        here = free._grid.centre(start)
        corners = [free._grid.centre(corner) for corner in routes.corners(cell)]
        assert not corners or corners[-1] == free._grid.centre(cell)
        for corner in corners:
            outside = [p for p in cells_on(here, corner) if not passable[free._grid.cell(*p)]]
            outside = [p for p in outside if free._grid.cell(*p) != start]
            # A line may cut a corner of a cell, by a quarter of its width.
            depth = max((min(abs(v / CELL - round(v / CELL)) for v in p) for p in outside), default=0.0)
            assert depth <= 0.25 + 1e-6, (here, corner)
            here = corner


def test_ways_are_the_shortest_and_lead_around_what_is_blocked():
    free = new_map()
    layer = free._grid.layers["free"]
    layer[...] = 4.0
    wall = free._grid.cell(1.05, -2.0)[0]
    layer[wall, : free._grid.cell(0.0, 2.05)[1]] = -4.0  # from far right to y = 2
    routes = free.routes(Pose(0.05, 0.05), 0.0)
    goal = free._grid.cell(2.05, 0.05)
    around = 2 * math.hypot(1.0, 2.0)
    assert around <= routes.distance[goal] <= 1.15 * around
    corners = [free._grid.centre(corner) for corner in routes.corners(goal)]
    assert corners[-1] == pytest.approx((2.05, 0.05)) and 2 <= len(corners) <= 5
    layer[wall, :] = -4.0
    assert goal not in free.routes(Pose(0.05, 0.05), 0.0).distance
    assert free.routes(Pose(1000.0, 0.0), 0.0).distance == {}


def test_old_knowledge_is_not_planned_through():
    free = looked(*[(Pose(0.5 * k, 0.0, 0.0), CLEAR) for k in range(6)])
    goal = free._grid.cell(2.55, 0.01)
    assert goal in free.routes(HERE, 0.0).distance
    lasts = free_map.FADING * math.log(free_map.MOST / PASSABLE)
    assert goal not in free.routes(HERE, lasts + 1.0).distance
