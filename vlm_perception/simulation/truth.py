"""Ground truth by geometry, the answers of a perfect observer, for training, tests and evaluation only.

Definitions, with distances from the robot's centre along the floor:

- label, the first that holds: **obstacle**, an object's surface is closer than `CLOSE` in the swath ahead;
  **wall**, a wall is closer than `WALL_CLOSE` in the swath; **corridor**, the robot looks along the corridor
  (within 45 degrees) and the places 0.5 m and 1 m ahead of it are in the corridor; **doorway**, the middle of a
  doorway's opening is within 25 degrees of the heading, 0.5 to 3.5 m away, seen from a chamber at less than 60 degrees
  from straight on, with nothing in between; **clear** otherwise.
- target: **no**, unless its visible pixels are `VISIBLE` of the image or more; **left**, **center** or **right**
  third of the image by the middle of those pixels; **near** when its surface is closer than `CLOSE`, else **far**.
  A target with some pixels but fewer is a *glimpse*: neither answer is wrong, so it is not used.
- way: **center** when the swath ahead is free for `CLEAR_DISTANCE`; else the freer of **left** and **right**
  (25 degrees), if it is free for 1 m; else **none**.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vlm_perception.simulation.floor_plan import Opening
from vlm_perception.simulation.room import RobotPose, Room, Thing

LABELS = ("clear", "obstacle", "wall", "doorway", "corridor")
WHERE = ("no", "left near", "left far", "center near", "center far", "right near", "right far")
WAYS = ("left", "center", "right", "none")

CLOSE = 0.65
WALL_CLOSE = 1.0
CLEAR_DISTANCE = 1.5
SWATH_HALF_WIDTH = 0.25
VISIBLE = 0.0025
WAY_BEARING = math.radians(25)
_OFFSETS = np.linspace(-SWATH_HALF_WIDTH, SWATH_HALF_WIDTH, 11)


@dataclass(frozen=True)
class VisibleObject:
    """One object in the image: share of the pixels (0 to 1), third of the image, distance to its surface [m]."""

    name: str
    share: float
    direction: str
    column: float  # middle of its pixels, from 0 (left edge) to 1 (right edge)
    distance: float

    @property
    def visible(self) -> bool:
        return self.share >= VISIBLE

    @property
    def range(self) -> str:
        return "near" if self.distance < CLOSE else "far"

    @property
    def where(self) -> str:
        return f"{self.direction} {self.range}" if self.visible else "no"


def swath(room: Room, pose: RobotPose, bearing: float = 0.0) -> tuple[float, float]:
    """Return how far [m] a strip ahead, as wide as the robot with a margin, is free of objects, and of walls."""
    c, s = math.cos(pose.yaw + bearing), math.sin(pose.yaw + bearing)
    ox, oy = pose.x - s * _OFFSETS, pose.y + c * _OFFSETS
    objects = min(
        (float(np.min(_ray_thing(ox, oy, c, s, thing))) for thing in room.things),
        default=math.inf,
    )
    return objects, float(_ray_walls(ox, oy, c, s, room).min())


def _ray_walls(ox: np.ndarray, oy: np.ndarray, c: float, s: float, room: Room) -> np.ndarray:
    """Return distances along parallel rays (origins ox, oy; direction c, s) to every wall, (walls, rays), or inf."""
    x0, y0, x1, y1 = np.array(room.walls).T[:, :, None]
    dx, dy = x1 - x0, y1 - y0
    cross = c * dy - s * dx
    with np.errstate(divide="ignore", invalid="ignore"):
        t = ((x0 - ox) * dy - (y0 - oy) * dx) / cross
        u = ((x0 - ox) * s - (y0 - oy) * c) / cross
    return np.where((np.abs(cross) > 1e-12) & (t >= 0) & (u >= 0) & (u <= 1), t, np.inf)


def _ray_thing(ox: np.ndarray, oy: np.ndarray, c: float, s: float, thing: Thing) -> np.ndarray:
    """Return distances along parallel rays (origins ox, oy; direction c, s) to an object's outline, or inf."""
    px, py = ox - thing.x, oy - thing.y
    if thing.shape != "box":
        b = px * c + py * s
        root = b * b - (px * px + py * py - thing.radius**2)
        t = -b - np.sqrt(np.maximum(root, 0.0))
        return np.where((root >= 0) & (t >= 0), t, np.inf)
    tc, ts = math.cos(thing.yaw), math.sin(thing.yaw)
    qx, qy = tc * px + ts * py, -ts * px + tc * py
    vx, vy = tc * c + ts * s, -ts * c + tc * s
    vx, vy = (v if abs(v) > 1e-9 else 1e-9 for v in (vx, vy))
    tx0, tx1 = (-thing.radius - qx) / vx, (thing.radius - qx) / vx
    ty0, ty1 = (-thing.radius - qy) / vy, (thing.radius - qy) / vy
    enter = np.maximum(np.minimum(tx0, tx1), np.minimum(ty0, ty1))
    leave = np.minimum(np.maximum(tx0, tx1), np.maximum(ty0, ty1))
    return np.where((enter <= leave) & (enter >= 0), enter, np.inf)


def label(room: Room, pose: RobotPose) -> str:
    """Return the scene label at `pose`."""
    objects, walls = swath(room, pose)
    if objects < CLOSE:
        return "obstacle"
    if walls < WALL_CLOSE:
        return "wall"
    places = [(pose.x + d * math.cos(pose.yaw), pose.y + d * math.sin(pose.yaw)) for d in (0.5, 1.0)]
    along = abs(math.cos(pose.yaw)) > math.cos(math.radians(45))
    if along and all(room.plan.in_passage(*place) for place in places):
        return "corridor"
    if room.plan.in_passage(pose.x, pose.y):
        return "clear"
    openings = [doorway.seen_from(pose.x, pose.y) for doorway in room.plan.doorways]
    return "doorway" if any(_looks_at(room, pose, opening) for opening in openings) else "clear"


def _looks_at(room: Room, pose: RobotPose, opening: Opening) -> bool:
    """Return whether the opening is ahead, near and about straight on, with nothing in between."""
    dx, dy = opening.x - pose.x, opening.y - pose.y
    distance, direction = math.hypot(dx, dy), math.atan2(dy, dx)
    ahead = abs(math.remainder(direction - pose.yaw, math.tau)) < math.radians(25)
    straight_on = abs(math.remainder(direction - opening.heading, math.tau)) < math.radians(60)
    if not (ahead and straight_on and 0.5 < distance < 3.5):
        return False
    c, s = math.cos(direction), math.sin(direction)
    ray = np.array([pose.x]), np.array([pose.y]), c, s
    things = (_ray_thing(*ray, thing)[0] > distance for thing in room.things)
    return all(things) and bool((_ray_walls(*ray, room) > distance).all())


def way(room: Room, pose: RobotPose) -> str:
    """Return which way is clear at `pose`."""
    left, center, right = (min(swath(room, pose, b)) for b in (WAY_BEARING, 0.0, -WAY_BEARING))
    if center >= CLEAR_DISTANCE:
        return "center"
    if max(left, right) >= 1.0:
        return "left" if left > right else "right"
    return "none"


def sightings(room: Room, pose: RobotPose, segmentation: np.ndarray) -> list[VisibleObject]:
    """Return the objects in the image from left to right. `segmentation` is as `World.segmentation` returns it."""
    height, width = segmentation.shape
    counts = np.zeros((len(room.things), width))
    for index in range(len(room.things)):
        counts[index] = (segmentation == index).sum(axis=0)
    seen = []
    for thing, columns in zip(room.things, counts, strict=True):
        pixels = columns.sum()
        if pixels == 0:
            continue
        column = float((columns * (np.arange(width) + 0.5)).sum() / pixels / width)
        direction = "left" if column < 1 / 3 else "right" if column > 2 / 3 else "center"
        distance = thing.distance_to(pose.x, pose.y)
        seen.append(VisibleObject(thing.name, float(pixels / (height * width)), direction, column, distance))
    return sorted(seen, key=lambda item: item.column)


def description(seen: list[VisibleObject]) -> str:
    """Return the sentence that describes an image: its visible objects from left to right."""
    return ", ".join(f"{item.name} {item.where}" for item in seen if item.visible) or "no objects"
