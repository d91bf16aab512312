"""Layers of cells that grow where the robot goes, and keep what they have."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_perception.navigation.grid import BLOCK, CELL, LARGEST, Grid

DIRECTIONS = [way for way in itertools.product((-1.0, 0.0, 1.0), repeat=2) if way != (0.0, 0.0)]
places = st.tuples(*[st.floats(-30.0, 30.0)] * 2)


def mark(grid: Grid, x: float, y: float, value: float) -> None:
    grid.layers["a"][grid.cell(x, y)] = value


@pytest.mark.parametrize("way", DIRECTIONS)
def test_it_grows_in_all_directions_and_keeps_values_and_places(way):
    grid = Grid(a=0.0, b=7.0)
    marks = {(0.05, 0.05): 1.0, (-0.05, -0.05): 2.0, (3.95, -3.95): 3.0, (-1.55, 2.05): 4.0}
    for place, value in marks.items():
        mark(grid, *place, value)
    before = grid.shape
    for far in (5.0, 12.0, 30.0):
        grid.window(far * way[0], far * way[1], 1.0)
        for place, value in marks.items():
            assert grid.layers["a"][grid.cell(*place)] == value
            assert grid.centre(grid.cell(*place)) == pytest.approx(place)
        assert grid.cell(far * way[0], far * way[1]) is not None
    grown = grid.shape
    assert all((after > old) == (step != 0.0) for after, old, step in zip(grown, before, way, strict=True))
    assert grid.layers["a"].sum() == sum(marks.values()) and np.all(grid.layers["b"] == 7.0)


@given(places, st.floats(0.0, 9.0))
def test_a_window_has_the_cells_around_a_place_and_says_where_they_are(place, radius):
    grid = Grid(a=0.0)
    window = grid.window(*place, radius)
    layer = grid.layers["a"][window.slices]
    assert layer.shape == (window.x.size, window.y.size)
    for axis, values in enumerate((window.x.ravel(), window.y.ravel())):
        assert abs(values[0] - (place[axis] - radius)) < CELL and abs(values[-1] - (place[axis] + radius)) < CELL
        assert np.allclose(np.diff(values), CELL, atol=1e-4)
    layer[0, 0] = 5.0
    corner = float(window.x[0, 0]), float(window.y[0, 0])
    assert grid.layers["a"][grid.cell(*corner)] == 5.0
    assert grid.centre(grid.cell(*corner)) == pytest.approx(corner, abs=1e-4)


@given(places)
def test_a_place_is_in_its_cell(place):
    grid = Grid(a=0.0)
    grid.window(*place, CELL)
    assert all(abs(a - b) <= CELL / 2 + 1e-9 for a, b in zip(grid.centre(grid.cell(*place)), place, strict=True))


def test_nothing_is_outside_of_the_grid():
    grid = Grid(a=0.0)
    assert grid.cell(-BLOCK * CELL - 0.01, 0.0) is None and grid.cell(0.0, BLOCK * CELL + 0.01) is None
    assert grid.cell(-BLOCK * CELL + 0.01, -BLOCK * CELL + 0.01) == (0, 0)


@pytest.mark.parametrize("way", DIRECTIONS)
def test_what_is_far_behind_is_forgotten_rather_than_to_grow_without_end(way):
    grid = Grid(a=0.0)
    mark(grid, 0.05, 0.05, 1.0)
    far = 0.0
    while far < 1.5 * LARGEST * CELL:
        x, y = far * way[0], far * way[1]
        window = grid.window(x, y, 8.0)
        assert window.x.shape[0] == grid.layers["a"][window.slices].shape[0], "the window is whole"
        mark(grid, x, y, 2.0)
        assert max(grid.shape) <= LARGEST
        before = (x - 4.0 * way[0], y - 4.0 * way[1])
        assert far < 4.0 or grid.layers["a"][grid.cell(*before)] == 2.0, "what is near is kept"
        far += 4.0
    assert grid.cell(0.05, 0.05) is None
    grid.window(0.05, 0.05, 1.0)
    assert grid.layers["a"][grid.cell(0.05, 0.05)] == 0.0


def test_forgetting_and_clearing():
    grid = Grid(a=0.0, b=1.0)
    grid.window(20.0, 0.0, 1.0)
    grid.layers["a"][...], grid.layers["b"][...] = 3.0, 3.0
    grid.clear("a")
    assert np.all(grid.layers["a"] == 0.0) and np.all(grid.layers["b"] == 3.0)
    grid.forget()
    assert grid.shape == Grid(a=0.0).shape and np.all(grid.layers["b"] == 1.0)
    everything = grid.everything()
    assert everything.x.size * everything.y.size == grid.layers["a"].size
