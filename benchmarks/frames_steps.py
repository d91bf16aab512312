"""Time of each step that an image goes through in the classifier, and what halving it changes."""

from __future__ import annotations

import array
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from frames_processes import HEIGHT, WIDTH

from vlm_perception.questions import Answer, Choice
from vlm_perception.training.dataset import TEST_SEEDS
from vlm_perception.training.prompts import LABEL_PROMPT


def images_of(rooms: int) -> list[np.ndarray]:
    """Return eight images of each of so many `rooms` that the nano model was not trained on."""
    from vlm_perception.simulation.room import RobotPose, make_room
    from vlm_perception.simulation.world import World

    views, rng = [], np.random.default_rng(0)
    for seed in TEST_SEEDS[5000 : 5000 + rooms]:
        room = make_room(seed)
        with World(room, WIDTH, HEIGHT) as world:
            for yaw in rng.uniform(-math.pi, math.pi, 8):
                world.place(RobotPose(room.start.x, room.start.y, yaw))
                views.append(world.image())
    return views


def steps(images: list[np.ndarray]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the median time of each step [ms], and how halving the images changes the labels."""
    import torch
    from rclpy.serialization import deserialize_message, serialize_message
    from sensor_msgs.msg import CompressedImage, Image

    from vlm_perception.models import image_size
    from vlm_perception.models.loader import load_model
    from vlm_perception.perception.image_message import decode
    from vlm_perception.simulation.truth import LABELS

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    model: Any = load_model("nano", "cpu")
    question = Choice(LABEL_PROMPT, LABELS)
    halved = image_size._halved
    times: dict[str, list[float]] = {}
    labels: dict[bool, list[Answer]] = {True: [], False: []}

    def timed(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        began = time.perf_counter()
        result = call(*arguments)
        times.setdefault(name, []).append(1e3 * (time.perf_counter() - began))
        return result

    for rgb in images:
        data = array.array("B", rgb.tobytes())
        wire = serialize_message(Image(width=WIDTH, height=HEIGHT, step=3 * WIDTH, encoding="rgb8", data=data))
        message = timed("a message of the bytes", deserialize_message, wire, Image)
        image = timed("decoding rgb8", decode, message).image
        message.encoding = "bgr8"
        timed("decoding bgr8", decode, message)
        jpeg = CompressedImage(format="jpeg", data=cv2.imencode(".jpg", rgb)[1].tobytes())
        timed("decoding JPEG", decode, jpeg)
        timed("comparison with the image before", np.array_equal, image, rgb)
        for halving, name in ((True, "halving, the processor"), (False, "the processor without halving")):
            image_size._halved = halved if halving else lambda whole, *_: whole
            timed(name, image_size.inputs_of, [image], model._processor)
            labels[halving].append(model.answer(image.copy(), [question])[0])
    pairs = list(zip(labels[True], labels[False], strict=True))
    difference = max(
        abs(p - q) for one, other in pairs for p, q in zip(one.probabilities, other.probabilities, strict=True)
    )
    same = sum(one.value == other.value for one, other in pairs)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return medians, {"images": len(pairs), "same_labels": same, "largest_difference": difference}
