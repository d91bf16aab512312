"""Layers of square cells over the floor that grow where the robot goes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

CELL = 0.1
"""Width of a cell [m]."""
BLOCK = 40
"""The grid grows by so many cells."""
LARGEST = 800
"""The grid has at most so many cells a side: beyond, what is farthest from the robot is forgotten."""


class Window(NamedTuple):
    """A part of a grid: its `slices`, and the centres of its cells, `x` (rows, 1) and `y` (1, columns) [m]."""

    slices: tuple[slice, slice]
    x: np.ndarray
    y: np.ndarray


class Grid:
    """Named layers, float32 (along x, along y), in a frame that stays where it is. A new cell has its layer's fill."""

    def __init__(self, **fills: float) -> None:
        self._fills = fills
        self.forget()

    def forget(self) -> None:
        """Begin anew, around the origin."""
        self.first = np.array([-BLOCK, -BLOCK])
        """Index of the cell in the corner: it begins at so many cells from the origin along x and y."""
        self.layers = {name: np.full((2 * BLOCK, 2 * BLOCK), fill, np.float32) for name, fill in self._fills.items()}

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells along x and along y."""
        rows, columns = next(iter(self.layers.values())).shape
        return rows, columns

    def clear(self, *names: str) -> None:
        """Give some layers their fill again."""
        for name in names:
            self.layers[name][...] = self._fills[name]

    def window(self, x: float, y: float, radius: float) -> Window:
        """Return the square of the cells within `radius` [m] of a place along each axis; the grid grows to hold it."""
        low = np.floor((np.array([x, y]) - radius) / CELL).astype(int)
        high = np.floor((np.array([x, y]) + radius) / CELL).astype(int) + 1
        self._hold(low, high)
        a, b = low - self.first, high - self.first
        return self._window((slice(a[0], b[0]), slice(a[1], b[1])))

    def everything(self) -> Window:
        """Return the window of all cells."""
        rows, columns = self.shape
        return self._window((slice(0, rows), slice(0, columns)))

    def cell(self, x: float, y: float) -> tuple[int, int] | None:
        """Return the indices of the cell at a place, or None outside of the grid."""
        i, j = math.floor(x / CELL) - int(self.first[0]), math.floor(y / CELL) - int(self.first[1])
        rows, columns = self.shape
        return (i, j) if 0 <= i < rows and 0 <= j < columns else None

    def centre(self, cell: tuple[int, int]) -> tuple[float, float]:
        """Return the middle [m] of a cell."""
        return (cell[0] + int(self.first[0]) + 0.5) * CELL, (cell[1] + int(self.first[1]) + 0.5) * CELL

    def _window(self, slices: tuple[slice, slice]) -> Window:
        x, y = (
            (np.arange(part.start, part.stop, dtype=np.float32) + (first + 0.5)) * np.float32(CELL)
            for part, first in zip(slices, self.first, strict=True)
        )
        return Window(slices, x[:, None].astype(np.float32), y[None, :].astype(np.float32))

    def _hold(self, low: np.ndarray, high: np.ndarray) -> None:
        """Grow to hold the cells from `low` on up to before `high`."""
        last = self.first + self.shape
        if np.all(low >= self.first) and np.all(high <= last):
            return
        first = np.minimum(self.first, np.floor(low / BLOCK).astype(int) * BLOCK)
        last = np.maximum(last, np.ceil(high / BLOCK).astype(int) * BLOCK)
        # Too large: keep what is around the wanted cells.
        first = np.maximum(first, high - LARGEST)
        last = np.minimum(last, first + LARGEST)
        old_first = np.maximum(self.first, first)
        old_last = np.minimum(self.first + self.shape, last)
        for name, layer in self.layers.items():
            grown = np.full(last - first, self._fills[name], np.float32)
            if np.all(old_first < old_last):
                to, source = (
                    tuple(slice(a, b) for a, b in zip(old_first - origin, old_last - origin, strict=True))
                    for origin in (first, self.first)
                )
                grown[to] = layer[source]
            self.layers[name] = grown
        self.first = first
