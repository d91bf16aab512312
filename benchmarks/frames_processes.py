"""The processes that bench-frames measures: a camera that publishes images, and the real classifier.

frames_processes.py --publish STAMPS.json
frames_processes.py --classify CALLS.json [--give-back] --ros-args ...
"""

from __future__ import annotations

import argparse
import array
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, RATE = 1280, 720, 30
"""Size of the images [pixels] and how many are published [1/s]."""


def publish(stamps: Path) -> int:
    """Publish images until SIGTERM, then write the stamps of all of them [ns] to the file `stamps`."""
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
    """Run the classifier, then write the start and the length of each call of its camera callback [s] to `calls`."""
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
    """Run this file with `arguments` as another process, and end it by SIGTERM."""
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--publish", type=Path, metavar="STAMPS")
    parser.add_argument("--classify", type=Path, metavar="CALLS")
    parser.add_argument("--give-back", action="store_true")
    options, _ = parser.parse_known_args()
    return publish(options.publish) if options.publish else classify(options.classify, options.give_back)


if __name__ == "__main__":
    sys.exit(main())
