"""The answer cache and the regions of motion, for a camera that stands still while an object is pushed past it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from cache_playback import share_of
from cache_recording import LABEL, NoisyCamera
from patrol import RATE

from vlm_perception.models.base import Model
from vlm_perception.perception.answer_cache import AnswerCache, CacheSettings
from vlm_perception.perception.region import Motion
from vlm_perception.simulation import truth
from vlm_perception.simulation.room import RobotPose, Thing, make_room
from vlm_perception.simulation.world import World

STILL = 24
"""The threshold for a camera that stands still."""
PUSHED = 0.1
"""Motion of the object from one image to the next [m]."""
AHEAD = 1.6
"""Distance of the object from the camera [m]."""


class Watch(NamedTuple):
    """Figures of a camera that stands still; all but `larger` are shares from 0 to 1.

    `hits` counts images while nothing moves, `false` the hits whose own label is another. `held` counts images with
    motion whose region holds at least 95 % of the object, `whole` those without motion and without a region. `area` is
    the median area of a region. In the region the object is `larger` by this factor for the model.
    """

    hits: float
    false: float
    held: float
    whole: float
    area: float
    larger: float


def watch(model: Model, seeds: Sequence[int]) -> Watch:
    """Measure in each room: nothing moves, an object is pushed from the right to the left, nothing moves again."""
    hits, false, held, whole, areas, larger = [], [], [], [], [], []
    for seed in seeds:
        room, camera = make_room(seed), NoisyCamera(seed)
        pose, cache, motion = room.start, AnswerCache(CacheSettings(STILL)), Motion()
        steps = [-1.2 + PUSHED * n for n in range(25)]
        aside, before = [steps[0]] * 15 + steps + [steps[-1]] * 15, steps[0]
        share_before = 0.0
        for number, place in enumerate(aside):
            thing = _ahead(room.things[0], pose, place)
            moves, before = place != before, place
            with World(replace(room, things=(thing, *room.things[1:])), 320, 240) as world:
                world.place(pose)
                image, mask = camera.sees(world.image()), world.segmentation() == 0
            (label,) = model.answer(image, [LABEL])
            found = cache.find(LABEL, image, number / RATE)
            if found is None:
                cache.keep(LABEL, image, label, number / RATE)
            else:
                false.append(found.value != label.value)
            if number and not moves:
                hits.append(found is not None)
            region, share = motion.region(image), float(mask.mean())
            if moves and min(share, share_before) > truth.VISIBLE:
                inside = float(region.of(mask).sum() / mask.sum()) if region else 1.0
                held.append(region is not None and inside >= 0.95)
                if region:
                    areas.append(region.width * region.height / mask.size)
                    larger.append(inside / areas[-1])
            elif not moves and number:
                whole.append(region is None)
            share_before = share
        print(f"room {seed}: {len(aside)} images of a camera that stands still", flush=True)
    return Watch(
        share_of(hits),
        share_of(false),
        share_of(held),
        share_of(whole),
        statistics.median(areas),
        statistics.median(larger),
    )


def _ahead(thing: Thing, pose: RobotPose, aside: float) -> Thing:
    """Return the `thing` moved to where the camera looks, and `aside` to the left [m]."""
    c, s = math.cos(pose.yaw), math.sin(pose.yaw)
    return replace(thing, x=pose.x + AHEAD * c - aside * s, y=pose.y + AHEAD * s + aside * c)
