"""The way of a frame: images that are lost, their age when the model takes them, and the processor time they cost.

    make bench-frames

A process publishes images of 1280x720 pixels, 30 per second, best effort, to the real classifier. The model is always
busy: after each label it takes the newest image. Three ways take turns:

- with the Fast DDS profile that the launch files and commands set,
- without it, in both processes,
- with the profile, but the classifier gives freed memory back to the system, as the C library does by default.

An image is lost if it was published and did not reach the classifier's callback, as its stamp shows. The age of an
image is the time from its stamp until the model took it. Both are read from the classifier's trace file. The callback
is timed around what rclpy calls with an image. Processor times come from the system: for each image, those of the
thread that takes messages and runs all callbacks; as a share of one core, those of this thread and the middleware's;
those of the whole process.

Then each step is timed alone. The nano model labels images of rooms that it was not trained on, with and without the
halving before its processor.

Last, the whole loop runs in the simulator, with a camera at 30 Hz and all other defaults. The robot searches for a
target that is not there. Every image should get both its label and the answers that the navigator asks for.

The result is written beside this file. Its last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frames_loop import answered
from frames_processes import HEIGHT, RATE, WIDTH, started
from frames_steps import images_of, steps

from vlm_perception.perception.trace import percentiles
from vlm_perception.tools.environment import prepare_environment
from vlm_perception.tools.machine import describe

SETTLE = 3.0
"""From the first answer until the measurement [s]."""
PATIENCE = 120.0
"""Longest time until the first answer [s]."""
PROFILE = "FASTRTPS_DEFAULT_PROFILES_FILE"
WAYS = {"shared memory": "shm", "without the profile": "default", "memory given back": "given_back"}
RESULT = Path(__file__).with_suffix(".md")


@dataclass(frozen=True)
class Figures:
    """Figures of one run. The shares are of one core."""

    lost_percent: float
    age_p50_ms: float
    age_p95_ms: float
    callback_p50_ms: float
    callback_p95_ms: float
    taking_ms: float
    own_share: float
    share: float
    labels_per_s: float


# Measuring


def processor_times(pid: int) -> dict[tuple[int, str], float]:
    """Return the processor time of each thread [s], by its number and name."""
    times = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name, spent = (task / "comm").read_text().strip(), (task / "schedstat").read_text().split()[0]
        except OSError:
            continue  # the thread has ended
        times[int(task.name), name] = int(spent) * 1e-9
    return times


def events_of(trace: Path) -> list[dict[str, Any]]:
    """Return the events that a running classifier has written so far."""
    lines = trace.read_text().splitlines() if trace.exists() else []
    return [json.loads(line.rstrip(",")) for line in lines if line.startswith("{") and line.rstrip(",").endswith("}")]


def measure(way: str, seconds: float, folder: Path) -> Figures:
    """Run both processes for so many `seconds`; `way` is one of `WAYS`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if way == "without the profile":
        del environment[PROFILE]
    stamps, calls, trace = folder / "stamps.json", folder / "calls.json", folder / "trace.json"
    trace.unlink(missing_ok=True)
    options = ["--ros-args", "-p", f"trace_file:={trace}", "-p", "label.rate:=100.0", "-p", "description.rate:=0.0"]
    node = ["--classify", str(calls), *(["--give-back"] if way == "memory given back" else []), *options]
    camera = started(["--publish", str(stamps)], environment, folder / "camera.log")
    with started(node, environment, folder / "classifier.log") as classifier, camera:
        end = time.monotonic() + PATIENCE
        while not any(event["name"] == "publish" for event in events_of(trace)):
            if time.monotonic() > end or classifier.poll() is not None:
                raise RuntimeError(
                    f"the classifier published no label. Its log:\n{(folder / 'classifier.log').read_text()[-2000:]}"
                )
            time.sleep(0.2)
        time.sleep(SETTLE)
        since, before = time.time_ns(), processor_times(classifier.pid)
        began = time.monotonic()
        time.sleep(seconds)
        until, after = time.time_ns(), processor_times(classifier.pid)
        ended = time.monotonic()
        time.sleep(0.5)  # images that are still on their way
        clocks = time.time() - time.monotonic()
    events = [event for event in events_of(trace) if event["ph"] != "M"]
    came = {event["args"]["stamp"] for event in events if event["name"] == "received"}
    sent = [stamp for stamp in json.loads(stamps.read_text()) if since <= stamp < until]
    taken = {e["args"]["stamp"]: (e["ts"] + e["dur"]) * 1e-6 + clocks for e in events if e["name"] == "wait"}
    ages = [1e3 * (at - stamp * 1e-9) for stamp, at in taken.items() if since <= stamp < until]
    called = [1e3 * seconds for at, seconds in json.loads(calls.read_text()) if began <= at < ended]
    spent = {thread: after[thread] - before.get(thread, 0.0) for thread in after}
    callbacks = sum(seconds for (number, _), seconds in spent.items() if number == classifier.pid)
    middleware = sum(seconds for (_, name), seconds in spent.items() if name.startswith("dds."))
    received = sum(since <= stamp < until for stamp in came)
    labels = sum(e["name"] == "answer" and began <= e["ts"] * 1e-6 < ended for e in events)
    return Figures(
        lost_percent=100 * sum(stamp not in came for stamp in sent) / len(sent),
        age_p50_ms=percentiles(ages)[0],
        age_p95_ms=percentiles(ages)[1],
        callback_p50_ms=percentiles(called)[0],
        callback_p95_ms=percentiles(called)[1],
        taking_ms=1e3 * callbacks / max(1, received),
        own_share=(callbacks + middleware) / (ended - began),
        share=sum(spent.values()) / (ended - began),
        labels_per_s=labels / (ended - began),
    )


# Telling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each way (default: %(default)s)")
    parser.add_argument(
        "--rooms", type=int, default=10, help="rooms whose images go through the steps (default: %(default)s)"
    )
    options = parser.parse_args()
    machine = describe(1)
    prepare_environment()
    runs: dict[str, list[Figures]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for way in WAYS:
                runs[way].append(measure(way, options.seconds, Path(folder)))
                print(f"{way}: {runs[way][-1]}", flush=True)
        loop = [answered(RATE, options.seconds, Path(folder)) for _ in range(options.rounds)]
    times, agreement = steps(images_of(options.rooms))
    middle = {way: _middle(runs[way]) for way in WAYS}
    parts = [
        "# The way of a frame",
        f"`make bench-frames`: {WIDTH}x{HEIGHT} rgb8, {RATE} Hz, best effort; the nano model always busy; "
        f"{options.rounds} runs of {options.seconds:g} s of each way, their median. {'; '.join(machine)}.",
        table(middle),
        "Aims with the profile: less than 1 % lost, age when taken at most 50 ms in 95 % of cases, callback at most "
        "1 ms.",
        "## The steps alone",
        "| step | median |\n| --- | --- |\n" + "\n".join(f"| {name} | {ms:.2f} ms |" for name, ms in times.items()),
        f"{agreement['same_labels']} of {agreement['images']} images get the same label with and without halving, "
        f"the largest difference of a probability is {agreement['largest_difference']:.3f}.",
        "## The whole loop",
        f"Simulator at {RATE} Hz, 640x480, 4 samples a pixel, on the same machine: "
        f"{' and '.join(f'{n:.1f}' for n in loop)} images per second get both their label and the answers of a search "
        "(aim: 25).",
    ]
    keys = {
        f"{WAYS[way]}_{name}": round(value, 3)
        for way, figures in middle.items()
        for name, value in vars(figures).items()
    }
    keys["answered_images_per_s"] = round(statistics.median(loop), 2)
    keys |= {f"halving_{name}": round(value, 4) for name, value in agreement.items()}
    RESULT.write_text("\n\n".join([*parts, f"```json\n{json.dumps(keys)}\n```"]) + "\n", encoding="utf-8")
    print("\n\n".join(parts))
    print(json.dumps(keys))


def _middle(runs: list[Figures]) -> Figures:
    return Figures(**{name: statistics.median(getattr(run, name) for run in runs) for name in vars(runs[0])})


def table(middle: dict[str, Figures]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| | lost | age when taken, p50 / p95 | callback, p50 / p95 | taking thread | with the middleware | whole node "
        "| labels |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {way} | {f.lost_percent:.1f} % | {f.age_p50_ms:.0f} / {f.age_p95_ms:.0f} ms | {f.callback_p50_ms:.2f} / "
        f"{f.callback_p95_ms:.2f} ms | {f.taking_ms:.2f} ms an image | {f.own_share:.0%} of a core | {f.share:.0%} | "
        f"{f.labels_per_s:.0f}/s |"
        for way, f in middle.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
