"""The whole loop of simulator, classifier and navigator: images that get both label and search answers."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from vlm_perception.training.dataset import TEST_SEEDS

SETTLE = 3.0
"""From the start of the search until images are counted [s]."""


def answered(rate: float, seconds: float, logs: Path) -> float:
    """Return how many images at `rate` [1/s] get both their label and the answers of a search, per second."""
    import rclpy

    from vlm_perception.msg import SceneLabel, TargetSighting
    from vlm_perception.perception.frame import nanoseconds
    from vlm_perception.simulation.room import make_room
    from vlm_perception.tools.episode import choose_target
    from vlm_perception.tools.spectator import Spectator
    from vlm_perception.tools.stack import Stack

    seed = TEST_SEEDS[0]
    parameters: dict[str, dict[str, object]] = {
        "simulator": {"camera_rate": rate, "seed": seed},
        "classifier": {"label.rate": rate, "description.rate": 0.0},
        "navigator": {"ask_rate": 0.0},
    }
    rclpy.init()
    labels: set[int] = set()
    sightings: set[int] = set()

    def note(stamps: set[int], message: Any) -> None:
        stamps.add(nanoseconds(message.header.stamp))

    with Stack(logs, parameters) as stack:
        spectator = Spectator(lambda _: None, stack.check)
        spectator.create_subscription(SceneLabel, "scene_label", partial(note, labels), 10)
        spectator.create_subscription(TargetSighting, "target_sighting", partial(note, sightings), 10)
        spectator.wait_for_the_robot()
        spectator.set_target(choose_target("absent", make_room(seed)))
        for part in (SETTLE, seconds):
            labels.clear()
            sightings.clear()
            started = time.monotonic()
            while time.monotonic() - started < part:
                spectator.spin(0.02)
        spectator.set_target("")
        spectator.close()
    rclpy.shutdown()
    return len(labels & sightings) / seconds
