"""Images with ground truth, rendered from random rooms into shards on disk.

Rooms for different purposes never mix. Training uses `TRAIN_SEEDS`, calibration `CALIBRATION_SEEDS`, and the figures of
the model card `TEST_SEEDS`. Demos and evaluations use seeds below 100,000. Seeds from `RESERVED_FROM` on are kept for
independent tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from vlm_perception.simulation import truth
from vlm_perception.simulation.room import GENERATIONS, NAMES, RobotPose, Room, make_room

TRAIN_SEEDS = range(100_000, 200_000)
CALIBRATION_SEEDS = range(800_000, 900_000)
TEST_SEEDS = range(900_000, 1_000_000)
RESERVED_FROM = 1_000_000

IMAGE_SIZE = 160
PATCHES = 10
POSES_PER_ROOM = 12
ROOMS_PER_SHARD = 50
RENDER_SIZE = (320, 240)


@dataclass(frozen=True)
class Shard:
    """Frames of some rooms, N in all.

    images (N, S, S, 3) uint8; label and way (N,) uint8, indices into `truth.LABELS` and `truth.WAYS`;
    share (N, 18) float16, each name's share of the image; where (N, 18) uint8, an index into `truth.WHERE`;
    column (N, 18) float16, the middle of its pixels; patch_thing (N, P, P) uint8, 1 + the name that covers
    most of the patch or 0; patch_share (N, P, P) float16, how much of the patch it covers.
    """

    images: np.ndarray
    label: np.ndarray
    way: np.ndarray
    share: np.ndarray
    where: np.ndarray
    column: np.ndarray
    patch_thing: np.ndarray
    patch_share: np.ndarray
    seed: np.ndarray


def random_pose(room: Room, rng: np.random.Generator) -> RobotPose:
    """Draw a pose that a robot in `room` can have. Close views, walls, the doorway and the corridor are more frequent.

    Raises RuntimeError if the room has no free place.
    """
    plan = room.plan
    for _ in range(1000):
        kind = rng.random()
        yaw = rng.uniform(-math.pi, math.pi)
        chamber = plan.chambers[rng.integers(len(plan.chambers))]  # of one, numpy draws no lot
        if kind < 0.34:  # anywhere
            x, y = rng.uniform(chamber.x0, chamber.x1), rng.uniform(chamber.y0, chamber.y1)
        elif kind < 0.63:  # an object, close by
            thing = room.things[rng.integers(len(room.things))]
            direction = rng.uniform(-math.pi, math.pi)
            distance = thing.radius + rng.uniform(0.3, 1.6)
            x, y = thing.x + distance * math.cos(direction), thing.y + distance * math.sin(direction)
            yaw = direction + math.pi + rng.uniform(-0.7, 0.7)
        elif kind < 0.73:  # a wall, close by
            side = rng.integers(4)
            gap = rng.uniform(0.25, 1.6)
            if side < 2:
                x, y = (chamber.x1 - gap, chamber.x0 + gap)[side], rng.uniform(chamber.y0, chamber.y1)
            else:
                x, y = rng.uniform(chamber.x0, chamber.x1), (chamber.y1 - gap, chamber.y0 + gap)[side - 2]
            yaw = [0, math.pi, math.pi / 2, -math.pi / 2][side] + rng.uniform(-0.9, 0.9)
        elif kind < 0.89:  # a doorway, from the chamber
            openings = plan.openings_of(chamber)
            opening = openings[rng.integers(len(openings))]
            direction, distance = opening.heading + rng.uniform(-1.2, 1.2), rng.uniform(0.2, 4.0)
            x, y = opening.x - distance * math.cos(direction), opening.y - distance * math.sin(direction)
            yaw = direction + rng.uniform(-0.6, 0.6)
        elif plan.corridors:  # the corridor, from its doorway on
            (doorway,), (corridor,) = plan.doorways, plan.corridors
            x = rng.uniform(doorway.x, corridor.x1)
            y = doorway.y + rng.uniform(-0.5, 0.5) * (corridor.y1 - corridor.y0)
            yaw = rng.choice([0, math.pi]) + rng.uniform(-0.8, 0.8)
        else:
            continue
        pose = RobotPose(float(x), float(y), math.remainder(float(yaw), math.tau))
        if (plan.in_chamber(x, y) or plan.in_passage(x, y)) and room.clearance(x, y) > 0.2:
            return pose
    raise RuntimeError(f"room {room.seed} has no free place")


def render_rooms(seeds: range, poses: int = POSES_PER_ROOM) -> Shard:
    """Render `poses` frames of every room in `seeds`."""
    from vlm_perception.simulation.world import World

    frames: dict[str, list] = {name: [] for name in Shard.__dataclass_fields__}
    for seed in seeds:
        room, rng = make_room(seed), np.random.default_rng((seed, 1))
        ids = np.array([NAMES.index(thing.name) for thing in room.things] + [-1])
        with World(room, *RENDER_SIZE, samples=0) as world:
            for _ in range(poses):
                pose = random_pose(room, rng)
                world.place(pose)
                image = Image.fromarray(world.image()).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
                segmentation = world.segmentation()
                share, where = np.zeros(len(NAMES)), np.zeros(len(NAMES), np.uint8)
                column = np.zeros(len(NAMES))
                for seen in truth.sightings(room, pose, segmentation):
                    index = NAMES.index(seen.name)
                    share[index], column[index] = seen.share, seen.column
                    where[index] = truth.WHERE.index(f"{seen.direction} {seen.range}")
                covered = _patch_shares(ids[segmentation])
                frames["images"].append(np.asarray(image))
                frames["label"].append(truth.LABELS.index(truth.label(room, pose)))
                frames["way"].append(truth.WAYS.index(truth.way(room, pose)))
                frames["share"].append(share.astype(np.float16))
                frames["where"].append(where)
                frames["column"].append(column.astype(np.float16))
                best = covered.argmax(-1)
                most = covered.max(-1)
                frames["patch_thing"].append(np.where(most > 0, best + 1, 0).astype(np.uint8))
                frames["patch_share"].append(most.astype(np.float16))
                frames["seed"].append(seed)
    return Shard(**{name: np.stack(values) for name, values in frames.items()})


def _patch_shares(names: np.ndarray) -> np.ndarray:
    """Return the share of every name in every patch, (P, P, 18); `names` is (height, width), an index or -1."""
    height, width = names.shape
    rows = np.arange(height) * PATCHES // height
    columns = np.arange(width) * PATCHES // width
    patch = rows[:, None] * PATCHES + columns[None, :]
    counts = np.bincount((patch * (len(NAMES) + 1) + names + 1).ravel(), minlength=PATCHES**2 * (len(NAMES) + 1))
    shares = counts.reshape(PATCHES, PATCHES, -1)[..., 1:]
    return shares / (height * width / PATCHES**2)


def _render_shard(path: Path, seeds: range) -> Path:
    shard = render_rooms(seeds)
    temporary = path.with_suffix(".part.npz")
    np.savez(temporary, **vars(shard))
    temporary.rename(path)
    return path


def shard_paths(folder: Path, first_seed: int, rooms: int) -> list[tuple[Path, range]]:
    """Return the files that hold `rooms` rooms from `first_seed` on, and the seeds in each."""
    starts = range(first_seed, first_seed + rooms, ROOMS_PER_SHARD)
    end, generation = first_seed + rooms, GENERATIONS["room"]
    return [(folder / f"rooms-{generation}-{s}.npz", range(s, min(s + ROOMS_PER_SHARD, end))) for s in starts]


def render(folder: Path, first_seed: int, rooms: int, workers: int = 2) -> Iterator[Path]:
    """Render the missing ones of `rooms` rooms from `first_seed` on; yield the path of each finished shard."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [(path, seeds) for path, seeds in shard_paths(folder, first_seed, rooms) if not path.exists()]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_render_shard, *item) for item in missing]):
            yield future.result()


def load_shard(path: Path) -> Shard:
    """Return the shard in the file at `path`."""
    with np.load(path) as arrays:
        return Shard(**{name: arrays[name] for name in Shard.__dataclass_fields__})
