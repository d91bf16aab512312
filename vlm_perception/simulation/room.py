"""A random room by seed, with its objects, as plain geometry in [m] and [rad]: x forward, y left, z up.

Two kinds of rooms, each colour and shape together at most once in a room:

- **room**: a rectangle of 25 to 64 m2 around the origin. The wall at +x has a doorway, behind which a straight corridor
  ends at a wall. Five to nine objects stand in the room.
- **chambers**: three to five chambers of 40 to 80 m2 in all, connected by doorways, with two to four objects in each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlm_perception.simulation.floor_plan import (
    DOOR_WIDTHS,
    Doorway,
    FloorPlan,
    Rectangle,
    Segment,
    draw_chambers,
    room_with_corridor,
)

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.08, 0.08),
    "yellow": (0.90, 0.80, 0.08),
    "green": (0.10, 0.62, 0.14),
    "cyan": (0.10, 0.75, 0.78),
    "blue": (0.10, 0.18, 0.85),
    "purple": (0.55, 0.12, 0.70),
}
SHAPES = ("ball", "box", "cylinder")
NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)

GENERATIONS = {"room": 3, "chambers": 1001}
"""Number that the rooms of each kind depend on. Another number changes every room of a kind, so none may be used twice.
With 3, the blue box of the README is in room 7."""
KINDS = tuple(GENERATIONS)
ROBOT_RADIUS = 0.17
WALL_HEIGHT = 2.4
DOOR_HEIGHT = 2.0
GAP_BETWEEN_OBJECTS = 0.9
GAP_TO_WALL = 0.5
GAP_TO_DOORWAY = 1.2
START_CLEARANCE = 0.6
PATTERNS = ("flat", "gradient", "checker")
MOST_THINGS = len(NAMES) - 2  # some names must remain for searches of absent targets


@dataclass(frozen=True)
class RobotPose:
    """The robot's centre on the floor [m], and its heading [rad], positive to the left."""

    x: float
    y: float
    yaw: float


@dataclass(frozen=True)
class Thing:
    """A coloured object on the floor. `radius` is a box's half edge; boxes and balls are as high as wide."""

    colour: str
    shape: str
    x: float
    y: float
    yaw: float
    radius: float
    height: float
    rgb: tuple[float, float, float]

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def outer_radius(self) -> float:
        return self.radius * (math.sqrt(2) if self.shape == "box" else 1.0)

    def distance_to(self, x: float, y: float) -> float:
        """Return the distance on the floor [m] from (x, y) to the nearest point of the object's outline."""
        dx, dy = x - self.x, y - self.y
        if self.shape != "box":
            return max(0.0, math.hypot(dx, dy) - self.radius)
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        along, across = abs(c * dx + s * dy) - self.radius, abs(-s * dx + c * dy) - self.radius
        return math.hypot(max(0.0, along), max(0.0, across))


@dataclass(frozen=True)
class Lamp:
    """A lamp below the ceiling, which shines through walls. `colour` and `highlight` are from 0 to 1.

    At a distance of `reach` [m] it is half as bright as nearby.
    """

    x: float
    y: float
    colour: tuple[float, float, float]
    highlight: float = 0.0
    reach: float = math.inf


@dataclass(frozen=True)
class Room:
    """Everything that a seed determines. Only the renderer needs `looks`, colours by name, and the lamps."""

    seed: int
    kind: str
    plan: FloorPlan
    things: tuple[Thing, ...]
    start: RobotPose
    looks: dict[str, tuple[float, ...]]
    lamps: tuple[Lamp, ...]

    @property
    def walls(self) -> tuple[Segment, ...]:
        """The faces of all walls towards the floor as segments (x0, y0, x1, y1)."""
        return self.plan.walls

    def clearance(self, x: float, y: float) -> float:
        """Return the distance [m] from (x, y) to the nearest wall or object."""
        nearest = min((thing.distance_to(x, y) for thing in self.things), default=math.inf)
        for x0, y0, x1, y1 in self.walls:
            dx, dy = x1 - x0, y1 - y0
            t = min(1.0, max(0.0, ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy)))
            nearest = min(nearest, math.hypot(x - x0 - t * dx, y - y0 - t * dy))
        return nearest

    def thing(self, name: str) -> Thing | None:
        return next((thing for thing in self.things if thing.name == name), None)


def make_room(seed: int, kind: str = "room") -> Room:
    """Return the room of `seed` and `kind`, one of `KINDS`; the same ones always give the same room."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}, expected 0 to {2**32 - 1}")
    if kind not in KINDS:
        raise ValueError(f"the kind of room is {kind!r}, expected one of {', '.join(KINDS)}")
    draw = {"room": _draw_room, "chambers": _draw_chambers}[kind]
    rng = np.random.default_rng((GENERATIONS[kind], seed))
    while True:  # a small room sometimes has no place for its objects: draw another
        room = draw(rng, seed)
        if room is not None:
            return room


def _draw_room(rng: np.random.Generator, seed: int) -> Room | None:
    def uniform(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    length, width = uniform(5.0, 8.0), uniform(5.0, 8.0)
    door_width = uniform(*DOOR_WIDTHS)
    corridor_width = uniform(1.5, 2.0)
    hx, hy = length / 2, width / 2
    door_y = uniform(-hy + 1.1, hy - 1.1)
    chamber, doorway = Rectangle(-hx, hx, -hy, hy), Doorway(hx, door_y, door_width, "x")
    count = int(rng.integers(5, 10))
    things = _draw_things(rng, chamber, (doorway,), [NAMES[index] for index in rng.permutation(len(NAMES))[:count]])
    if len(things) < 5:
        return None
    looks = {
        "floor": _pale(rng, 0.25, 0.75),
        "floor_2": _pale(rng, 0.25, 0.75),
        "floor_scale": (uniform(0.5, 2.0),),
        **_draw_paint(rng, "wall"),
        "frame": _draw_frame(rng),
        "corridor": _pale(rng, 0.35, 0.9),
        "ceiling": _pale(rng, 0.7, 0.95),
    }
    ambient = uniform(0.35, 0.5)
    lamp = uniform(-hx, hx) * 0.6, uniform(-hy, hy) * 0.6, uniform(0.3, 0.55)
    lamp_2 = uniform(-hx, hx) * 0.9, uniform(-hy, hy) * 0.9, uniform(0.0, 0.3)
    warmth = uniform(-0.05, 0.05)
    plan = room_with_corridor(length, width, door_y, door_width, uniform(4.0, 6.0), corridor_width)
    (corridor,) = plan.corridors
    lamps = (
        Lamp(*lamp[:2], _warm(lamp[2], warmth), highlight=0.2),
        Lamp(*lamp_2[:2], _warm(lamp_2[2], warmth)),
        Lamp((corridor.x0 + corridor.x1) / 2, door_y, (0.3, 0.3, 0.3)),
    )
    looks["ambient"] = _warm(ambient, warmth)
    return _with_start(rng, Room(seed, "room", plan, things, RobotPose(0, 0, 0), looks, lamps), chamber)


def _draw_chambers(rng: np.random.Generator, seed: int) -> Room | None:
    plan = draw_chambers(rng)
    names = [NAMES[index] for index in rng.permutation(len(NAMES))]
    things: list[Thing] = []
    for number, chamber in enumerate(plan.chambers):
        left = MOST_THINGS - len(things) - 2 * (len(plan.chambers) - number - 1)
        for _ in range(10):
            here = _draw_things(rng, chamber, plan.doorways, names[: rng.integers(2, min(4, left) + 1)])
            if len(here) >= 2:
                break
        else:
            return None
        things += here
        names = [name for name in names if name not in {thing.name for thing in here}]
    warmth = float(rng.uniform(-0.05, 0.05))
    looks = {
        "floor": _pale(rng, 0.25, 0.75),
        "floor_2": _pale(rng, 0.25, 0.75),
        "floor_scale": (float(rng.uniform(0.5, 2.0)),),
        "frame": _draw_frame(rng),
        "ceiling": _pale(rng, 0.7, 0.95),
        "ambient": _warm(float(rng.uniform(0.35, 0.5)), warmth),
    }
    lamps = []
    for number, chamber in enumerate(plan.chambers):
        looks |= _draw_paint(rng, f"wall_{number}")
        aside = rng.uniform(-0.3, 0.3, 2)
        x = (chamber.x0 + chamber.x1) / 2 + float(aside[0]) * (chamber.x1 - chamber.x0)
        y = (chamber.y0 + chamber.y1) / 2 + float(aside[1]) * (chamber.y1 - chamber.y0)
        lamps.append(Lamp(x, y, _warm(float(rng.uniform(0.4, 0.6)), warmth), highlight=0.2, reach=4.0))
    room = Room(seed, "chambers", plan, tuple(things), RobotPose(0, 0, 0), looks, tuple(lamps))
    areas = np.array([chamber.area for chamber in plan.chambers])
    return _with_start(rng, room, plan.chambers[rng.choice(len(areas), p=areas / areas.sum())])


def _draw_things(
    rng: np.random.Generator, chamber: Rectangle, doorways: Sequence[Doorway], names: Sequence[str]
) -> tuple[Thing, ...]:
    """Place one object of each name in `chamber`, except those for which no place was found."""

    def uniform(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    things: list[Thing] = []
    for name in names:
        colour, shape = name.split()
        radius, height = {
            "ball": (r := uniform(0.20, 0.28), 2 * r),
            "box": (r := uniform(0.17, 0.25), 2 * r),
            "cylinder": (uniform(0.13, 0.17), uniform(0.70, 0.95)),
        }[shape]
        jitter = rng.uniform(-0.06, 0.06, 3)
        red, green, blue = (float(v) for v in np.clip(np.add(COLOURS[colour], jitter), 0.0, 1.0))
        rgb = (red, green, blue)
        for _ in range(60):
            thing = Thing(colour, shape, 0.0, 0.0, uniform(-math.pi, math.pi), radius, height, rgb)
            gap = thing.outer_radius + GAP_TO_WALL
            x, y = uniform(chamber.x0 + gap, chamber.x1 - gap), uniform(chamber.y0 + gap, chamber.y1 - gap)
            thing = Thing(colour, shape, x, y, thing.yaw, radius, height, rgb)
            crowded = any(
                math.hypot(x - other.x, y - other.y) < thing.outer_radius + other.outer_radius + GAP_BETWEEN_OBJECTS
                for other in things
            )
            openings = [doorway.seen_from(x, y) for doorway in doorways]
            in_a_door = any(math.hypot(x - o.x, y - o.y) < GAP_TO_DOORWAY + thing.outer_radius for o in openings)
            if not crowded and not in_a_door:
                things.append(thing)
                break
    return tuple(things)


def _with_start(rng: np.random.Generator, room: Room, chamber: Rectangle) -> Room | None:
    """Return `room` with a start in `chamber` at which the robot may turn; None if none was found."""
    for _ in range(200):
        x, y = (
            float(rng.uniform(low + START_CLEARANCE, high - START_CLEARANCE))
            for low, high in ((chamber.x0, chamber.x1), (chamber.y0, chamber.y1))
        )
        if room.clearance(x, y) > START_CLEARANCE:
            return replace(room, start=RobotPose(x, y, float(rng.uniform(-math.pi, math.pi))))
    return None


def _draw_paint(rng: np.random.Generator, name: str) -> dict[str, tuple[float, ...]]:
    """Draw two colours of a wall and their pattern, an index into `PATTERNS`."""
    colours = {name: _pale(rng, 0.45, 0.9), f"{name}_2": _pale(rng, 0.45, 0.9)}
    return {**colours, f"{name}_pattern": (float(rng.integers(len(PATTERNS))),)}


def _draw_frame(rng: np.random.Generator) -> tuple[float, ...]:
    return _pale(rng, 0.15, 0.45) if rng.random() < 0.5 else _pale(rng, 0.8, 1.0)


def _warm(level: float, warmth: float) -> tuple[float, float, float]:
    """Draw the colour of a light: more red and less blue, or the reverse."""
    return level * (1 + warmth), level, level * (1 - warmth)


def _pale(rng: np.random.Generator, dark: float, light: float) -> tuple[float, ...]:
    """Draw a colour of low saturation, so that walls and floors do not look like objects."""
    grey = rng.uniform(dark, light)
    tint = rng.uniform(-0.09, 0.09, 3)
    return tuple(float(v) for v in np.clip(grey + tint, 0.0, 1.0))
