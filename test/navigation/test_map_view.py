"""What others get of the map: values, orientation, frames, and words."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vlm_perception.navigation.grid import CELL
from vlm_perception.navigation.map_view import (
    FULL,
    SHARP_DEVIATION,
    UNKNOWN,
    belief_grid,
    free_grid,
    remains,
    seen_area,
    target_pose,
)
from vlm_perception.navigation.motion import Pose, placed, seen_from
from vlm_perception.navigation.odometry import OdometryBuffer
from vlm_perception.navigation.search_map import SearchMap
from vlm_perception.navigation.sighting import Surroundings

FIELD = 1.31


def new_map() -> SearchMap:
    return SearchMap(FIELD, near_distance=0.85, clear_distance=1.5, width=0.5)


def believing(probabilities: dict[tuple[float, float], float]) -> SearchMap:
    """Return a map whose belief is these probabilities at these places [m]; all else is absence."""
    search = new_map()
    belief = np.zeros(search.grid.shape, np.float32)
    for place, probability in probabilities.items():
        belief[search.grid.cell(*place)] = probability
    search.grid.layers["floor"][...] = 1.0
    search.__dict__["belief"] = belief, 1.0 - sum(probabilities.values())
    return search


def value_at(grid, x, y):
    """Return the value of the cell at a place in the map's frame, by the rules of nav_msgs/OccupancyGrid."""
    there = seen_from(grid.corner, Pose(x, y))
    return int(grid.cells[math.floor(there.y / CELL), math.floor(there.x / CELL)])


def test_the_belief_is_shown_by_powers_of_ten_where_it_is():
    square = CELL**2
    places = {
        (1.05, 0.55): square,
        (0.55, 1.05): 0.1 * square,
        (-0.45, 0.05): 1e-3 * square,
        (0.05, 0.05): 1e-6 * square,
    }
    search = believing(places)
    search.grid.layers["floor"][search.grid.cell(2.05, 0.05)] = 0.0
    grid = belief_grid(search)
    assert grid.cells.dtype == np.int8 and grid.cells.shape == search.grid.shape[::-1]
    assert [value_at(grid, *place) for place in places] == [FULL, 75, 25, 0]
    assert value_at(grid, 2.05, 0.05) == UNKNOWN and value_at(grid, 1.55, 0.05) == 0


def test_free_is_0_blocked_is_100_and_never_seen_is_unknown():
    search = new_map()
    clear = Surroundings(0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0)
    search.add(Pose(0.0, 0.0, math.pi / 2), clear, None, 0.0)  # looking along y
    search.add(Pose(), Surroundings(0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0), None, 0.0)
    grid = free_grid(search, 0.0)
    assert value_at(grid, 0.0, 0.0) < 5 and value_at(grid, 0.0, 1.0) < 10 and value_at(grid, 1.0, 0.0) > 90
    assert value_at(grid, -1.0, 0.0) == UNKNOWN == value_at(grid, 3.0, 3.0)
    assert seen_area(search) == 0.0  # nobody looked for a target


def test_the_grid_of_a_map_that_has_grown_keeps_its_places():
    search = believing({(1.05, 0.55): CELL**2})
    search.grid.window(-6.0, 7.0, 1.0)
    search.__dict__["belief"] = np.zeros(search.grid.shape, np.float32), 0.5
    search.belief[0][search.grid.cell(1.05, 0.55)] = 0.5
    grid = belief_grid(search)
    assert value_at(grid, 1.05, 0.55) == FULL and (grid.cells == FULL).sum() == 1


def test_the_targets_pose_is_told_when_it_is_sharp_with_the_heading_from_the_robot():
    search = believing({(1.05, 1.05): 0.45, (1.25, 1.05): 0.45})
    target = target_pose(search, Pose(0.05, 0.05, 2.0))
    assert (target.pose.x, target.pose.y) == pytest.approx((1.15, 1.05))
    assert target.pose.heading == pytest.approx(math.atan2(1.0, 1.1))
    assert target.covariance[0, 0] == pytest.approx(0.1**2 + CELL**2 / 12, rel=1e-3)
    assert target.covariance[1, 1] == pytest.approx(CELL**2 / 12, rel=1e-3) and target.covariance[0, 2] == 0.0
    turned = target.placed_at(Pose(10.0, 0.0, math.pi / 2))
    assert (turned.pose.x, turned.pose.y) == pytest.approx((10.0 - 1.05, 1.15))
    assert turned.covariance[1, 1] == pytest.approx(target.covariance[0, 0])
    assert turned.covariance[2, 2] == target.covariance[2, 2] > 0.0
    assert target_pose(believing({(1.05, 1.05): 0.7}), Pose()) is None  # it may as well be nowhere
    far = 2.0 * SHARP_DEVIATION + 0.2
    assert target_pose(believing({(1.05, 0.05): 0.45, (1.05 + far, 0.05): 0.45}), Pose()) is None


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ((3.05, 0.05), "3.0 m ahead"),
        ((0.05, 3.05), "3.0 m to the left"),
        ((-1.95, -1.95), "2.8 m behind to the right"),
        ((-2.95, 0.05), "3.0 m behind"),
    ],
)
def test_what_remains_is_said_with_its_place_as_the_robot_sees_it(place, words):
    search = believing({place: 0.12})
    assert remains(search, Pose(0.05, 0.05)) == f"0.12 may be in what was not seen well, most of it {words}"
    assert remains(believing({place: 0.001}), Pose()) == ""


def test_the_maps_frame_is_known_in_that_of_odometry_whatever_happened_before():
    odometry, before = OdometryBuffer(), Pose(5.0, -2.0, 3.0)
    assert odometry.origin is None
    for step in range(1, 30):  # the robot drives a curve; odometry began elsewhere
        before = placed(before, Pose(0.02, 0.0, 0.05))
        odometry.add_odometry(0.05 * step, before)
        if step > 1:
            there = placed(odometry.origin, odometry.pose)
            assert (there.x, there.y) == pytest.approx((before.x, before.y))
            assert math.remainder(there.heading - before.heading, math.tau) == pytest.approx(0.0, abs=1e-9)
