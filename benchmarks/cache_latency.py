"""Time from an image's message to its label, in a worker with an answer cache and in one without."""

from __future__ import annotations

import array
import math
import threading
import time
from types import SimpleNamespace

import numpy as np
from cache_fixed_camera import STILL
from cache_recording import LABEL

from vlm_perception.models.base import Model
from vlm_perception.perception.answer_cache import CacheSettings
from vlm_perception.perception.camera import Camera
from vlm_perception.perception.outputs import Failed, Fault, Label, Output
from vlm_perception.perception.settings import DescriptionSettings, LabelSettings, Settings
from vlm_perception.perception.trace import percentiles
from vlm_perception.perception.worker import Worker
from vlm_perception.simulation.room import RobotPose, make_room
from vlm_perception.simulation.world import World
from vlm_perception.training.dataset import TEST_SEEDS


class TimedWorker:
    """A worker that labels every image. `aged` says whether the last label was an earlier answer."""

    def __init__(self, model: Model, threshold: float) -> None:
        self._told = threading.Event()
        settings = Settings(
            60.0,
            LabelSettings(LABEL.options, LABEL.prompt, rate=1000.0),
            DescriptionSettings(rate=0.0),
            cache=CacheSettings(threshold, refresh=1e9),
            batch_window=0.0,
        )
        self.camera = Camera("camera", settings, time.time_ns)
        self.worker = Worker(lambda: model, settings, [self.camera], self._take)
        self.worker.look(True)
        self.worker.start()
        self._told.wait()

    def show(self, data: array.array, width: int, height: int) -> tuple[float, float]:
        """Return the times until the label [s]: from the message on, and from when the worker took the image."""
        sec, nanosec = divmod(time.time_ns(), 1_000_000_000)
        message = SimpleNamespace(
            header=SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id="camera"),
            height=height,
            width=width,
            step=3 * width,
            encoding="rgb8",
            is_bigendian=0,
            data=data,
        )
        self._told.clear()
        put = time.monotonic()
        self.camera.put(message)
        self.worker.wake()
        self._told.wait()
        return self.at - put, self.at - self.taken

    def _take(self, output: Output) -> None:
        if isinstance(output, Label):
            self.at, self.taken, self.aged = time.monotonic(), output.frame.taken, output.answer.age > 0
        elif isinstance(output, Failed):
            raise output.error
        elif isinstance(output, Fault):
            raise RuntimeError(f"{output.kind}: {output.error}")
        self._told.set()


def sure_scenes(model: Model, width: int, height: int, count: int = 64) -> list[np.ndarray]:
    """Return images of rooms whose label the model gives with a confidence above 0.95."""
    scenes: list[np.ndarray] = []
    for seed in TEST_SEEDS[5400:]:
        room = make_room(seed)
        with World(room, width, height) as world:
            for step in range(8):
                world.place(RobotPose(room.start.x, room.start.y, math.tau * step / 8))
                image = world.image().copy()
                if model.answer(image, [LABEL])[0].confidence > 0.95:
                    scenes.append(image)
        if len(scenes) >= count:
            break
    return scenes[:count]


def times(model: Model, width: int, height: int, rounds: int) -> dict[str, list[float]]:
    """Return the times [ms] from the message to the label of the same scene, with cache and without: p50, p95, p99."""
    rng = np.random.default_rng(0)
    scenes = sure_scenes(model, width, height)
    workers = {"hit": TimedWorker(model, STILL), "asked": TimedWorker(model, 0.0)}
    spent: dict[str, list[float]] = {"hit": [], "hit, from taking it up": [], "asked": []}
    for number in range(64 + rounds):
        noise = rng.integers(-4, 5, (height, width, 1), dtype=np.int16)
        image = np.clip(scenes[number % 64] + noise, 0, 255).astype(np.uint8)
        data = array.array("B", image.tobytes())
        for name, worker in workers.items():
            whole, worked = worker.show(data, width, height)
            if number >= 64:
                assert worker.aged == (name == "hit"), "the answer of a known scene was not used again"
                spent[name].append(whole)
                if name == "hit":
                    spent["hit, from taking it up"].append(worked)
    for worker in workers.values():
        worker.worker.stop()
        worker.worker.join()
    return {name: [1e3 * value for value in percentiles(values)] for name, values in spent.items()}
