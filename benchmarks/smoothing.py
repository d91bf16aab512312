"""Smoothing of labels: none, the majority of five frames, a majority by time, and the Bayesian filter.

    make bench-smoothing

A robot patrols rooms that no model was trained on. It drives at 0.3 m/s from one random place in sight to the next and
turns at 0.8 rad/s. Ten times a second the image is rendered, and the shipped nano model labels it. The geometry of the
simulation gives the true label. Each method smooths this stream with its default parameters, and the same stream at
1 Hz without three in ten frames. The columns are:

- flicker: changes of the label per minute, also to `unknown`, without a change of the truth,
- delay: the median time from a change of the truth to the first right label. It counts changes before and after which
  the truth lasted for `LASTS`,
- missed: the share of these changes that the label never followed,
- right and unknown: the shares of the time with the right label and with `unknown`.

`--sweep` tries other parameters of the two filters in other rooms, so that parameters are not judged on the rooms that
chose them. The result is written beside this file. Its last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from patrol import RATE, wander

from vlm_perception.models.loader import load_model
from vlm_perception.perception.smoothing import LabelSmoother, SmoothingSettings
from vlm_perception.questions import Choice
from vlm_perception.simulation import truth
from vlm_perception.simulation.room import make_room
from vlm_perception.simulation.world import World
from vlm_perception.tools.machine import describe
from vlm_perception.training.dataset import CALIBRATION_SEEDS, TEST_SEEDS
from vlm_perception.training.prompts import LABEL_PROMPT

SLOW_RATE, DROPPED = 1, 0.3
LASTS = 2.0
"""Time that the truth must last before and after a change [s]."""
SECOND = 1_000_000_000
UNKNOWN = SmoothingSettings().unknown
RESULT = Path(__file__).with_suffix(".md")


class Look(NamedTuple):
    """A moment of a patrol: `stamp` [ns], the model's `probabilities` of `truth.LABELS`, and the true label."""

    stamp: int
    probabilities: tuple[float, ...]
    label: str


# Recording


def record(seeds: Sequence[int], seconds: float) -> list[list[Look]]:
    """Return the stream of labels of a patrol in each of the rooms of `seeds`."""
    model = load_model("nano", "cpu")
    question = Choice(LABEL_PROMPT, truth.LABELS)
    streams = []
    for seed in seeds:
        room = make_room(seed)
        with World(room, 320, 240) as world:
            stream = []
            for n, (_, pose) in enumerate(wander(room, seconds)):
                world.place(pose)
                (answer,) = model.answer(world.image(), [question])
                stream.append(Look(n * SECOND // RATE, answer.probabilities, truth.label(room, pose)))
        streams.append(stream)
        print(f"room {seed}: {len(stream)} images, truth changes {len(stretches(stream)) - 1} times", flush=True)
    return streams


def slowed(stream: Sequence[Look], seed: int) -> list[Look]:
    """Return the looks of a camera at `SLOW_RATE` that loses the share `DROPPED` of them."""
    rng = np.random.default_rng((seed, 4))
    return [look for look in stream[:: RATE // SLOW_RATE] if rng.random() >= DROPPED]


# Methods: each takes a stream and returns its labels


def raw(stream: Sequence[Look]) -> list[str]:
    """Return the most probable label of each look."""
    return [truth.LABELS[int(np.argmax(look.probabilities))] for look in stream]


def majority_of_five(stream: Sequence[Look]) -> list[str]:
    """Return for each look the label that most of the last five frames have, at any distance in time."""
    recent: deque[str] = deque(maxlen=5)
    labels = []
    for label in raw(stream):
        recent.append(label)
        labels.append(Counter(recent).most_common(1)[0][0])
    return labels


def smoothed(settings: SmoothingSettings) -> Callable[[Sequence[Look]], list[str]]:
    """Return the method that smooths with `settings`."""

    def smooth(stream: Sequence[Look]) -> list[str]:
        smoother = LabelSmoother(truth.LABELS, settings)
        return [smoother.update(look.stamp, look.probabilities).label for look in stream]

    return smooth


METHODS = {
    "raw": raw,
    "majority of five frames": majority_of_five,
    "majority by time": smoothed(SmoothingSettings("majority")),
    "Bayesian filter": smoothed(SmoothingSettings("bayes")),
}


# Measuring


class Figures(NamedTuple):
    """`flicker` [1/min], `delay` [s]; the others are shares from 0 to 1."""

    flicker: float
    delay: float
    missed: float
    right: float
    unknown: float


def stretches(stream: Sequence[Look]) -> list[tuple[str, int, int]]:
    """Return (label, first, end) [ns] of each time in which the truth stays the same."""
    groups = itertools.groupby(stream, key=lambda look: look.label)
    starts = [(label, next(looks).stamp) for label, looks in groups]
    ends = [*(first for _, first in starts[1:]), stream[-1].stamp + SECOND // RATE]
    return [(label, first, end) for (label, first), end in zip(starts, ends, strict=True)]


def measure(method: Callable[[Sequence[Look]], list[str]], streams: Sequence[Sequence[Look]], slow: bool) -> Figures:
    """Judge `method` on all `streams` together. A label holds until the next one."""
    flicker, missed, total, right, unknown = 0, 0, 0, 0, 0
    delays: list[float] = []
    for number, stream in enumerate(streams):
        looks = slowed(stream, number) if slow else stream
        said = list(zip((look.stamp for look in looks), method(looks), strict=True))
        now, before = UNKNOWN, 0
        for label, first, end in stretches(stream):
            held = [(first, now), *(one for one in said if first <= one[0] < end)]
            now = held[-1][1]
            for (start, what), (stop, _) in zip(held, [*held[1:], (end, "")], strict=True):
                total += stop - start
                right += (stop - start) * (what == label)
                unknown += (stop - start) * (what == UNKNOWN)
            seen = next((stamp for stamp, what in held if what == label), None)
            changes = sum(one[1] != other[1] for one, other in itertools.pairwise(held))
            flicker += changes - (seen is not None and held[0][1] != label)  # one change follows the truth
            if min(end - first, before) >= LASTS * SECOND:
                if seen is None:
                    missed += 1
                else:
                    delays.append((seen - first) / SECOND)
            before = end - first
    return Figures(
        flicker / (total / SECOND / 60),
        statistics.median(delays),
        missed / (missed + len(delays)),
        right / total,
        unknown / total,
    )


# Telling


def table(streams: Sequence[Sequence[Look]], slow: bool) -> tuple[str, dict[str, Figures]]:
    """Return the figures of all methods, as a Markdown table and as values."""
    figures = {name: measure(method, streams, slow) for name, method in METHODS.items()}
    lines = [
        "| | flicker per minute | delay at a change | changes missed | right | unknown |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {f.flicker:.1f} | {f.delay:.1f} s | {f.missed:.0%} | {f.right:.1%} | {f.unknown:.1%} |"
        for name, f in figures.items()
    ]
    return "\n".join(lines), figures


def sweep(streams: Sequence[Sequence[Look]]) -> str:
    """Return the figures of other parameters, at both rates."""
    base = SmoothingSettings()
    tried = [replace(base, method="majority", window=window) for window in (0.5, 1.0, 1.5, 2.0, 3.0)]
    tried += [
        replace(base, evidence_time=evidence, change_rate=rate, enter_threshold=enter, leave_threshold=leave)
        for evidence in (0.1, 0.2, 0.3, 0.5)
        for rate in (0.1, 0.2, 0.5)
        for enter, leave in ((0.5, 0.3), (0.6, 0.4), (0.8, 0.4), (0.9, 0.5))
    ]
    tried += [replace(base, window=window) for window in (1.0, 3.0, 5.0)]
    lines = []
    for settings in tried:
        words = " ".join(f"{k}={v}" for k, v in vars(settings).items() if k != "unknown")
        for slow in (False, True):
            f = measure(smoothed(settings), streams, slow)
            lines.append(f"{SLOW_RATE if slow else RATE:2} Hz {words}: " + " ".join(f"{v:.3f}" for v in f))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=8, help="rooms to patrol (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=45.0, help="length of each patrol (default: %(default)s)")
    parser.add_argument("--sweep", action="store_true", help="try other parameters in other rooms")
    options = parser.parse_args()
    started, machine = time.monotonic(), describe()
    seeds = (CALIBRATION_SEEDS if options.sweep else TEST_SEEDS)[5000 : 5000 + options.rooms]
    streams = record(seeds, options.seconds)
    if options.sweep:
        print(sweep(streams))
        return
    changes = sum(len(stretches(stream)) - 1 for stream in streams)
    minutes = sum(len(stream) for stream in streams) / RATE / 60
    parts = [
        "# Smoothing of labels",
        f"`make bench-smoothing`: {options.rooms} rooms (seeds {seeds[0]} to {seeds[-1]}), {minutes:.0f} minutes of "
        f"patrol, {changes} true changes of the label ({changes / minutes:.1f} per minute). {'; '.join(machine)}; "
        f"{time.monotonic() - started:.0f} s.",
    ]
    keys: dict[str, float] = {}
    for slow, title in ((False, f"## {RATE} Hz"), (True, f"## {SLOW_RATE} Hz, {DROPPED:.0%} of the frames dropped")):
        words, figures = table(streams, slow)
        parts += [title, words]
        for name, key in (
            ("majority of five frames", "five"),
            ("majority by time", "majority"),
            ("Bayesian filter", "bayes"),
        ):
            for what in ("flicker", "delay", "right"):
                keys[f"{key}_{what}_{SLOW_RATE if slow else RATE}hz"] = round(getattr(figures[name], what), 3)
    result = "\n\n".join([*parts, f"```json\n{json.dumps(keys)}\n```"]) + "\n"
    RESULT.write_text(result, encoding="utf-8")
    print("\n\n".join(parts))
    print(json.dumps(keys))


if __name__ == "__main__":
    main()
