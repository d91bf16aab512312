"""The classifier as a node: images in over DDS; label, description and answers out; bad input survived."""

from __future__ import annotations

import array
import os
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("vlm_perception.srv", reason="the interfaces are not built", exc_type=ImportError)

import rclpy
from builtin_interfaces.msg import Time
from classifier_world import BALL, GREEN, RED, SIDE, WORDS, World
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import Log
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from vlm_perception.models.base import ModelError, ModelOutOfMemoryError
from vlm_perception.msg import Question
from vlm_perception.nodes import camera_topics
from vlm_perception.nodes.services import create_service
from vlm_perception.perception.frame import nanoseconds
from vlm_perception.srv import Ask


def test_an_image_becomes_a_label_a_description_and_answers_with_its_header(ros):
    world = World(ros)
    label = world.until_label("clear")
    assert (label.header.stamp.sec, label.header.stamp.nanosec) in world.sent
    assert label.header.frame_id == "camera_optical_frame"
    assert label.raw_label == "clear" and label.choices == ["clear", "obstacle", "wall", "doorway", "corridor"]
    assert label.probabilities[0] == pytest.approx(0.9) and sum(label.probabilities) == pytest.approx(1)
    ros.until(lambda: [m for m in world.descriptions if m.data == "red"], "description")

    world.colour = GREEN
    assert world.until_label("corridor").raw_label == "corridor"
    reply = world.ask(SIDE, BALL, WORDS)
    assert reply.success and reply.message == ""
    assert [(a.name, a.value) for a in reply.answers] == [("side", "right"), ("ball", "no"), ("words", "green")]
    assert list(reply.answers[1].options) == ["yes", "no"] and reply.answers[0].confidence == pytest.approx(0.9)
    assert (reply.header.stamp.sec, reply.header.stamp.nanosec) in world.sent[-10:]
    assert 0 < reply.inference_time < 10
    status = world.until_health("looking", DiagnosticStatus.OK)
    values = {v.key: v.value for v in status.values}
    assert status.name == "classifier" and values["family"] == "scripted" and float(values["images per second"]) > 5


def test_compressed_images(ros):
    import cv2

    world = World(ros, image_transport="compressed")
    world.timer.cancel()
    publisher = ros.node.create_publisher(CompressedImage, "camera/image_raw/compressed", qos_profile_sensor_data)
    jpeg = cv2.imencode(".jpg", np.full((24, 32, 3), RED[::-1], np.uint8))[1].tobytes()

    def show():
        message = CompressedImage(format="jpeg", data=array.array("B", jpeg))
        message.header.stamp = ros.node.get_clock().now().to_msg()
        publisher.publish(message)

    ros.node.create_timer(0.05, show)
    world.until_label("clear")


@pytest.mark.parametrize(
    ("questions", "words"),
    [
        ([], ["0 questions", "expected 1"]),
        ([SIDE, SIDE], ["'side'", "more than once"]),
        ([Question(name="a", prompt="b", options=["x"])], ["'a'", "1 options"]),
        ([Question(name="a", prompt="", options=["x", "y"])], ["prompt", "empty"]),
        ([Question(name="a", prompt="p\x07", options=["x", "y"])], ["control character"]),
        ([Question(name="a", type=9, prompt="b")], ["type 9"]),
        ([Question(name="a", type=Question.TEXT, prompt="b", descriptions=["x"])], ["'a'", "text question", "'x'"]),
    ],
)
def test_bad_questions_are_refused_with_the_reason(ros, questions, words):
    world = World(ros)
    world.until_label("clear")
    reply = world.ask(*questions)
    assert not reply.success and not reply.answers
    assert all(word in reply.message for word in words), reply.message
    assert world.ask(SIDE).success


def test_vocabulary_and_prompts_change_while_running_and_bad_ones_are_refused(ros):
    world = World(ros)
    world.until_label("clear")
    for name, value, word in [
        ("label.options", ["a", "a"], "repeats"),
        ("label.options", ["only"], "1 options"),
        ("label.options", [], "0 options"),
        ("label.options", ["a", "unknown"], "unknown"),
        ("label.prompt", "", "empty"),
        ("label.rate", 1e9, "range"),
        ("smoothing.leave_threshold", 0.9, "leave"),
        ("model", "/elsewhere", "cleanup"),
    ]:
        result = ros.set_parameter("classifier", name, value)
        assert not result.successful and word in result.reason, (name, result.reason)
    assert world.until_label("clear").choices == ["clear", "obstacle", "wall", "doorway", "corridor"]
    assert ros.set_parameter("classifier", "label.options", ["kitchen", "garden"]).successful
    label = world.until_label("kitchen")
    assert label.choices == ["kitchen", "garden"]


def test_corrupt_images_are_counted_and_survived(ros):
    world = World(ros, max_frame_age=0.5)
    world.until_label("clear")
    world.changes = {"encoding": "rgb9"}
    status = world.until_health("rgb9", DiagnosticStatus.WARN)
    assert int({v.key: v.value for v in status.values}["faults, corrupt image"]) >= 1
    ros.spin(0.7)
    world.labels.clear()
    reply = world.ask(SIDE)
    assert not reply.success and "rgb9" in reply.message
    assert not world.labels, "an old image must not be labelled again"
    world.changes = {}
    world.until_label("clear")


def test_faults_of_the_node_and_of_its_one_camera_are_counted_together(ros):
    world = World(ros)
    world.until_label("clear")
    of_camera, of_node = world.classifier._cameras["camera"].faults, world.classifier._faults
    of_camera.add("corrupt image", "the camera's")
    of_camera.add("internal", "the camera's")
    of_node.add("internal", "the node's")
    values = {v.key: v.value for v in world.until_health("internal").values}
    assert (values["faults, internal"], values["faults, corrupt image"]) == ("2", "1")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_on_a_full_disk_the_trace_ends_and_labels_go_on(ros, tmp_path):
    world = World(ros, trace_file=str(tmp_path / "trace.json"))
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, world.classifier._trace._file.fileno())
    os.close(full)
    status = world.until_health("No space left on device", DiagnosticStatus.WARN)
    assert "trace.json' has ended" in {v.key: v.value for v in status.values}["trace"]
    world.until_label("clear")
    world.colour = GREEN
    world.until_label("corridor")


def test_when_the_camera_stops_asking_fails_and_nothing_is_published(ros):
    world = World(ros, max_frame_age=0.3)
    world.until_label("clear")
    world.timer.cancel()
    ros.spin(0.6)
    world.labels.clear()
    reply = world.ask(SIDE)
    assert not reply.success and "has the camera stopped?" in reply.message
    world.until_health("has the camera stopped?", DiagnosticStatus.ERROR)
    assert not world.labels


def test_a_frozen_image_that_keeps_coming_is_not_taken_for_a_fresh_one(ros):
    world = World(ros, max_frame_age=0.3)
    world.until_label("clear")
    world.stamp = ros.node.get_clock().now().to_msg()
    ros.spin(0.6)
    world.labels.clear()
    reply = world.ask(SIDE)
    assert not reply.success and "the same stamp" in reply.message and "frozen" in reply.message
    ros.spin(0.3)
    assert not world.labels


def test_with_simulated_time_ages_are_simulated_too(ros):
    world = World(ros, use_sim_time=True, max_frame_age=0.5)
    clock = ros.node.create_publisher(Clock, "/clock", 10)
    now, offset = 1_000_000_000_000, -100_000_000

    def tick():
        nonlocal now
        now += 50_000_000
        clock.publish(Clock(clock=Time(sec=now // 10**9, nanosec=now % 10**9)))
        world.stamp = Time(sec=(now + offset) // 10**9, nanosec=(now + offset) % 10**9)

    ros.node.create_timer(0.05, tick)
    ros.until(lambda: world.ask(SIDE).success, "answer about an image of the simulation's now")
    offset = -10_000_000_000
    ros.until(lambda: "10.0 s ago" in world.ask(SIDE).message, "refusal of an image of long ago")
    offset = 10_000_000_000
    ros.until(lambda: "10.0 s in the future" in world.ask(SIDE).message, "refusal of an image of the future")


def test_without_any_image_asking_says_so_and_health_names_the_topic_that_exists(ros):
    world = World(ros)
    world.timer.cancel()
    ros.node.destroy_publisher(world.camera)
    other = ros.node.create_publisher(Image, "front/image", 10)
    ros.until(lambda: world.classifier._worker.state == "ready", "model")
    reply = world.ask(SIDE)
    assert not reply.success and "no image" in reply.message
    status = world.until_health("/camera/image_raw", DiagnosticStatus.ERROR)
    assert "nobody publishes /camera/image_raw" in status.message and "/front/image" in status.message
    ros.node.destroy_publisher(other)


def test_incompatible_quality_of_service_is_named(ros):
    world = World(ros, **{"qos_overrides./camera/image_raw.subscription.reliability": "reliable"})
    status = world.until_health("reliability", DiagnosticStatus.ERROR)
    assert "/camera/image_raw" in status.message
    assert not world.labels


def test_a_failing_model_does_not_stop_the_node(ros):
    world = World(ros)
    world.until_label("clear")
    world.model.error = ModelError("the weights melted")
    reply = world.ask(SIDE)
    assert not reply.success and reply.message == "the weights melted"
    world.until_health("the weights melted", DiagnosticStatus.WARN)
    world.model.error = None
    world.until_label("clear")


def test_out_of_memory_backs_off_and_recovers(ros):
    world = World(ros)
    world.until_label("clear")
    world.model.error = ModelOutOfMemoryError("too big")
    ros.spin(0.3)
    world.model.error = None
    tries = len(world.model.images)
    reply = world.ask(SIDE)
    assert not reply.success and "out of memory" in reply.message
    assert len(world.model.images) == tries, "it must not try again at once"
    world.until_label("clear")


def test_a_slow_model_makes_asking_fail_in_time_and_parameters_stay_reachable(ros):
    world = World(ros, ask_timeout=0.3)
    world.until_label("clear")
    world.model.gate.clear()
    started = time.monotonic()
    reply = world.ask(SIDE)
    assert not reply.success and "0.3 s" in reply.message
    assert ros.set_parameter("classifier", "label.rate", 20.0).successful
    assert time.monotonic() - started < 5
    world.model.gate.set()
    ros.until(lambda: world.ask(SIDE).success, "answer")


def test_who_has_seen_an_image_may_ask_about_the_next_one(ros):
    world = World(ros, max_frame_age=30.0, ask_timeout=1.0)
    world.until_label("clear")
    stamps = [world.ask(SIDE).header.stamp]
    for _ in range(5):
        stamps.append(world.ask(SIDE, newer_than=stamps[-1]).header.stamp)
    times = [nanoseconds(stamp) for stamp in stamps]
    assert times == sorted(set(times)), "a newer one each time"
    world.timer.cancel()
    ros.spin(0.3)
    last = world.ask(SIDE).header.stamp
    reply = world.ask(SIDE, newer_than=last)
    assert not reply.success and "no newer image came" in reply.message


def test_reliable_and_best_effort_subscribers_see_the_annotated_image(ros):
    """RViz and rqt ask for either."""
    world = World(ros, annotated_image_rate=100.0)
    images = [ros.collect(Image, "classifier/annotated_image", qos) for qos in (qos_profile_sensor_data, 10)]
    ros.until(lambda: all(images), "annotated images for both")
    assert images[1][0].encoding == "rgb8" and world.labels


def test_what_may_not_be_what_the_camera_sees_is_said_once_and_stays_in_the_diagnostics(ros):
    world = World(ros)
    log = ros.collect(Log, "/rosout")
    world.changes = {"data": array.array("B", bytes(10 * 24 * 96))}  # far more than rgb8 needs
    world.until_health("23040 bytes of data, its encoding needs 2304", DiagnosticStatus.WARN)
    world.until_health("23040 bytes of data, its encoding needs 2304", DiagnosticStatus.WARN)
    assert sum("23040 bytes" in message.msg for message in log) == 1


def test_a_service_that_fails_answers_so_and_its_node_lives_on(ros):
    def fails(request, response):
        raise RuntimeError("ouch \ud83d")

    async def cannot_be_sent(request, response):
        response.message = "\ud83d"
        return response

    node, failures = ros.add(rclpy.create_node("served")), []
    for name, callback in (("fails", fails), ("unsent", cannot_be_sent), ("none", lambda request, response: None)):
        create_service(node, Ask, name, callback, failures.append)
    for name, word in (("fails", "ouch"), ("unsent", "surrogates"), ("none", "failed"), ("fails", "ouch")):
        reply = ros.call(Ask, name, Ask.Request())
        assert not reply.success and word in reply.message, reply.message
    assert len(failures) == 4


def test_the_annotated_image_is_drawn_for_subscribers_only(ros, monkeypatch):
    drawn = []
    annotate = camera_topics.annotate
    monkeypatch.setattr(camera_topics, "annotate", lambda *a: drawn.append(1) or annotate(*a))
    world = World(ros, annotated_image_rate=50.0)
    world.until_label("clear")
    assert not drawn
    images = ros.collect(Image, "classifier/annotated_image", qos_profile_sensor_data)
    image = ros.until(lambda: images, "annotated image")[0]
    pixels = np.asarray(image.data).reshape(24, 32, 3)
    assert image.encoding == "rgb8" and (pixels == RED).all(-1).any() and not (pixels == RED).all()
    assert (image.header.stamp.sec, image.header.stamp.nanosec) in world.sent


def test_an_answer_that_is_used_again_has_the_new_header_says_its_age_and_is_counted(ros):
    world = World(ros, cache__threshold=8.0, cache__refresh=3600.0)
    assert world.until_label("clear").answer_age == 0
    again = ros.until(lambda: next((m for m in world.labels if m.answer_age > 1.0), None), "label used again")
    assert (again.header.stamp.sec, again.header.stamp.nanosec) in world.sent[-20:]
    assert (again.label, again.raw_label, again.region.width) == ("clear", "clear", 0)
    world.colour = GREEN
    assert world.until_label("corridor").raw_label == "corridor"
    values = {v.key: v.value for v in world.until_health("looking").values}
    assert int(values["reuse, hits"]) > 5 and int(values["reuse, misses"]) >= 2
    assert ros.set_parameter("classifier", "cache.threshold", 300.0).successful is False
    assert ros.set_parameter("classifier", "cache.threshold", 0.0).successful
    world.labels.clear()
    ros.until(lambda: [m for m in world.labels if m.answer_age == 0], "label of its own")


def test_the_part_of_the_image_that_a_label_is_about_is_in_the_message_and_counted(ros):
    world, steps = World(ros, label__follow_motion=True), iter(range(10_000))

    def something_moves():
        image = np.full((120, 160, 3), RED, np.uint8)
        x = 10 + 4 * (next(steps) % 30)
        image[50:70, x : x + 16] = 250
        data = array.array("B", image.tobytes())
        world.changes = {"height": 120, "width": 160, "step": 480, "data": data}
        return next((m.region for m in world.labels if m.region.width), None)

    region = ros.until(something_moves, "label about a region")
    assert region.width <= 130 and region.height <= 98
    assert region.x_offset + region.width <= 160 and region.y_offset <= 50 and region.y_offset + region.height >= 70
    assert (region.height, region.width) in {image.shape[:2] for image in world.model.images}
    values = {v.key: v.value for v in world.until_health("looking").values}
    assert int(values["labels about a region"]) > 0
