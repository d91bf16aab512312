"""Questions about training frames with their answers, drawn in balance.

Half of the questions about a target ask for a visible one. Of the others, most are hard: the right colour with another
shape, or the right shape with another colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlm_perception.simulation import truth
from vlm_perception.simulation.room import COLOURS, NAMES, SHAPES
from vlm_perception.training.batches import COLOUR_OF, SHAPE_OF, Batch
from vlm_perception.training.prompts import DESCRIPTION_PROMPT, LABEL_PROMPT, THERE_PROMPT, WAY_PROMPT, WHERE_PROMPT

UNKNOWN_WORDS = (
    *("zebra", "door", "person", "chair", "cup", "orange"),
    *("white", "black", "dog", "table", "pyramid", "cone"),
)
"""Words for targets that no room has."""


@dataclass(frozen=True)
class TrainingQuestion:
    """One question about one frame of a batch, and its answer. `name` is the index in `NAMES` of the target, or -1."""

    frame: int
    prompt: str
    answer: str
    name: int = -1


def draw_questions(batch: Batch, rng: np.random.Generator, targets: int) -> list[TrainingQuestion]:
    """Draw `targets` questions about targets for each frame, and one about the scene or the way for some frames."""
    rows = []
    for frame in range(len(batch.label)):
        visible = np.flatnonzero(batch.share[frame] >= truth.VISIBLE)
        absent = np.flatnonzero(batch.share[frame] == 0)
        alike = absent[np.isin(COLOUR_OF[absent], COLOUR_OF[visible]) | np.isin(SHAPE_OF[absent], SHAPE_OF[visible])]
        same_colour = absent[np.isin(COLOUR_OF[absent], COLOUR_OF[visible])]
        for _ in range(targets if len(visible) else 1):
            draw = rng.random()
            if draw < 0.5 and len(visible):
                name = int(rng.choice(visible))
                answer = truth.WHERE[batch.where[frame, name]]
            elif draw < 0.96 and len(absent):
                kind = rng.random()
                pool = (
                    same_colour if kind < 0.55 and len(same_colour) else alike if kind < 0.8 and len(alike) else absent
                )
                name, answer = int(rng.choice(pool)), "no"
            else:
                words = (str(rng.choice(UNKNOWN_WORDS)), str(rng.choice(SHAPES)), str(rng.choice(tuple(COLOURS))))
                target = (words[0], f"{words[0]} {words[1]}", f"{words[2]} {words[0]}")[rng.integers(3)]
                prompt = THERE_PROMPT if rng.random() < 0.25 else WHERE_PROMPT
                rows.append(TrainingQuestion(frame, prompt.format(target=target), "no"))
                continue
            if rng.random() < 0.25:
                there = "no" if answer == "no" else "yes"
                rows.append(TrainingQuestion(frame, THERE_PROMPT.format(target=NAMES[name]), there, name))
            else:
                rows.append(TrainingQuestion(frame, WHERE_PROMPT.format(target=NAMES[name]), answer, name))
        if rng.random() < 0.6:
            rows.append(TrainingQuestion(frame, LABEL_PROMPT, truth.LABELS[batch.label[frame]]))
        if rng.random() < 0.2:
            rows.append(TrainingQuestion(frame, WAY_PROMPT, truth.WAYS[batch.way[frame]]))
    return rows


def descriptions(batch: Batch, frames: np.ndarray) -> list[TrainingQuestion]:
    """Return the description of each of `frames`, indices in the batch: its visible objects from left to right."""
    rows = []
    for frame in frames:
        visible = np.flatnonzero(batch.share[frame] >= truth.VISIBLE)
        visible = visible[np.argsort(batch.column[frame, visible])]
        text = ", ".join(f"{NAMES[i]} {truth.WHERE[batch.where[frame, i]]}" for i in visible) or "no objects"
        rows.append(TrainingQuestion(int(frame), DESCRIPTION_PROMPT, text))
    return rows
