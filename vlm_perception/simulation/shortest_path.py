"""Shortest path of a robot that knows the room, to which SPL compares a search."""

from __future__ import annotations

import heapq
import math

from vlm_perception.simulation.room import ROBOT_RADIUS, Room, Thing

CELL = 0.05  # [m]
# In 32 directions: a path is at most 1.3 % longer than one that may turn anywhere.
MOVES = tuple((i, j, CELL * math.hypot(i, j)) for i in range(-3, 4) for j in range(-3, 4) if math.gcd(i, j) == 1)


def shortest_path(room: Room, goal: Thing, within: float) -> float:
    """Return the length [m] of the shortest path from the start of `room` to a distance of `within` [m] from `goal`.

    On the path the robot touches nothing. Turning in place costs nothing. The length is infinite if there is no path.
    It is found by A* (Hart, Nilsson and Raphael 1968) on a grid around the start.
    """

    def place(cell: tuple[int, int]) -> tuple[float, float]:
        return room.start.x + CELL * cell[0], room.start.y + CELL * cell[1]

    def left(cell: tuple[int, int]) -> float:
        return max(0.0, goal.distance_to(*place(cell)) - within)

    start = (0, 0)
    driven = {start: 0.0}
    is_free = {start: True}
    open_cells = [(left(start), start)]
    done = set()
    while open_cells:
        _, cell = heapq.heappop(open_cells)
        if cell in done:
            continue
        done.add(cell)
        if left(cell) == 0.0:
            return driven[cell]
        for i, j, length in MOVES:
            other = (cell[0] + i, cell[1] + j)
            if other not in is_free:
                is_free[other] = room.clearance(*place(other)) >= ROBOT_RADIUS
            if is_free[other] and driven[cell] + length < driven.get(other, math.inf):
                driven[other] = driven[cell] + length
                heapq.heappush(open_cells, (driven[other] + left(other), other))
    return math.inf
