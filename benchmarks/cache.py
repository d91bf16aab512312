"""Answers of an unchanged scene used again: how often, how often wrongly, how fast; and regions that follow what moves.

    make bench-cache

A guard robot patrols rooms that no model was trained on: it drives at 0.3 m/s and turns at 0.8 rad/s from one place to
the next, stands at each for 8 s and looks, and comes back along the same way, a few centimetres beside it. Ten
times a second the image is rendered with the noise and flicker of a camera, the shipped nano model labels it, and the
simulation's geometry gives the true label. Then all is played back through the memory of answers, with several
thresholds.

- hits: share of the images whose label was an earlier answer; also while standing, driving and turning alone,
- false: share of these whose own label, which the model was asked for here all the same, is another one,
- wrong: share of all images whose label is not the true one, and in brackets the same of the uncached run; raw,
  and as smoothed with the default parameters.

Beside it the usual perceptual hashes of the whole image, at the threshold with the nearest share of hits.

A camera that stands still watches a room, through which something is pushed: how often the answer is used again while
nothing moves, and whether the region holds what does. Last, one real worker with memory and one without take
turns: the time from an image's message to its label is measured.

The result goes to the folder of this file; its last line is JSON.
"""

from __future__ import annotations

import argparse
import array
import json
import math
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import cv2
import numpy as np
from patrol import RATE, to_and_fro

from vlm_perception.models.base import Model
from vlm_perception.models.loader import load_model
from vlm_perception.perception.answer_cache import AnswerCache, CacheSettings
from vlm_perception.perception.camera import Camera
from vlm_perception.perception.outputs import Failed, Fault, Label, Output
from vlm_perception.perception.region import Motion
from vlm_perception.perception.settings import DescriptionSettings, LabelSettings, Settings
from vlm_perception.perception.smoothing import LabelSmoother, SmoothingSettings
from vlm_perception.perception.trace import percentiles
from vlm_perception.perception.worker import Worker
from vlm_perception.questions import Answer, Choice, Question, Text
from vlm_perception.simulation import truth
from vlm_perception.simulation.room import RobotPose, Thing, make_room
from vlm_perception.simulation.world import World
from vlm_perception.tools.machine import describe
from vlm_perception.training.dataset import CALIBRATION_SEEDS, TEST_SEEDS
from vlm_perception.training.prompts import DESCRIPTION_PROMPT, LABEL_PROMPT

WORDS_EVERY = 20  # images, as by the default description_rate
NOISE, FLICKER = 4.0, 0.003  # standard deviations: of a pixel, of the brightness of all
KEPT = (64, 48)  # so small an image is enough to make thumbnails of
THRESHOLDS = (8, 16, 24, 32, 40, 48, 56, 64)
THRESHOLD = 48
"""The one that is recommended for a robot that patrols; chosen in other rooms than those of the tables (`--choose`)."""
STILL = 24
"""The threshold for a camera that stands still."""
PUSHED = 0.1  # [m] from one image to the next
AHEAD = 1.6  # [m]
LABEL = Choice(LABEL_PROMPT, truth.LABELS)
WORDS = Text(DESCRIPTION_PROMPT, 40)
RESULT = Path(__file__).with_suffix(".md")


class Look(NamedTuple):
    """A moment of a patrol: what the robot does, the true label, the image, the model's answers.

    `again` are its words about another image from the same place.
    """

    at: float
    phase: str
    truth: str
    image: np.ndarray
    label: Answer
    words: Answer | None
    again: Answer | None


# Recording


class NoisyCamera:
    """Makes of a rendered image what a camera would deliver: with noise in every pixel and a little flicker."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng((seed, 5))
        self._noise = self._rng.normal(0, NOISE, (304, 384, 3)).astype(np.float32)

    def sees(self, image: np.ndarray) -> np.ndarray:
        x, y = self._rng.integers(0, 64, 2)
        light = np.float32(1 + self._rng.normal(0, FLICKER))
        noise = self._noise[y : y + image.shape[0], x : x + image.shape[1]]
        return np.clip(image * light + noise, 0, 255).astype(np.uint8)


def record(model: Model, seeds: Sequence[int], seconds: float) -> list[list[Look]]:
    """The patrols through the rooms of `seeds`."""
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


# Playing back


class Mean(AnswerCache):
    """By the mean difference of the same thumbnails."""

    NORM = cv2.NORM_L1


class DifferenceHash(AnswerCache):
    """dHash: whether each of 8 x 8 cells is brighter than its neighbour."""

    NORM = cv2.NORM_L1

    def _thumbnail(self, image: np.ndarray) -> np.ndarray:
        cells = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
        return (cells[:, 1:] > cells[:, :-1]).astype(np.uint8)


class FrequencyHash(AnswerCache):
    """pHash: whether each of the 8 x 8 lowest frequencies is above their median."""

    NORM = cv2.NORM_L1

    def _thumbnail(self, image: np.ndarray) -> np.ndarray:
        cells = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
        low = cv2.dct(cells.astype(np.float32))[:8, :8]
        return (low > np.median(low)).astype(np.uint8)


OTHERS: dict[str, tuple[type[AnswerCache], Sequence[float]]] = {
    "mean difference": (Mean, [16 * 12 * 3 * mean for mean in (2, 3, 4, 6)]),
    "dHash": (DifferenceHash, (2, 4, 6, 8)),
    "pHash": (FrequencyHash, (2, 4, 6, 8)),
}


class Figures(NamedTuple):
    """Shares from 0 to 1, see the module; `shares` of hits by phase."""

    hits: float
    shares: dict[str, float]
    false: float
    wrong: float
    wrong_uncached: float
    smoothed: float
    smoothed_uncached: float


def play(streams: Sequence[Sequence[Look]], kind: type[AnswerCache], settings: CacheSettings) -> Figures:
    """Play the patrols back through a memory of this `kind`."""
    seen: list[tuple[str, bool, bool]] = []
    wrong = []
    for stream in streams:
        memory = kind(settings)
        smoothers = [LabelSmoother(truth.LABELS, SmoothingSettings()) for _ in range(2)]
        for look in stream:
            found = memory.find(LABEL, look.image, look.at)
            if found is None:
                memory.keep(LABEL, look.image, look.label, look.at)
            answers = (found or look.label, look.label)
            stamp = round(look.at * 1e9)
            labels = [
                smoother.update(stamp, answer.probabilities).label
                for smoother, answer in zip(smoothers, answers, strict=True)
            ]
            seen.append((look.phase, found is not None, answers[0].value != look.label.value))
            wrong.append([answer.value != look.truth for answer in answers] + [label != look.truth for label in labels])
    rates = np.mean(wrong, axis=0)
    hits = [false for _, hit, false in seen if hit]
    return Figures(
        len(hits) / len(seen),
        {phase: _share([hit for p, hit, _ in seen if p == phase]) for phase in ("standing", "driving", "turning")},
        _share(hits),
        *(float(rates[column]) for column in (0, 1, 2, 3)),
    )


def play_words(streams: Sequence[Sequence[Look]]) -> tuple[float, float, float]:
    """Return three shares of the descriptions.

    Those that are used again, those of these that would be others, and those of two images from the same place that
    differ.
    """
    hits, false, same_place = [], [], []
    for stream in streams:
        memory = AnswerCache(CacheSettings(THRESHOLD, refresh=2.5 * WORDS_EVERY / RATE))
        for look in stream:
            if look.words and look.again:
                found = memory.find(WORDS, look.image, look.at)
                if found is None:
                    memory.keep(WORDS, look.image, look.words, look.at)
                else:
                    false.append(found.value != look.words.value)
                hits.append(found is not None)
                same_place.append(look.again.value != look.words.value)
    return _share(hits), _share(false), _share(same_place)


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0


# A camera that stands still


class Watch(NamedTuple):
    """What a patrol with a moving thing gave, as shares from 0 to 1.

    Hits while nothing moves and false ones; images with motion whose region holds at least 95 % of it; still images
    without a region. The median area of a region is a share of the image; `larger` is how many times larger the thing
    is for the model.
    """

    hits: float
    false: float
    held: float
    whole: float
    area: float
    larger: float


def watch(model: Model, seeds: Sequence[int]) -> Watch:
    """Something is pushed through each room, from the right to the left, between two times of rest."""
    hits, false, held, whole, areas, larger = [], [], [], [], [], []
    for seed in seeds:
        room, camera = make_room(seed), NoisyCamera(seed)
        pose, memory, motion = room.start, AnswerCache(CacheSettings(STILL)), Motion()
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
            found = memory.find(LABEL, image, number / RATE)
            if found is None:
                memory.keep(LABEL, image, label, number / RATE)
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
        _share(hits), _share(false), _share(held), _share(whole), statistics.median(areas), statistics.median(larger)
    )


def _ahead(thing: Thing, pose: RobotPose, aside: float) -> Thing:
    """The `thing` where the camera looks, so far to the left [m]."""
    c, s = math.cos(pose.yaw), math.sin(pose.yaw)
    return replace(thing, x=pose.x + AHEAD * c - aside * s, y=pose.y + AHEAD * s + aside * c)


# The time of a hit


class Timed:
    """A worker that labels every image.

    `show` returns the times [s] until the label is told: from the message that is put, and from when the image is taken
    up. `aged` is whether an earlier answer was used.
    """

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
    """Images of rooms about whose label the model is sure."""
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
    """Milliseconds from the message to the label of the same scene, with memory and without: p50, p95, p99."""
    rng = np.random.default_rng(0)
    scenes = sure_scenes(model, width, height)
    workers = {"hit": Timed(model, STILL), "asked": Timed(model, 0.0)}
    spent: dict[str, list[float]] = {"hit": [], "hit, from taking it up": [], "asked": []}
    for number in range(64 + rounds):
        noise = rng.integers(-4, 5, (height, width, 1), dtype=np.int16)
        image = np.clip(scenes[number % 64] + noise, 0, 255).astype(np.uint8)
        data = array.array("B", image.tobytes())
        for name, worker in workers.items():
            whole, worked = worker.show(data, width, height)
            if number >= 64:
                assert worker.aged == (name == "hit"), "a scene was not recognised"
                spent[name].append(whole)
                if name == "hit":
                    spent["hit, from taking it up"].append(worked)
    for worker in workers.values():
        worker.worker.stop()
        worker.worker.join()
    return {name: [1e3 * value for value in percentiles(values)] for name, values in spent.items()}


# Telling

HEAD = "| | hits | standing | driving | turning | false | wrong (uncached) | smoothed, wrong (uncached) |"
RULE = "| --- | --- | --- | --- | --- | --- | --- | --- |"


def row(name: str, f: Figures) -> str:
    shares = " | ".join(f"{share:.0%}" for share in f.shares.values())
    return (
        f"| {name} | {f.hits:.1%} | {shares} | {f.false:.2%} | {f.wrong:.2%} ({f.wrong_uncached:.2%}) "
        f"| {f.smoothed:.2%} ({f.smoothed_uncached:.2%}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=8, help="rooms to patrol (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="in each of them (default: %(default)s)")
    parser.add_argument("--choose", action="store_true", help="other rooms, to choose a threshold by; writes no result")
    options = parser.parse_args()
    started, machine = time.monotonic(), describe()
    model = load_model("nano", "cpu")
    seeds = (CALIBRATION_SEEDS if options.choose else TEST_SEEDS)[5200 : 5200 + options.rooms]
    streams = record(model, seeds, options.seconds)
    found = {threshold: play(streams, AnswerCache, CacheSettings(threshold)) for threshold in THRESHOLDS}
    rows = [row(f"threshold {threshold}", f) for threshold, f in found.items()]
    newest = play(streams, AnswerCache, CacheSettings(THRESHOLD, scenes=1))
    rows.append(row(f"threshold {THRESHOLD}, `reuse_scenes` 1", newest))
    best = found[THRESHOLD]
    for name, (kind, thresholds) in OTHERS.items():
        tried = [(f"{name}, {t:g}", play(streams, kind, CacheSettings(t))) for t in thresholds]
        rows.append(row(*min(tried, key=lambda pair: abs(pair[1].hits - best.hits))))
    table = "\n".join([HEAD, RULE, *rows])
    if options.choose:
        print(table)
        return
    words = play_words(streams)
    watched = watch(model, TEST_SEEDS[5300:5303])
    spent = {f"{w}x{h}": times(model, w, h, 150) for w, h in ((640, 480), (1280, 720))}
    images = sum(len(stream) for stream in streams)
    standing = _share([look.phase == "standing" for stream in streams for look in stream])
    lines = [
        "| | p50 | p95 | p99 |",
        "| --- | --- | --- | --- |",
        *(
            f"| {size}, {name} | " + " | ".join(f"{value:.2f} ms" for value in values) + " |"
            for size, rows_ in spent.items()
            for name, values in rows_.items()
        ),
    ]
    keys = {
        "threshold": THRESHOLD,
        "hit_rate": round(best.hits, 4),
        "false_hit_rate": round(best.false, 5),
        "label_error": round(best.wrong, 5),
        "label_error_uncached": round(best.wrong_uncached, 5),
        "smoothed_error": round(best.smoothed, 5),
        "smoothed_error_uncached": round(best.smoothed_uncached, 5),
        "false_hit_rate_by_threshold": {str(t): round(f.false, 5) for t, f in found.items()},
        "hit_rate_by_threshold": {str(t): round(f.hits, 4) for t, f in found.items()},
        "hit_ms": {size: round(rows_["hit"][0], 3) for size, rows_ in spent.items()},
        "hit_in_worker_ms": {size: round(rows_["hit, from taking it up"][0], 3) for size, rows_ in spent.items()},
        "asked_ms": {size: round(rows_["asked"][0], 3) for size, rows_ in spent.items()},
        "fixed_camera_hit_rate": round(watched.hits, 4),
        "region_holds_motion": round(watched.held, 4),
        "region_area": round(watched.area, 4),
    }
    parts = [
        "# Answers used again, and regions",
        f"`make bench-cache`: {options.rooms} rooms (seeds {seeds[0]} to {seeds[-1]}), {images} images in "
        f"{images / RATE / 60:.1f} minutes of patrol, {standing:.0%} of them while standing. What the columns mean: "
        "see [cache.py](cache.py).",
        "\n".join(f"- {line}" for line in [*machine, f"{time.monotonic() - started:.0f} s in all"]),
        "## A robot on patrol",
        table,
        f"At threshold {THRESHOLD}, {words[0]:.0%} of the descriptions (one every {WORDS_EVERY / RATE:g} s) are used "
        f"again; of these, {words[1]:.0%} would have other words. Of two images from the very same place, "
        f"{words[2]:.0%} are described with other words.",
        "## A camera that stands still",
        f"At threshold {STILL}, {watched.hits:.0%} of the labels while nothing moves are earlier answers, "
        f"{watched.false:.1%} of all hits false. The region holds what moves in {watched.held:.1%} of the images "
        f"with motion; in {watched.whole:.0%} of those without, the whole image is looked at. "
        f"A region is {watched.area:.0%} of the image (median), so that what moves is {watched.larger:.1f} times as "
        "large for the model.",
        "## Time from an image's message to its label",
        "\n".join(lines),
        f"```json\n{json.dumps(keys)}\n```",
    ]
    RESULT.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print("\n\n".join(parts[:-1]))
    print(json.dumps(keys))


if __name__ == "__main__":
    main()
