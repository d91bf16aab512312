"""Everything that goes wrong with a camera, a clock or a model, in the running system: the robot stands still, it is
said why, it is counted, and it goes on when it is over."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from paths import ROOT

pytest.importorskip("rclpy")
pytest.importorskip("vlm_perception.srv", reason="the interfaces are not built", exc_type=ImportError)

from diagnostic_msgs.msg import DiagnosticStatus
from faults_world import LATCHED, World, nanoseconds
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from vlm_perception.models.base import ModelError
from vlm_perception.msg import NavigationState
from vlm_perception.nodes import camera_topics
from vlm_perception.perception import engine
from vlm_perception.srv import SetSearchTarget
from vlm_perception.tools.stack import Stack

# The model


def test_a_model_that_throws(ros):
    world = World(ros)
    world.drives()
    world.model.error = ModelError("the weights melted")
    world.stands("the weights melted")
    figures = world.says("model: the weights melted (it goes on with the next image", level=DiagnosticStatus.WARN)
    assert int(figures["faults, model"]) > 0
    world.says("the robot stands still: the classifier cannot answer: the weights melted", "navigator")
    world.model.error = None
    world.goes_on()


def test_a_model_that_answers_what_is_no_number_spoils_no_belief(ros):
    world = World(ros)
    world.drives()
    world.model.certainty = math.nan
    world.stands("probabilities", "nan")
    figures = world.says("nan")
    assert int(figures["faults, model"]) > 0
    world.model.certainty = 0.94
    world.goes_on()
    assert math.isfinite(world.labels[-1].confidence)


def test_a_model_that_ends_its_thread_can_be_configured_again(ros):
    world = World(ros)
    world.drives()
    world.model.error = SystemExit("a library says goodbye")
    world.stands("a library says goodbye")
    world.says(
        "no model: a library says goodbye (ros2 lifecycle set /classifier configure)", level=DiagnosticStatus.ERROR
    )
    world.model.error = None
    assert world.change("configure", "activate") == [True, True]
    world.goes_on()


def test_short_memory_means_fewer_questions_at_once_and_no_stop(ros):
    world = World(ros)
    world.drives()
    world.model.most = 1
    world.ros.until(lambda: world.classifier._faults.counts["out of memory"], "fault")
    world.goes_on()
    figures = world.says("out of memory: no memory for", level=DiagnosticStatus.WARN)
    assert int(figures["faults, out of memory"]) <= 4, "it remembers how much was too much"
    assert not any(state.state == "stopped" and "memory" in state.reason for state in world.states)


def test_no_memory_at_all_is_waited_for(ros):
    world = World(ros)
    world.drives()
    world.model.most = 0
    world.stands("out of memory")
    figures = world.says("it uses smaller batches, waits and tries again", level=DiagnosticStatus.WARN)
    assert int(figures["faults, out of memory"]) > 0
    assert "next try in" in world.ask().message
    world.model.most = math.inf
    world.goes_on()


def test_a_model_that_hangs(ros):
    world = World(ros)
    world.drives()
    world.model.gate.clear()
    world.stands()
    figures = world.says("the model has been at one image for", level=DiagnosticStatus.ERROR)
    assert figures["faults, model hangs"] == "1"
    reply = world.ask()
    assert not reply.success and "no answer within 0.5 s (ask_timeout)" in reply.message
    assert world.change("deactivate") == [True] and world.state() == "inactive"
    assert world.change("activate") == [True]
    known = len(world.labels)
    started_again = world.now()
    world.model.gate.set()
    world.goes_on()
    assert all(nanoseconds(label) >= started_again - 10**8 for label in world.labels[known:]), "an answer of before"


def test_what_a_model_says_a_minute_late_is_not_published(ros, monkeypatch):
    monkeypatch.setattr(engine, "LATE", 0.3)
    world = World(ros)
    ros.until(lambda: world.labels, "label")  # nobody asks, so every look is for a label
    world.model.gate.clear()
    world.says("the model has been at one image for")
    known, hung_until = len(world.labels), world.now()
    world.model.gate.set()
    world.goes_on()
    assert all(nanoseconds(label) >= hung_until - 3 * 10**8 for label in world.labels[known:])
    assert int(world.says("")["faults, late answer"]) == 1


def test_a_model_that_hangs_is_waited_for_by_the_next_one_and_it_says_so(ros):
    world = World(ros)
    world.drives()
    world.model.gate.clear()
    world.stands()
    assert world.change("deactivate", "cleanup", "configure", "activate") == [True] * 4
    world.says("waiting for the last model to let go; if it hangs, end the process")
    world.stands("waiting for the last model to let go")
    world.model.gate.set()
    world.goes_on()


# The camera


def test_a_camera_that_dies(ros):
    world = World(ros)
    world.drives()
    world.timer.cancel()
    world.stands()
    figures = world.says("has the camera stopped?", level=DiagnosticStatus.ERROR)
    assert figures["faults, camera silent"] == "1"
    ros.node.destroy_publisher(world.camera)
    world.says("nobody publishes /camera/image_raw")
    world.stands("has the camera stopped?")
    world.camera = ros.node.create_publisher(Image, "camera/image_raw", qos_profile_sensor_data)
    world.timer.reset()
    world.goes_on()


def test_a_camera_that_repeats_its_last_message(ros):
    world = World(ros)
    world.drives()
    world.stamp = world.good[-1]
    world.stands()
    figures = world.says("the same stamp came again and again", level=DiagnosticStatus.ERROR)
    assert int(figures["faults, repeated stamp"]) > 5 and figures["faults, camera frozen"] == "1"
    world.stands("is the camera frozen")
    world.stamp = None
    world.goes_on()


def test_a_camera_that_delivers_the_same_image_with_new_stamps_while_the_robot_moves(ros, monkeypatch):
    monkeypatch.setattr(camera_topics, "FROZEN", 1.0)
    world = World(ros)
    world.drives()
    world.pixels = world.noise.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    world.stands("not one pixel of the image changed: is the camera frozen")
    figures = world.says("not one pixel", "navigator", DiagnosticStatus.ERROR)
    assert int(figures["faults, frozen image"]) > 0
    figures = world.says("the camera has delivered the same image", level=DiagnosticStatus.WARN)
    assert float(figures["image unchanged for [s]"]) > 1.0
    world.pixels = None
    world.goes_on()


def test_a_still_image_before_a_robot_that_stands_is_no_fault(ros):
    world = World(ros)
    world.pixels = np.zeros((24, 32, 3), np.uint8)
    ros.until(lambda: world.classifier._cameras["camera"].camera.unchanged > 0.5, "still image")
    world.twists.clear()
    request = SetSearchTarget.Request(target="red ball")
    ros.until(lambda: ros.call(SetSearchTarget, "set_search_target", request).success, "navigator")
    ros.until(lambda: any(twist != Twist() for twist in world.twists), "motion")


def test_a_camera_that_changes_size_and_encoding_in_mid_stream(ros):
    world = World(ros)
    world.drives()
    for form in [(48, 64, "rgb8"), (48, 64, "bgr8"), (20, 30, "8UC3")]:
        world.form = form
        world.goes_on()
    figures = world.says("looking", level=DiagnosticStatus.OK)
    assert figures["changes of size or encoding"] == "3" and figures["image"] == "30x20 8UC3"
    world.form = (20, 30, "rgb9")
    world.stands("rgb9")
    figures = world.says("encoding 'rgb9' is not known", level=DiagnosticStatus.WARN)
    assert int(figures["faults, corrupt image"]) > 0
    world.form = (24, 32, "rgb8")
    world.goes_on()


def test_a_flood_of_images_is_looked_at_as_far_as_the_model_comes(ros):
    world = World(ros)
    world.drives()
    world.form = (240, 320, "rgb8")
    ros.node.create_timer(0.005, world.show)
    world.goes_on()
    assert world.ask().success
    figures = world.says("looking", level=DiagnosticStatus.OK)
    assert int(figures["images replaced by newer ones"]) > 0


def test_stamps_that_jump_back_are_passed_over_and_then_the_new_ones_are_taken(ros):
    world = World(ros)
    world.drives()
    world.offset = -200_000_000
    ros.until(lambda: world.classifier._cameras["camera"].faults.counts["stamp jumped back"], "fault")
    figures = world.says("before the one that came before it, and is skipped")
    assert int(figures["faults, stamp jumped back"]) > 0
    world.is_honest()
    world.offset = 0
    world.goes_on()


@pytest.mark.parametrize(("offset", "words"), [(3, "s in the future"), (-3, "s ago")])
def test_stamps_of_another_clock(ros, offset, words):
    world = World(ros)
    world.drives()
    world.offset = offset * 10**9
    world.stands()
    figures = world.says(words, level=DiagnosticStatus.ERROR)
    assert int(figures["faults, wrong stamp"]) == 1
    world.stands("do both clocks agree")
    world.is_honest()
    world.offset = 0
    world.goes_on()


def test_an_incompatible_camera_is_named_to_everybody(ros):
    world = World(ros, **{"qos_overrides./camera/image_raw.subscription.reliability": "reliable"})
    request = SetSearchTarget.Request(target="red ball")
    assert ros.call(SetSearchTarget, "set_search_target", request).success
    words = "/camera/image_raw is offered with another reliability than the classifier asks for"
    world.says(words, level=DiagnosticStatus.ERROR)
    ros.until(lambda: words in world.states[-1].reason, "reason")
    assert not world.twists and not world.labels
    ros.node.destroy_publisher(world.camera)
    world.camera = ros.node.create_publisher(Image, "camera/image_raw", 10)
    world.goes_on()


# The clock


def test_a_simulation_that_pauses_and_starts_again(ros):
    world = World(ros, simulated=True)
    world.drives()
    world.paused = True
    world.stands()
    figures = world.says("is the simulation paused (/clock)?", level=DiagnosticStatus.ERROR)
    assert figures["faults, clock stands still"] == "1"
    world.stands("is the simulation paused")
    world.paused = False
    world.goes_on()

    before = world.labels[-1]
    world.time -= 500 * 10**9
    ros.until(lambda: nanoseconds(world.labels[-1]) < nanoseconds(before), "label in the new time")
    assert int(world.says("")["faults, clock jumped back"]) == 1
    world.labels.clear()
    world.good[:] = [stamp for stamp in world.good if stamp <= world.time]
    world.goes_on()


def test_simulated_time_that_nobody_publishes(ros):
    world = World(ros, simulated=True)
    world.clock.publish = lambda _: None
    ros.until(lambda: "nobody publishes /clock" in world.ask().message, "refusal")
    figures = world.says("use_sim_time is set and nobody publishes /clock", level=DiagnosticStatus.ERROR)
    assert figures["faults, no clock"] == "1"


# Life


def test_transitions_in_any_order(ros):
    gate, loads = threading.Event(), []

    def load(*_):
        loads.append(1)
        if len(loads) == 1:
            assert gate.wait(60)
        if len(loads) == 2:
            raise ModelError("the disk is away")
        return world.model

    world = World(ros, load, autostart=False)
    assert world.change("activate", "deactivate", "cleanup") == [False] * 3 and world.state() == "unconfigured"
    assert world.change("configure", "configure") == [True, False]
    assert world.change("cleanup") == [True], "while it loads"
    assert world.change("configure", "activate", "activate") == [True, True, False]
    world.says("waiting for the last model to let go")
    gate.set()
    world.says("the disk is away", level=DiagnosticStatus.ERROR)
    assert world.state() == "unconfigured" and len(loads) == 2
    assert world.change("configure", "activate") == [True, True]
    world.goes_on()
    assert world.change("cleanup") == [False] and world.change("deactivate", "cleanup") == [True, True]
    world.stands("no model: it is not configured")
    assert world.change("configure", "activate") == [True, True]
    world.goes_on()
    assert world.change("shutdown") == [True] and world.change("configure") == [False]
    world.stands("cannot answer")


def test_an_activation_that_fails_frees_the_model_and_can_be_tried_again(ros):
    world = World(ros)
    world.drives()
    create = world.classifier.create_subscription
    world.classifier.create_subscription = lambda *_, **__: 1 / 0
    assert world.change("deactivate") == [True]
    world.change("activate")
    assert world.state() == "unconfigured" and world.classifier._worker is None
    world.stands("the transition from inactive failed")
    world.classifier.create_subscription = create
    assert world.change("configure", "activate") == [True, True]
    world.goes_on()


# The processes


@pytest.mark.parametrize("victim", ["navigator", "classifier"])
def test_a_node_that_is_killed_leaves_a_base_that_stands_still(ros, tmp_path, monkeypatch, victim):
    pytest.importorskip("mujoco")
    profile = ROOT / "config" / "fastdds.xml"
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", str(profile))
    small = {"width": 320, "height": 240, "multisampling": 0}
    truth = ros.collect(Odometry, "simulator/ground_truth")
    states = ros.collect(NavigationState, "navigation_state", LATCHED)

    def is_moving():
        twist = truth[-1].twist.twist
        return abs(twist.linear.x) > 0.1 or abs(twist.angular.z) > 0.3

    def is_still(message):
        return abs(message.twist.twist.linear.x) + abs(message.twist.twist.angular.z) < 0.01

    request = SetSearchTarget.Request(target="blue box")
    with Stack(tmp_path, {"simulator": {"seed": 7, **small}, "classifier": {"description.rate": 0.0}}) as stack:
        ros.until(lambda: ros.call(SetSearchTarget, "set_search_target", request, 60.0).success, "navigator", 60.0)
        ros.until(lambda: truth and is_moving(), "motion", 60.0)
        stack.kill(victim)
        # A base that is about to turn the other way stands still for a moment, and the last command may be on its way.
        ros.until(lambda: len(truth) > 10 and all(map(is_still, truth[-10:])), "rest")
        truth.clear()
        ros.spin(0.5)
        assert truth and all(map(is_still, truth))
        if victim == "classifier":
            ros.until(lambda: states[-1].state == "stopped" and "classifier" in states[-1].reason, "reason")
