"""Floor plans: rectangles of floor, connected by doorways, and the walls around them, in [m]: x forward, y left."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

WALL_THICKNESS = 0.1
DOOR_WIDTHS = (1.0, 1.3)
DOOR_TO_CORNER = 0.45

CHAMBERS = (3, 5)
CHAMBERS_AREA = (40.0, 80.0)  # [m^2]
CHAMBER_AREA = 13.5  # [m^2], at least on average, walls included, so that there is a place for things
AREA_OF_WALLS = 3.0  # [m^2], at most
SHORTEST_SIDE = 2.8
MORE_DOORWAYS = 0.3  # how probable a doorway is in a wall where the chambers are connected without it

Segment = tuple[float, float, float, float]


@dataclass(frozen=True)
class Rectangle:
    """A part of the floor, with sides along x and y."""

    x0: float
    x1: float
    y0: float
    y1: float

    @property
    def area(self) -> float:
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    @property
    def middle(self) -> tuple[float, float]:
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    def overlaps(self, other: Rectangle) -> bool:
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1

    def holds(self, x: float, y: float) -> bool:
        return self.x0 <= x <= self.x1 and self.y0 <= y <= self.y1


@dataclass(frozen=True)
class Opening:
    """A doorway from one side: the middle of the hole in the wall, and the heading of a robot that drives in [rad]."""

    x: float
    y: float
    heading: float


@dataclass(frozen=True)
class Doorway:
    """An opening in a wall that leads along x or y.

    (x, y) is the middle of the opening on the first face of the wall; the second is `WALL_THICKNESS` further.
    """

    x: float
    y: float
    width: float
    along: str  # "x" or "y"

    @property
    def floor(self) -> Rectangle:
        half = self.width / 2
        if self.along == "x":
            return Rectangle(self.x, self.x + WALL_THICKNESS, self.y - half, self.y + half)
        return Rectangle(self.x - half, self.x + half, self.y, self.y + WALL_THICKNESS)

    def seen_from(self, x: float, y: float) -> Opening:
        """Return the opening on the side where (x, y) is."""
        half = WALL_THICKNESS / 2
        if self.along == "x":
            return Opening(self.x, self.y, 0.0) if x < self.x + half else Opening(self.floor.x1, self.y, math.pi)
        if y < self.y + half:
            return Opening(self.x, self.y, math.pi / 2)
        return Opening(self.x, self.floor.y1, -math.pi / 2)


@dataclass(frozen=True)
class Slab:
    """A piece of wall from the floor to the ceiling, without its doorways. `paint` is the name of its colours."""

    floor: Rectangle
    paint: str


@dataclass(frozen=True)
class FloorPlan:
    """The floor and the slabs around it. The floor of a doorway joins the chambers that it connects."""

    chambers: tuple[Rectangle, ...]
    corridors: tuple[Rectangle, ...]
    doorways: tuple[Doorway, ...]
    slabs: tuple[Slab, ...]

    def __str__(self) -> str:
        chambers = f" in {len(self.chambers)} chambers" if len(self.chambers) > 1 else ""
        return f"{self.area:.0f} m2{chambers}"

    @cached_property
    def bounds(self) -> Rectangle:
        """The smallest rectangle around the floor."""
        x0, x1, y0, y1 = zip(*((r.x0, r.x1, r.y0, r.y1) for r in self.chambers + self.corridors), strict=True)
        return Rectangle(min(x0), max(x1), min(y0), max(y1))

    @cached_property
    def walls(self) -> tuple[Segment, ...]:
        """The faces of the walls towards the floor as segments (x0, y0, x1, y1)."""
        floor = [*self.chambers, *self.corridors, *(doorway.floor for doorway in self.doorways)]
        faces: list[Segment] = []
        for here in floor:
            for x, beyond in (
                (here.x0, [r for r in floor if r.x1 == here.x0]),
                (here.x1, [r for r in floor if r.x0 == here.x1]),
            ):
                closed = without((here.y0, here.y1), [(r.y0, r.y1) for r in beyond])
                faces += [(x, low, x, high) for low, high in closed]
            for y, beyond in (
                (here.y0, [r for r in floor if r.y1 == here.y0]),
                (here.y1, [r for r in floor if r.y0 == here.y1]),
            ):
                closed = without((here.x0, here.x1), [(r.x0, r.x1) for r in beyond])
                faces += [(low, y, high, y) for low, high in closed]
        return tuple(faces)

    @property
    def area(self) -> float:
        """The floor of all chambers [m^2]."""
        return sum(chamber.area for chamber in self.chambers)

    def openings_of(self, chamber: Rectangle) -> list[Opening]:
        """Return the doorways of a chamber, as seen from there."""
        x, y = chamber.middle
        openings = [doorway.seen_from(x, y) for doorway in self.doorways]
        return [opening for opening in openings if chamber.holds(opening.x, opening.y)]

    def in_chamber(self, x: float, y: float) -> bool:
        return any(chamber.holds(x, y) for chamber in self.chambers)

    def in_passage(self, x: float, y: float) -> bool:
        """Return whether (x, y) is in a corridor or a doorway."""
        return any(r.holds(x, y) for r in (*self.corridors, *(doorway.floor for doorway in self.doorways)))


def without(whole: tuple[float, float], openings: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the parts of the interval `whole` outside of all `openings`, from low to high."""
    low, end = whole
    closed = []
    for start, stop in sorted(openings):
        if stop <= low or start >= end:
            continue
        if start > low:
            closed.append((low, start))
        low = max(low, stop)
    if low < end:
        closed.append((low, end))
    return closed


def room_with_corridor(
    length: float, width: float, door_y: float, door_width: float, corridor_length: float, corridor_width: float
) -> FloorPlan:
    """Return the plan of one room around the origin, and behind the doorway in its wall at +x a straight corridor."""
    hx, hy, t = length / 2, width / 2, WALL_THICKNESS
    doorway = Doorway(hx, door_y, door_width, "x")
    near, far = hx + t, hx + t + corridor_length
    left, right = door_y + corridor_width / 2, door_y - corridor_width / 2
    return FloorPlan(
        chambers=(Rectangle(-hx, hx, -hy, hy),),
        corridors=(Rectangle(near, far, right, left),),
        doorways=(doorway,),
        slabs=(
            Slab(Rectangle(-hx - t, -hx, -hy - t, hy + t), "wall"),
            Slab(Rectangle(-hx, hx, hy, hy + t), "wall"),
            Slab(Rectangle(-hx, hx, -hy - t, -hy), "wall"),
            Slab(Rectangle(hx, near, min(-hy, right) - t, max(hy, left) + t), "wall"),
            Slab(Rectangle(near, far, left, left + t), "corridor"),
            Slab(Rectangle(near, far, right - t, right), "corridor"),
            Slab(Rectangle(far, far + t, right - t, left + t), "corridor"),
        ),
    )


def draw_chambers(rng: np.random.Generator) -> FloorPlan:
    """Draw a rectangle around the origin that walls divide into chambers, all connected by doorways."""
    count = int(rng.integers(CHAMBERS[0], CHAMBERS[1] + 1))
    area = float(rng.uniform(max(CHAMBERS_AREA[0] + AREA_OF_WALLS, count * CHAMBER_AREA), CHAMBERS_AREA[1]))
    while True:  # the lot may give a chamber that is too narrow, or none that has a wall for a doorway
        stretch = float(rng.uniform(1.0, 2.0))
        length, width = math.sqrt(area * stretch), math.sqrt(area / stretch)
        chambers = [Rectangle(-length / 2, length / 2, -width / 2, width / 2)]
        while len(chambers) < count:
            largest = max(chambers, key=lambda chamber: chamber.area)
            chambers.remove(largest)
            chambers += _split(largest, float(rng.uniform(0.35, 0.65)))
        doorways = _draw_doorways(chambers, rng)
        roomy = min(side for c in chambers for side in (c.x1 - c.x0, c.y1 - c.y0)) >= SHORTEST_SIDE
        if roomy and doorways:
            return connected_chambers(chambers, doorways)


def connected_chambers(chambers: Sequence[Rectangle], doorways: Sequence[Doorway]) -> FloorPlan:
    """Return the plan of chambers with walls between them that are `WALL_THICKNESS` thick."""
    slabs = (slab for number, chamber in enumerate(chambers) for slab in _lining(chamber, f"wall_{number}"))
    return FloorPlan(tuple(chambers), (), tuple(doorways), tuple(slabs))


def _split(whole: Rectangle, share: float) -> tuple[Rectangle, Rectangle]:
    """Divide a chamber by a wall across its longer side, so that the first part gets this share of it."""
    if whole.x1 - whole.x0 > whole.y1 - whole.y0:
        x = whole.x0 + share * (whole.x1 - whole.x0)
        return Rectangle(whole.x0, x, whole.y0, whole.y1), Rectangle(x + WALL_THICKNESS, whole.x1, whole.y0, whole.y1)
    y = whole.y0 + share * (whole.y1 - whole.y0)
    return Rectangle(whole.x0, whole.x1, whole.y0, y), Rectangle(whole.x0, whole.x1, y + WALL_THICKNESS, whole.y1)


def _draw_doorways(chambers: Sequence[Rectangle], rng: np.random.Generator) -> list[Doorway]:
    """Draw doorways that connect all chambers, and some more; return none if that is not possible."""
    group = list(range(len(chambers)))  # of chambers that are connected
    doorways = []
    walls = list(_walls_between(chambers))
    for index in rng.permutation(len(walls)):
        a, b, along, face, low, high = walls[index]
        width = float(rng.uniform(*DOOR_WIDTHS))
        margin = width / 2 + DOOR_TO_CORNER
        if high - low < 2 * margin or (group[a] == group[b] and rng.random() >= MORE_DOORWAYS):
            continue
        middle = float(rng.uniform(low + margin, high - margin))
        x, y = (face, middle) if along == "x" else (middle, face)
        doorways.append(Doorway(x, y, width, along))
        group = [group[a] if g == group[b] else g for g in group]
    return doorways if len(set(group)) == 1 else []


def _walls_between(chambers: Sequence[Rectangle]) -> Iterator[tuple[int, int, str, float, float, float]]:
    """Yield two chambers, the axis that leads from one to the other, the wall's first face, and its two ends."""
    for a, first in enumerate(chambers):
        for b, second in enumerate(chambers):
            if second.x0 == first.x1 + WALL_THICKNESS:
                yield a, b, "x", first.x1, max(first.y0, second.y0), min(first.y1, second.y1)
            if second.y0 == first.y1 + WALL_THICKNESS:
                yield a, b, "y", first.y1, max(first.x0, second.x0), min(first.x1, second.x1)


def _lining(chamber: Rectangle, paint: str) -> Iterator[Slab]:
    """Yield the four walls of a chamber, as thick as its half of a wall that it shares with its neighbour."""
    x0, x1, y0, y1, half = chamber.x0, chamber.x1, chamber.y0, chamber.y1, WALL_THICKNESS / 2
    yield Slab(Rectangle(x0 - half, x0, y0 - half, y1 + half), paint)
    yield Slab(Rectangle(x1, x1 + half, y0 - half, y1 + half), paint)
    yield Slab(Rectangle(x0, x1, y1, y1 + half), paint)
    yield Slab(Rectangle(x0, x1, y0 - half, y0), paint)
