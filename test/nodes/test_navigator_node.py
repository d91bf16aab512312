"""The navigator over real DDS: a scripted classifier in, twists out."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time

import pytest
from paths import ROOT

pytest.importorskip("rclpy")

from geometry_msgs.msg import Twist
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from navigator_world import ScriptedClassifier, World, driving, is_zero
from rclpy.parameter import Parameter

from vlm_perception.msg import NavigationState
from vlm_perception.nodes.navigator import Navigator
from vlm_perception.nodes.run import autostart
from vlm_perception.parameters import ParameterError
from vlm_perception.srv import Ask, SetSearchTarget


@pytest.fixture
def world(ros):
    return World(ros)


@pytest.mark.parametrize(("side", "sign"), [("left", 1.0), ("right", -1.0)])
def test_a_target_at_the_side_is_turned_to_in_place_where_something_is_ahead(world, side, sign):
    world.classifier.answers["label"] = "obstacle"
    world.classifier.answers["target"] = f"{side} far"
    assert world.set_target("red ball").success
    world.until_state("aligning")
    twist = world.until_twist(lambda t: abs(t.angular.z) > 0.1, "turn")
    assert math.copysign(1.0, twist.angular.z) == sign
    assert twist.linear.x == 0.0
    sighting = world.sightings[-1]
    assert (sighting.target, sighting.visible, sighting.direction, sighting.range) == ("red ball", True, side, "far")
    assert math.copysign(1.0, sighting.bearing) == sign and math.isnan(sighting.distance)
    assert sighting.header.frame_id == "camera_optical_frame"
    assert world.classifier.questions[-1] == "where is the red ball?"


def test_who_asks_as_often_as_can_be_asks_about_each_image_once(world):
    seen = world.classifier
    assert world.set_target("red ball").success
    world.ros.until(lambda: len(seen.stamps) > 5, "questions")
    assert not any(seen.newer_than), "at a rate: about the newest one"
    world.ros.set_parameter("navigator", "ask_rate", 0.0)
    begun = len(seen.stamps) + 1
    world.ros.until(lambda: len(seen.stamps) > begun + 10, "questions")
    assert seen.newer_than[begun:] == seen.stamps[begun - 1 : -1]


def test_a_target_far_ahead_is_driven_to_and_a_near_one_ends_the_search(world):
    world.classifier.answers["target"] = "center far"
    world.set_target("red ball")
    twist = world.until_twist(lambda t: t.linear.x > 0.1, "drive")
    assert twist.linear.x <= 0.3 and abs(twist.angular.z) < 0.1
    world.classifier.answers.update(target="center near", label="obstacle")
    state = world.until_state("arrived")
    assert (state.mode, state.target, state.reason) == ("search", "red ball", "red ball is near and ahead")
    world.until_still()
    world.ros.spin(0.6)
    assert not world.twists[20:], "silence after the zeros, so that others may take over"
    world.classifier.answers["target"] = "left far"
    world.ros.spin(0.5)
    assert world.states[-1].state == "arrived"


def test_an_unseen_target_is_searched_by_turning(world):
    world.set_target("red ball")
    world.until_state("searching")
    twist = world.until_twist(lambda t: t.angular.z != 0.0, "turn")
    assert twist.linear.x == 0.0 and abs(twist.angular.z) <= 0.8
    assert not world.sightings[-1].visible and math.isnan(world.sightings[-1].bearing)
    assert world.sightings[-1].direction == "" and world.sightings[-1].confidence == pytest.approx(0.94, abs=1e-3)


def test_a_late_volatile_listener_hears_the_state_and_a_running_number_is_no_news(world):
    """As rqt and ros2 topic echo listen, of which the latter shows 128 characters."""
    asked = []

    def loading(request, response):
        asked.append(1)
        response.message = f"the model is not there yet: loading for {len(asked)} s"
        return response

    world.classifier.destroy_service(world.classifier.service)
    world.classifier.service = world.classifier.create_service(Ask, "ask", loading)
    assert world.set_target("red ball").success
    world.ros.until(lambda: len(asked) > 20, "refusals")
    told = [state for state in world.states if "loading for" in state.reason]
    assert 1 <= len(told) < 8, "news at the rate of the questions"
    heard = world.ros.collect(NavigationState, "navigation_state")
    state = world.ros.until(lambda: heard, "state that does not change")[0]
    assert (state.mode, state.target, state.state) == ("search", "red ball", "stopped")
    assert "loading" in state.reason[:128]


def test_no_velocity_and_no_question_in_idle(world):
    world.ros.spin(1.0)
    assert not world.twists and not world.classifier.questions


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("stale", "older than the one before"),
        ("future", "in the future"),
        ("frozen", "older than 0.8 s"),
        ("fails", "there is no camera"),
        ("nan", "not in 0..1"),
        ("mute", "did not answer within"),
        ("gone", "nobody offers /ask"),
    ],
)
def test_every_doubt_stops_the_robot_and_is_named(ros, fault, words):
    world = World(ros)
    driving(world)
    classifier = world.classifier
    if fault == "stale":
        classifier.age = 5.0
    elif fault == "future":
        classifier.age = -5.0
    elif fault == "frozen":
        classifier.stamp = classifier.get_clock().now().nanoseconds
    elif fault == "fails":
        classifier.failure = "there is no camera"
    elif fault == "nan":
        classifier.sure = math.nan
    elif fault == "mute":
        ros.executor.remove_node(classifier)
    elif fault == "gone":
        ros.remove(classifier)
    ros.until(lambda: is_zero(world.twists[-1]), "zero twist", seconds=3.0)
    ros.until(lambda: words in world.states[-1].reason, f"the reason ({world.states[-1].reason})", seconds=3.0)
    assert world.states[-1].state == "stopped"
    world.until_still() if world.twists and not is_zero(world.twists[-1]) else world.ros.spin(0.3)
    assert is_zero(world.twists[-1])
    health = world.navigator._check()
    assert words in health.message and health.level.name == "ERROR"
    assert any(name.startswith("faults, ") for name in health.values) or fault in ("stale", "frozen")


def test_it_goes_on_when_the_doubt_is_over(world):
    driving(world)
    world.classifier.failure = "not now"
    world.until_still()
    world.classifier.failure = ""
    world.until_twist(lambda t: t.linear.x > 0.1, "drive")


def test_stamps_that_jump_back_are_not_believed(world):
    driving(world)
    world.classifier.age = 0.6
    world.ros.until(lambda: "older than the one before" in world.states[-1].reason, "reason")
    world.until_twist(lambda t: t.linear.x > 0.0, "driving on with newer images")


def test_an_error_inside_stops_the_robot_and_leaves_the_node_running(world):
    driving(world)
    world.navigator._pilot._behaviour.step = lambda view, now: 1 / 0
    world.ros.until(lambda: "ZeroDivisionError" in world.states[-1].reason, "reason")
    assert world.states[-1].mode == "idle"
    world.until_still()
    driving(world)


def test_an_empty_target_stops_now(world):
    driving(world)
    response = world.set_target("")
    assert response.success
    world.until_still(0.5)
    assert (world.states[-1].mode, world.states[-1].state, world.states[-1].target) == ("idle", "stopped", "")


@pytest.mark.parametrize(
    ("target", "words"),
    [("x" * 10_000, "10000 characters, expected at most 100"), ("a\x07b", "control character"), ("a\nb", "line break")],
)
def test_a_bad_target_is_refused_and_the_last_one_stays(world, target, words):
    driving(world)
    response = world.set_target(target)
    assert not response.success and words in response.message and len(response.message) < 300
    world.until_twist(lambda t: t.linear.x > 0.1, "driving on")
    assert world.states[-1].target == "red ball"


def test_modes(world):
    for mode in ("search", "follow"):
        response = world.set_mode(mode)
        assert not response.success and "no target" in response.message and "set_search_target" in response.message
    response = world.set_mode("dance" * 100)
    assert not response.success and "idle, search, follow, explore" in response.message and len(response.message) < 300

    assert world.set_mode("explore").success
    twist = world.until_twist(lambda t: t.linear.x > 0.1, "drive")
    assert twist.linear.x <= 0.3 and len(world.classifier.questions) == 2
    world.classifier.answers["label"] = "wall"
    world.until_twist(lambda t: t.linear.x == 0.0 and t.angular.z != 0.0, "turning away")

    assert world.set_mode("idle").success
    world.until_still(0.5)

    world.classifier.answers.update(target="center near", label="obstacle")
    world.set_target("blue box")
    assert world.set_mode("follow").success
    world.until_state("following")
    assert world.set_target("red ball").success
    assert world.states[-1].mode == "follow", "a new target does not end following"
    world.until_state("following")
    world.until_still()


def test_deactivating_stops_and_refuses_until_active_again(world):
    driving(world)
    change = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_DEACTIVATE))
    assert world.ros.call(ChangeState, "navigator/change_state", change).success
    assert is_zero(world.twists[-1])
    world.until_still(0.5)
    response = world.set_target("red ball")
    assert not response.success and "lifecycle set /navigator activate" in response.message
    assert not world.set_mode("explore").success
    change.transition.id = Transition.TRANSITION_ACTIVATE
    assert world.ros.call(ChangeState, "navigator/change_state", change).success
    driving(world)
    for transition in ("deactivate", "cleanup", "configure", "activate"):
        change = ChangeState.Request(transition=Transition(label=transition))
        assert world.ros.call(ChangeState, "navigator/change_state", change).success
    driving(world)


def test_stamped_velocity(ros):
    world = World(ros, enable_stamped_cmd_vel=True)
    world.classifier.answers["target"] = "center far"
    world.set_target("red ball")
    message = ros.until(lambda: next((m for m in world.twists if m.twist.linear.x > 0.1), None), "drive")
    assert message.header.frame_id == "base_link" and message.header.stamp.sec > 0


def test_a_listener_of_the_other_type_is_noticed(ros):
    classifier = ros.add(ScriptedClassifier())
    navigator = ros.add(Navigator())
    autostart(navigator)
    classifier.answers["target"] = "center far"
    ros.until(lambda: not navigator._classifier.missing(), "classifier")
    ros.call(SetSearchTarget, "set_search_target", SetSearchTarget.Request(target="red ball"))
    ros.until(lambda: "nobody listens to /cmd_vel" in navigator._check().message, "warning")
    listener = (
        "import rclpy; from geometry_msgs.msg import TwistStamped; rclpy.init(); node = rclpy.create_node('base');"
        "node.create_subscription(TwistStamped, 'cmd_vel', print, 1); rclpy.spin(node)"
    )
    process = subprocess.Popen([sys.executable, "-c", listener])
    try:
        ros.until(lambda: "set enable_stamped_cmd_vel to true" in navigator._check().message, "warning")
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("good", "yes"),
        ("stuck", "is the base off or blocked"),
        ("without orientation", "has the norm 0"),
        ("of two nodes", "does more than one node publish it?"),
    ],
)
def test_odometry_counts_while_it_can_be_believed_and_else_it_is_said_why(ros, kind, words):
    world = World(ros)
    publisher = ros.node.create_publisher(Odometry, "odom", 10)
    turned, count = 0.0, 0

    def publish():
        nonlocal turned, count
        turned += 0.02 * world.twists[-1].angular.z if world.twists else 0.0
        count += 1
        message = Odometry()
        message.header.stamp = ros.node.get_clock().now().to_msg()
        heading = 0.0 if kind == "stuck" else turned
        message.pose.pose.position.x = 10.0 * (count % 2) if kind == "of two nodes" else 0.0
        message.pose.pose.orientation.z, message.pose.pose.orientation.w = math.sin(heading / 2), math.cos(heading / 2)
        if kind == "without orientation":
            message.pose.pose.orientation.z = message.pose.pose.orientation.w = 0.0
        publisher.publish(message)

    ros.node.create_timer(0.02, publish)
    world.classifier.answers["target"] = "left far"
    world.set_target("red ball")
    world.until_twist(lambda t: t.angular.z > 0.1, "turn")
    ros.until(lambda: words in world.navigator._check().values["odometry"], "a word about odometry")
    if kind != "good":
        health = world.navigator._check()
        assert health.level.name == "WARN" and words in health.message and "commands" in health.message


def test_two_classifiers_move_nothing_and_both_are_named(world):
    driving(world)
    other = world.ros.add(ScriptedClassifier("second_opinion"))
    world.ros.until(lambda: "2 nodes offer /ask" in world.states[-1].reason, "reason")
    assert all(name in world.states[-1].reason for name in ("/classifier", "/second_opinion"))
    world.until_still()
    assert world.navigator._check().values["faults, several classifiers"] > 0
    world.ros.remove(other)
    world.until_twist(lambda t: t.linear.x > 0.1, "driving on with one")


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_clock_that_jumps_neither_ends_the_search_nor_makes_it_wait(ros, jump):
    """The clock of the node under test is set, as by NTP; the others follow, as their stamps show."""
    world = World(ros)
    assert ros.set_parameter("navigator", "search_time_limit", 60.0).successful
    driving(world)
    now = world.navigator._now
    world.navigator._now = lambda: now() + jump
    world.classifier.age -= jump
    world.ros.until(lambda: "the clock jumped" in world.states[-1].reason, "reason")
    world.until_twist(lambda t: t.linear.x > 0.1, "driving on in the new time")
    assert world.navigator._check().values["faults, clock jumped"] == 1


def test_what_contradicts_its_mirror_image_moves_nothing(ros):
    world = World(ros, **{"target.mirror_check": True})
    world.classifier.answers.update({"target": "left far", "mirrored target": "left far"})
    world.set_target("red ball")
    ros.until(lambda: "contradict each other" in world.states[-1].reason, "reason")
    ros.spin(0.5)
    assert not world.twists
    world.classifier.answers["mirrored target"] = "right far"
    assert world.until_twist(lambda t: t.angular.z != 0.0, "turn").angular.z > 0.0
    assert world.classifier.questions[-1] == world.classifier.questions[-2] == "where is the red ball?"


# Parameters


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("target.seen_threshold", 2.0, "seen_threshold"),
        ("target.prompt", "where is it?", "{target}"),
        ("target.options", ["yes", "no"], "expected 7 words, for absent, left near"),
        ("surroundings.obstacles", ["tree"], "'tree'"),
        ("way.options", ["left", "right"], "left, center, right and none"),
    ],
)
def test_a_wrong_parameter_is_refused_at_start_and_while_running(ros, name, value, words):
    with pytest.raises(ParameterError, match="(?s).*"):
        Navigator(parameter_overrides=[Parameter(name, value=value)])
    world = World(ros)
    before = world.navigator._table.values
    result = ros.set_parameter("navigator", name, value)
    assert not result.successful and words in result.reason
    assert world.navigator._table.values == before


def test_parameters_change_while_driving(world):
    driving(world)
    assert world.ros.set_parameter("navigator", "limits.forward_speed", 0.15).successful
    world.ros.spin(0.5)
    del world.twists[:]
    world.ros.spin(0.5)
    assert 0.05 < max(twist.linear.x for twist in world.twists) <= 0.15
    assert world.ros.set_parameter("navigator", "target.prompt", "seek {target}!").successful
    world.ros.until(lambda: world.classifier.questions[-1] == "seek red ball!", "new prompt")


# The process


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_the_last_twist_of_the_process_is_zero(ros, signals):
    classifier = ros.add(ScriptedClassifier())
    classifier.answers["target"] = "center far"
    twists = ros.collect(Twist, "cmd_vel")
    code = "import sys; from vlm_perception.nodes.navigator import main; sys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        request = SetSearchTarget.Request(target="red ball")
        ros.until(lambda: ros.call(SetSearchTarget, "set_search_target", request).success, "active navigator")
        ros.until(lambda: twists and twists[-1].linear.x > 0.1, "drive")
        for each in signals:
            process.send_signal(each)
            time.sleep(0.005)
        ros.until(lambda: process.poll() is not None, "end of the process")
        ros.spin(0.3)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert is_zero(twists[-1])
