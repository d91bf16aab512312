"""Eight cameras in one batch, beside the same images one after the other.

    make bench-cameras

The images show rooms that no model was trained on. The models answer with the label of each. They are:

- the shipped nano model, with half of the cores, as in the classifier, and with all of them,
- a PaliGemma of 60 M parameters with random weights, which shows what limits a larger model,
- with a GPU, nano and a PaliGemma of the sizes of the published 3 B model.

The whole worker with eight cameras at 30 Hz is measured too. The sides take turns, round by round, and a ratio is the
median over the rounds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import array
import json
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from random_models import paligemma_3b, save_paligemma
from report import Report
from timing import race, stopwatch
from unseen_rooms import rooms

from vlm_perception.models.base import Model
from vlm_perception.models.loader import load_model
from vlm_perception.perception.camera import Camera
from vlm_perception.perception.frame import Frame
from vlm_perception.perception.inference import Job, OomBackoff, TextFailed, answer
from vlm_perception.perception.outputs import Failed, Fault, Label, Loaded, Output
from vlm_perception.perception.settings import DescriptionSettings, LabelSettings, Settings
from vlm_perception.perception.worker import Worker
from vlm_perception.questions import Answer, Choice, Question, Text
from vlm_perception.simulation import truth
from vlm_perception.tools.machine import describe
from vlm_perception.training.dataset import TEST_SEEDS
from vlm_perception.training.prompts import LABEL_PROMPT

CAMERAS = 8
LABEL = Choice(LABEL_PROMPT, truth.LABELS)
WORDS = Text("describe the scene", 24)


def ask(model: OomBackoff, images: Sequence[np.ndarray], question: Question) -> list[Answer]:
    """Ask `question` about all images, as the worker does."""
    jobs = [Job(Frame("", image, None, 0.0, 0.0), [question]) for image in images]
    answers: list[Answer] = []
    for _, result in answer(model, jobs):
        if isinstance(result, Exception):
            raise result
        if isinstance(result, TextFailed):
            raise result.error
        answers += result
    return answers


def compare(report: Report, what: str, model: Model, images: Sequence[np.ndarray], question: Question, rounds: int,
            aim: str = "") -> float:  # fmt: skip
    """Report how many times as fast one batch is as one image after the other; return that ratio."""
    backoff = OomBackoff(model, print)

    def one_by_one() -> None:
        for image in images:
            ask(backoff, [image.copy()], question)  # a copy is a new image: the model has kept nothing of it

    sides = {"alone": one_by_one, "batch": lambda: ask(backoff, [image.copy() for image in images], question)}
    t = race(rounds, sides)
    rate = len(images) / np.median(t["batch"])
    return report.row(what, t["alone"], t["batch"], aim, f"{rate:.1f} images/s")


def parts(model: Any, images: Sequence[np.ndarray], calls: int) -> dict[str, float]:
    """Return the CPU seconds of each part for one image, when one call is about all `images`; one thread."""
    stock = model._model
    spent: dict[str, list[float]] = {"pixels": [], "vision tower": [], "question and options": []}
    for _ in range(calls):
        with (
            stopwatch((model, "_encode")) as encode,
            stopwatch((stock, "get_image_features")) as tower,
            stopwatch((model, "_score")) as score,
        ):
            model.answer_batch([image.copy() for image in images], [LABEL])
        for name, seconds in zip(spent, (encode[0] - tower[0], tower[0], score[0]), strict=True):
            spent[name].append(seconds / len(images))
    return {name: float(np.median(seconds)) for name, seconds in spent.items()}


def say_parts(report: Report, model: Any, images: Sequence[np.ndarray], calls: int) -> None:
    """Report the CPU time of each part, of an image alone and in the batch."""
    alone, batch = parts(model, images[:1], calls), parts(model, images, calls)
    words = [f"{name} {alone[name] * 1e3:.1f} and {batch[name] * 1e3:.1f}" for name in batch]
    report.say(f"\nCPU time [ms] of an image alone and in the batch, one thread: {', '.join(words)}.")


def equality(model: Model, images: Sequence[np.ndarray]) -> tuple[bool, float]:
    """Return whether the batch gives the answers of each image alone, and the largest difference of a probability."""
    backoff = OomBackoff(model, print)
    same, largest = True, 0.0
    for start in range(0, len(images), CAMERAS):
        some = images[start : start + CAMERAS]
        for question in (LABEL, WORDS):
            for together, image in zip(ask(backoff, some, question), some, strict=True):
                (alone,) = ask(backoff, [image], question)
                same &= together.value == alone.value
                pairs = zip(together.probabilities, alone.probabilities, strict=True)
                largest = max([largest, *(abs(p - q) for p, q in pairs)])
    return same, largest


class Cameras:
    """A worker with eight cameras at 30 Hz, and a count of the labels of each."""

    def __init__(self, model: Model, images: Sequence[np.ndarray], max_batch: int) -> None:
        self.labels: Counter[str] = Counter()
        self._ready, self._stop = threading.Event(), threading.Event()
        self._images = [(image.shape, array.array("B", image.tobytes())) for image in images]
        settings = Settings(
            label=LabelSettings(LABEL.options, LABEL.prompt, rate=100.0),
            description=DescriptionSettings(rate=0.0),
            max_batch=max_batch,
        )
        cameras = [Camera(f"camera{number}", settings, time.time_ns) for number in range(CAMERAS)]
        self._worker = Worker(lambda: model, settings, cameras, self._take)
        self._feeder = threading.Thread(target=self._feed, args=(cameras,), daemon=True)

    def run(self, seconds: float) -> Counter[str]:
        """Return how many labels each camera got in `seconds`."""
        self._worker.look(True)
        self._worker.start()
        self._ready.wait()
        self._feeder.start()
        time.sleep(1.0)
        self.labels.clear()
        time.sleep(seconds)
        labels = Counter(self.labels)
        self._stop.set()
        self._worker.stop()
        self._feeder.join()
        self._worker.join()
        return labels

    def _feed(self, cameras: Sequence[Camera]) -> None:
        number = 0
        while not self._stop.wait(1 / 30 / CAMERAS):
            (height, width, _), data = self._images[number % len(self._images)]
            sec, nanosec = divmod(time.time_ns(), 1_000_000_000)
            header = SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id="")
            message = SimpleNamespace(header=header, height=height, width=width, step=3 * width, data=data)
            message.encoding, message.is_bigendian = "rgb8", 0
            cameras[number % len(cameras)].put(message)
            self._worker.wake()
            number += 1

    def _take(self, output: Output) -> None:
        if isinstance(output, Label):
            self.labels[output.frame.camera] += 1
        elif isinstance(output, Loaded):
            self._ready.set()
        elif isinstance(output, Failed):
            raise output.error
        elif isinstance(output, Fault):
            print(f"{output.camera}: {output.kind}: {output.error}")


def bench_worker(report: Report, model: Model, images: Sequence[np.ndarray], rounds: int, seconds: float) -> float:
    """Report the labels per second of all cameras, one at a time and in batches; return the ratio."""
    rates: dict[int, list[float]] = {1: [], CAMERAS: []}
    spread = []
    for _ in range(rounds):
        for most, found in rates.items():
            labels = Cameras(model, images, most).run(seconds)
            found.append(sum(labels.values()) / seconds)
            spread.append(min(labels.values()) / max(labels.values()))
    alone, together = (np.array(found) for found in rates.values())
    ratio = float(np.median(together / alone))
    report.say(
        f"\nThe worker, eight cameras of 640 x 480 at 30 Hz, decoding and smoothing included: {np.median(alone):.0f} "
        f"labels/s one at a time, {np.median(together):.0f} together, ratio {ratio:.2f}; the camera with the fewest "
        f"labels got {min(spread):.0%} of those of the camera with the most."
    )
    return round(ratio, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    arguments = parser.parse_args()
    cores = os.cpu_count() or 1
    half = max(1, cores // 2)  # as in the classifier
    rounds, few = arguments.rounds, max(2, arguments.rounds // 4)
    seeds = range(TEST_SEEDS.start, TEST_SEEDS.start + 4)
    images = [np.ascontiguousarray(image) for image, _ in rooms(seeds)]
    eight = images[:: len(images) // CAMERAS][:CAMERAS]
    report = Report()
    report.say("# Eight cameras in one batch, beside one after the other\n")
    report.say("Written by `make bench-cameras`, see `cameras.py`.\n")
    for line in describe():
        report.say(f"- {line}")
    report.say("\n## On the CPU\n")
    report.say("| eight images | one by one [ms] | batch [ms] | ratio | aim | |\n| --- | --- | --- | --- | --- | --- |")
    nano = load_model("nano", "cpu", "float32")
    torch.set_num_threads(half)
    found = {
        "eight_cameras_ratio": compare(report, f"nano, labels, {half} threads", nano, eight, LABEL, rounds, ">= 1.2")
    }
    found["descriptions_ratio"] = compare(
        report, f"nano, descriptions, {half} threads", nano, eight, WORDS, few, ">= 1"
    )
    torch.set_num_threads(cores)
    found["all_cores_ratio"] = compare(report, f"nano, labels, {cores} threads", nano, eight, LABEL, rounds, ">= 1")
    with tempfile.TemporaryDirectory() as folder:
        large = load_model(str(save_paligemma(Path(folder), 384)), "cpu", "float32")
        found["larger_model_ratio"] = compare(
            report, f"{large.describe_self()['parameters']}, labels, {cores} threads", large, eight, LABEL, few, ">= 1"
        )
    torch.set_num_threads(1)
    say_parts(report, nano, eight, rounds)
    say_parts(report, large, eight, 2)
    del large
    torch.set_num_threads(half)
    found["worker_ratio"] = bench_worker(report, nano, eight, 3, 4.0)
    equal, largest = equality(nano, images)
    report.say(
        f"\nOf {len(images)} images, {'every' if equal else 'NOT every'} label and description is the same in a "
        f"batch and alone; probabilities differ by at most {largest:.0e}."
    )
    if torch.cuda.is_available():
        found |= bench_gpu(report, eight, rounds)
    line = json.dumps(found | {"answers_equal": equal, "largest_difference": float(f"{largest:.1e}")})
    report.say(f"\n{line}")
    arguments.output.write_text("\n".join(report.lines) + "\n", encoding="utf-8")


def bench_gpu(report: Report, images: Sequence[np.ndarray], rounds: int) -> dict[str, float]:
    """Report nano and a PaliGemma of 3 B parameters on the GPU; return their ratios."""
    report.say(f"\n## {torch.cuda.get_device_name()}\n")
    report.say("| eight images | one by one [ms] | batch [ms] | ratio | aim | |\n| --- | --- | --- | --- | --- | --- |")
    nano = compare(report, "nano, labels", load_model("nano", "cuda"), images, LABEL, rounds, ">= 3")
    large = compare(report, "PaliGemma 3 B at 224, bfloat16, labels", paligemma_3b(224), images, LABEL, rounds, ">= 3")
    return {"gpu_nano_ratio": nano, "gpu_3b_ratio": large}


if __name__ == "__main__":
    main()
