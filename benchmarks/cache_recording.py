"""Recordings of patrols: noisy images of unseen rooms, the true label of each, and the answers of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from patrol import RATE, to_and_fro

from vlm_perception.models.base import Model
from vlm_perception.questions import Answer, Choice, Question, Text
from vlm_perception.simulation import truth
from vlm_perception.simulation.room import make_room
from vlm_perception.simulation.world import World
from vlm_perception.training.prompts import DESCRIPTION_PROMPT, LABEL_PROMPT

LABEL = Choice(LABEL_PROMPT, truth.LABELS)
WORDS = Text(DESCRIPTION_PROMPT, 40)
WORDS_EVERY = 20
"""Images from one description to the next, as by the default `description.rate`."""
NOISE, FLICKER = 4.0, 0.003
"""Standard deviations of a pixel's value and of the brightness of the whole image."""
KEPT = (64, 48)
"""Width and height of the recorded images, which are large enough for thumbnails."""


class Look(NamedTuple):
    """A moment of a patrol: what the robot does, the true label, the image, the model's answers.

    `again` is the model's description of another image from the same place.
    """

    at: float
    phase: str
    truth: str
    image: np.ndarray
    label: Answer
    words: Answer | None
    again: Answer | None


class NoisyCamera:
    """A camera whose images have noise in every pixel and a little flicker."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng((seed, 5))
        self._noise = self._rng.normal(0, NOISE, (304, 384, 3)).astype(np.float32)

    def sees(self, image: np.ndarray) -> np.ndarray:
        """Return the camera's version of a rendered `image`."""
        x, y = self._rng.integers(0, 64, 2)
        light = np.float32(1 + self._rng.normal(0, FLICKER))
        noise = self._noise[y : y + image.shape[0], x : x + image.shape[1]]
        return np.clip(image * light + noise, 0, 255).astype(np.uint8)


def record(model: Model, seeds: Sequence[int], seconds: float) -> list[list[Look]]:
    """Return a patrol of so many `seconds` through each of the rooms of `seeds`."""
    streams = []
    for seed in seeds:
        room, camera = make_room(seed), NoisyCamera(seed)
        stream = []
        with World(room, 320, 240) as world:
            for number, (phase, pose) in enumerate(to_and_fro(room, seconds)):
                world.place(pose)
                rendered = world.image()
                image = camera.sees(rendered)
                questions: list[Question] = [LABEL] if number % WORDS_EVERY else [LABEL, WORDS]
                answers = model.answer(image, questions)
                label, words = answers[0], answers[1] if len(answers) > 1 else None
                again = model.answer(camera.sees(rendered), [WORDS])[0] if words else None
                small = cv2.resize(image, KEPT, interpolation=cv2.INTER_AREA)
                label_truth = truth.label(room, pose)
                stream.append(Look(number / RATE, phase, label_truth, small, label, words, again))
        streams.append(stream)
        print(f"room {seed}: {len(stream)} images", flush=True)
    return streams
