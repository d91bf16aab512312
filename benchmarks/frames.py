"""The way of a frame: what is lost of a camera's images, how old they are when they are taken, what they cost.

    make bench-frames

A process publishes images of 1280x720 pixels, 30 a second, best effort, to the real classifier, whose model is busy
all the time: it labels whatever is the newest image when it is done with the one before. Three ways take turns:

- with the Fast DDS profile that the launch files and commands set,
- without it, in both processes,
- with the profile, but the classifier gives freed memory back to the system, as the C library does by itself.

Lost is what was published and did not come to the classifier's callback, by the stamps. The age of an image is the
time from its stamp to when the model took it. Both are read from the classifier's trace file. The callback is timed
around what rclpy calls with an image. Processor times are the system's: of the thread that takes
messages and runs all callbacks, for each image; of this thread and the middleware's, as a share of one core; of all.

Then each step is timed alone, and the nano model labels images of rooms that it was not trained on as they are shown
to it and as they would be if they were not halved before its processor squashes them.

Last, the whole loop: in the simulator, whose camera is as it is by default but at 30 Hz, the robot searches for what is
not there, and every image is to get both its label and the answers that the navigator asks for.

The result goes to the folder of this file; its last line is JSON.
"""

from __future__ import annotations

import argparse
import array
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vlm_perception.perception.trace import percentiles
from vlm_perception.questions import Answer, Choice
from vlm_perception.tools.environment import prepare_environment
from vlm_perception.tools.machine import describe
from vlm_perception.training.dataset import TEST_SEEDS
from vlm_perception.training.prompts import LABEL_PROMPT

WIDTH, HEIGHT, RATE = 1280, 720, 30
SETTLE = 3.0
"""From the first answer until it is measured [s]."""
PATIENCE = 120.0
"""For the first answer [s]."""
PROFILE = "FASTRTPS_DEFAULT_PROFILES_FILE"
WAYS = {"shared memory": "shm", "without the profile": "default", "memory given back": "given_back"}
RESULT = Path(__file__).with_suffix(".md")


@dataclass(frozen=True)
class Figures:
    """Of one run; the shares are of one core."""

    lost_percent: float
    age_p50_ms: float
    age_p95_ms: float
    callback_p50_ms: float
    callback_p95_ms: float
    taking_ms: float
    own_share: float
    share: float
    labels_per_s: float


# The processes


def publish(stamps: Path) -> int:
    """The camera: publish until SIGTERM, and write when each image was stamped [ns]."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from rclpy.signals import SignalHandlerOptions
    from sensor_msgs.msg import Image

    from vlm_perception.nodes.run import keep_freed_memory
    from vlm_perception.simulation.room import RobotPose, make_room
    from vlm_perception.simulation.world import World

    keep_freed_memory()
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    room = make_room(1)
    with World(room, WIDTH, HEIGHT, 0) as world:
        images = []
        for step in range(RATE):
            world.place(RobotPose(room.start.x, room.start.y, math.tau * step / RATE))
            images.append(array.array("B", world.image().tobytes()))
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("benchmark_camera")
    publisher = node.create_publisher(Image, "camera/image_raw", qos_profile_sensor_data)
    sent: list[int] = []
    due = time.monotonic()
    while not stop:
        message = Image(width=WIDTH, height=HEIGHT, step=3 * WIDTH, encoding="rgb8")
        message.data = images[len(sent) % len(images)]
        now = node.get_clock().now()
        message.header.stamp = now.to_msg()
        publisher.publish(message)
        sent.append(now.nanoseconds)
        due = max(due + 1 / RATE, time.monotonic())
        time.sleep(due - time.monotonic() if due > time.monotonic() else 0.0)
    stamps.write_text(json.dumps(sent))
    return 0


def classify(calls: Path, give_back: bool) -> int:
    """The classifier, as its executable starts it; writes when its callback was called, and for how long [s]."""
    from vlm_perception.nodes import classifier, run
    from vlm_perception.perception.camera import Camera

    if give_back:
        run.KEPT.clear()
    timed: list[tuple[float, float]] = []
    put = Camera.put

    def timed_put(camera: Camera, message: Any) -> Any:
        began = time.monotonic()
        problem = put(camera, message)
        timed.append((began, time.monotonic() - began))
        return problem

    Camera.put = timed_put  # type: ignore[method-assign, assignment]
    code = classifier.main()
    calls.write_text(json.dumps(timed))
    return code


@contextmanager
def started(arguments: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen]:
    """This file as another process, ended politely."""
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, __file__, *arguments], env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


# Measuring


def processor_times(pid: int) -> dict[tuple[int, str], float]:
    """Seconds that each thread, by its number and name, has had a processor."""
    times = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name, spent = (task / "comm").read_text().strip(), (task / "schedstat").read_text().split()[0]
        except OSError:
            continue  # it has ended
        times[int(task.name), name] = int(spent) * 1e-9
    return times


def events_of(trace: Path) -> list[dict[str, Any]]:
    """What a running classifier has written so far."""
    lines = trace.read_text().splitlines() if trace.exists() else []
    return [json.loads(line.rstrip(",")) for line in lines if line.startswith("{") and line.rstrip(",").endswith("}")]


def measure(way: str, seconds: float, folder: Path) -> Figures:
    """One run of both processes."""
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
                raise RuntimeError(f"no label came, the logs are:\n{(folder / 'classifier.log').read_text()[-2000:]}")
            time.sleep(0.2)
        time.sleep(SETTLE)
        since, before = time.time_ns(), processor_times(classifier.pid)
        began = time.monotonic()
        time.sleep(seconds)
        until, after = time.time_ns(), processor_times(classifier.pid)
        ended = time.monotonic()
        time.sleep(0.5)  # what is still on its way
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


# The steps alone


def answered(seconds: float, logs: Path) -> float:
    """Images a second that got their label and what the navigator asks, rendering included."""
    import rclpy

    from vlm_perception.msg import SceneLabel, TargetSighting
    from vlm_perception.perception.frames import nanoseconds
    from vlm_perception.simulation.room import make_room
    from vlm_perception.tools.episode import Spectator, choose_target
    from vlm_perception.tools.stack import Stack

    seed = TEST_SEEDS[0]
    parameters: dict[str, dict[str, object]] = {
        "simulator": {"camera_rate": float(RATE), "seed": seed},
        "classifier": {"label.rate": float(RATE), "description.rate": 0.0},
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


def images_of(rooms: int) -> list[np.ndarray]:
    """Views of rooms that the nano model was not trained on."""
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
    """Milliseconds of each step (the median of all images), and how far halving changes the labels."""
    import torch
    from rclpy.serialization import deserialize_message, serialize_message
    from sensor_msgs.msg import CompressedImage, Image

    from vlm_perception.models import image_size
    from vlm_perception.models.loader import load_model
    from vlm_perception.perception.frames import decode
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
        timed("the same as the one before?", np.array_equal, image, rgb)
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


# Telling


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each way (default: %(default)s)")
    parser.add_argument("--rooms", type=int, default=10, help="of the images of the steps (default: %(default)s)")
    parser.add_argument("--publish", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--classify", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--give-back", action="store_true", help=argparse.SUPPRESS)
    options, _ = parser.parse_known_args()
    if options.publish:
        return publish(options.publish)
    if options.classify:
        return classify(options.classify, options.give_back)
    machine = describe(1)
    prepare_environment()
    runs: dict[str, list[Figures]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for way in WAYS:
                runs[way].append(measure(way, options.seconds, Path(folder)))
                print(f"{way}: {runs[way][-1]}", flush=True)
        loop = [answered(options.seconds, Path(folder)) for _ in range(options.rounds)]
    times, agreement = steps(images_of(options.rooms))
    middle = {way: _middle(runs[way]) for way in WAYS}
    parts = [
        "# The way of a frame",
        f"`make bench-frames`: {WIDTH}x{HEIGHT} rgb8, {RATE} Hz, best effort; the nano model busy all the time; "
        f"{options.rounds} runs of {options.seconds:g} s of each way, their median. {'; '.join(machine)}.",
        table(middle),
        "Aimed at, with the profile: less than 1 % lost, age when taken at most 50 ms in 95 % of cases, callback at "
        "most 1 ms.",
        "## The steps alone",
        "| step | median |\n| --- | --- |\n" + "\n".join(f"| {name} | {ms:.2f} ms |" for name, ms in times.items()),
        f"{agreement['same_labels']} of {agreement['images']} images get the same label with and without halving, "
        f"the largest difference of a probability is {agreement['largest_difference']:.3f}.",
        "## The whole loop",
        f"Simulator at {RATE} Hz, 640x480, 4 samples a pixel, on the same machine: "
        f"{' and '.join(f'{n:.1f}' for n in loop)} images a second get both their label and the answers of a search "
        "(aimed at: 25).",
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
    return 0


def _middle(runs: list[Figures]) -> Figures:
    return Figures(**{name: statistics.median(getattr(run, name) for run in runs) for name in vars(runs[0])})


def table(middle: dict[str, Figures]) -> str:
    """The figures in Markdown."""
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
    sys.exit(main())
