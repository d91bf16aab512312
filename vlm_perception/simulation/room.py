"""A random room by seed: what stands where, as plain geometry. [m], [rad], x forward, y left, z up.

The room is a rectangle around the origin. The wall at +x has a doorway, behind which a straight corridor
ends at a wall. Five to nine objects stand in the room, each colour and shape together at most once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

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

GENERATION = 3  # changes every room; with this one the blue box of the README is in room 7
ROBOT_RADIUS = 0.17
WALL_HEIGHT = 2.4
WALL_THICKNESS = 0.1
DOOR_HEIGHT = 2.0
GAP_BETWEEN_OBJECTS = 0.9
GAP_TO_WALL = 0.5


@dataclass(frozen=True)
class RobotPose:
    """Where the robot's centre is on the floor [m], and its heading [rad], positive to the left."""

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
        """Distance on the floor [m] from (x, y) to the nearest point of the object's outline."""
        dx, dy = x - self.x, y - self.y
        if self.shape != "box":
            return max(0.0, math.hypot(dx, dy) - self.radius)
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        along, across = abs(c * dx + s * dy) - self.radius, abs(-s * dx + c * dy) - self.radius
        return math.hypot(max(0.0, along), max(0.0, across))


@dataclass(frozen=True)
class Room:
    """Everything that a seed decides. `looks` holds colours and lights, which only the renderer needs."""

    seed: int
    length: float  # along x
    width: float  # along y
    door_y: float
    door_width: float
    corridor_length: float
    corridor_width: float
    things: tuple[Thing, ...]
    start: RobotPose
    looks: dict[str, tuple[float, ...]]

    @property
    def walls(self) -> tuple[tuple[float, float, float, float], ...]:
        """The inner faces of all walls as segments (x0, y0, x1, y1)."""
        hx, hy = self.length / 2, self.width / 2
        left, right = self.door_y + self.door_width / 2, self.door_y - self.door_width / 2
        c_left, c_right = self.door_y + self.corridor_width / 2, self.door_y - self.corridor_width / 2
        near, far = hx + WALL_THICKNESS, hx + WALL_THICKNESS + self.corridor_length
        return (
            (-hx, -hy, -hx, hy),
            (-hx, hy, hx, hy),
            (-hx, -hy, hx, -hy),
            (hx, -hy, hx, right),
            (hx, left, hx, hy),
            (hx, left, near, left),
            (hx, right, near, right),
            (near, left, near, c_left),
            (near, c_right, near, right),
            (near, c_left, far, c_left),
            (near, c_right, far, c_right),
            (far, c_right, far, c_left),
        )

    def in_corridor(self, x: float, y: float) -> bool:
        hx = self.length / 2
        return hx < x < hx + WALL_THICKNESS + self.corridor_length and abs(y - self.door_y) < self.corridor_width / 2

    def clearance(self, x: float, y: float) -> float:
        """Distance [m] from (x, y) to the nearest wall or object."""
        nearest = min((thing.distance_to(x, y) for thing in self.things), default=math.inf)
        for x0, y0, x1, y1 in self.walls:
            dx, dy = x1 - x0, y1 - y0
            t = min(1.0, max(0.0, ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy)))
            nearest = min(nearest, math.hypot(x - x0 - t * dx, y - y0 - t * dy))
        return nearest

    def thing(self, name: str) -> Thing | None:
        return next((thing for thing in self.things if thing.name == name), None)


def make_room(seed: int) -> Room:
    """Return the room of `seed`; the same seed always gives the same room."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}, expected 0 to {2**32 - 1}")
    rng = np.random.default_rng((GENERATION, seed))
    while True:  # a small room sometimes has no place for its objects: draw another
        room = _draw(rng, seed)
        if room is not None:
            return room


def _draw(rng: np.random.Generator, seed: int) -> Room | None:
    def uniform(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    length, width = uniform(5.0, 8.0), uniform(5.0, 8.0)
    door_width = uniform(1.0, 1.3)
    corridor_width = uniform(1.5, 2.0)
    hx, hy = length / 2, width / 2
    door_y = uniform(-hy + 1.1, hy - 1.1)

    things: list[Thing] = []
    count = int(rng.integers(5, 10))
    for index in rng.permutation(len(NAMES))[:count]:
        colour, shape = NAMES[index].split()
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
            reach = thing.outer_radius + GAP_TO_WALL
            x, y = uniform(-hx + reach, hx - reach), uniform(-hy + reach, hy - reach)
            thing = Thing(colour, shape, x, y, thing.yaw, radius, height, rgb)
            crowded = any(
                math.hypot(x - other.x, y - other.y) < thing.outer_radius + other.outer_radius + GAP_BETWEEN_OBJECTS
                for other in things
            )
            in_the_door = math.hypot(x - hx, y - door_y) < 1.2 + thing.outer_radius
            if not crowded and not in_the_door:
                things.append(thing)
                break
    if len(things) < 5:
        return None

    looks = {
        "floor": _pale(rng, 0.25, 0.75),
        "floor_2": _pale(rng, 0.25, 0.75),
        "floor_scale": (uniform(0.5, 2.0),),
        "wall": _pale(rng, 0.45, 0.9),
        "wall_2": _pale(rng, 0.45, 0.9),
        "wall_pattern": (float(rng.integers(3)),),
        "frame": _pale(rng, 0.15, 0.45) if rng.random() < 0.5 else _pale(rng, 0.8, 1.0),
        "corridor": _pale(rng, 0.35, 0.9),
        "ceiling": _pale(rng, 0.7, 0.95),
        "ambient": (uniform(0.35, 0.5),),
        "lamp": (uniform(-hx, hx) * 0.6, uniform(-hy, hy) * 0.6, uniform(0.3, 0.55)),
        "lamp_2": (uniform(-hx, hx) * 0.9, uniform(-hy, hy) * 0.9, uniform(0.0, 0.3)),
        "warmth": (uniform(-0.05, 0.05),),
    }
    room = Room(
        seed,
        length,
        width,
        door_y,
        door_width,
        uniform(4.0, 6.0),
        corridor_width,
        tuple(things),
        RobotPose(0, 0, 0),
        looks,
    )
    for _ in range(200):
        x, y = uniform(-hx + 0.6, hx - 0.6), uniform(-hy + 0.6, hy - 0.6)
        if room.clearance(x, y) > 0.6:
            return Room(**{**vars(room), "start": RobotPose(x, y, uniform(-math.pi, math.pi))})
    return None


def _pale(rng: np.random.Generator, dark: float, light: float) -> tuple[float, ...]:
    """A colour of low saturation, so that walls and floors are not mistaken for objects."""
    grey = rng.uniform(dark, light)
    tint = rng.uniform(-0.09, 0.09, 3)
    return tuple(float(v) for v in np.clip(grey + tint, 0.0, 1.0))
