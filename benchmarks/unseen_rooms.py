"""Images of rooms that no model was trained on, and the questions that a robot asks about one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vlm_perception.questions import Choice, ClosedQuestion, YesNo
from vlm_perception.simulation import truth
from vlm_perception.simulation.room import NAMES, make_room
from vlm_perception.simulation.world import World
from vlm_perception.training.dataset import random_pose
from vlm_perception.training.prompts import LABEL_PROMPT, THERE_PROMPT, WHERE_PROMPT

POSES = 12
"""Images of each room."""


def moment(target: str) -> list[ClosedQuestion]:
    """Return the three questions of one moment: the scene's label, where `target` is, and whether it is there."""
    return [
        Choice(LABEL_PROMPT, truth.LABELS),
        Choice(WHERE_PROMPT.format(target=target), truth.WHERE),
        YesNo(THERE_PROMPT.format(target=target)),
    ]


def rooms(seeds: range) -> Iterator[tuple[np.ndarray, str]]:
    """Yield images of the rooms of `seeds`, each with a target: by turns an object of the room, and any object."""
    for seed in seeds:
        room, rng = make_room(seed), np.random.default_rng((seed, 1))
        with World(room) as world:
            for pose in range(POSES):
                world.place(random_pose(room, rng))
                names = NAMES if pose % 2 else [thing.name for thing in room.things]
                yield world.image(), str(rng.choice(names))
