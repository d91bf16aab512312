"""The action of the navigator over real DDS: one goal at a time, ended in each way."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("rclpy")

from action_msgs.msg import GoalStatus
from navigator_world import World, driving
from rclpy.action import ActionClient

from vlm_perception.action import SearchTarget


@pytest.fixture
def world(ros):
    return World(ros)


def send_goal(world, target, time_limit=0.0, feedback=None):
    client = ActionClient(world.ros.node, SearchTarget, "search_target")
    world.ros.until(client.server_is_ready, "action server")
    goal = SearchTarget.Goal(target=target, time_limit=time_limit)
    future = client.send_goal_async(goal, feedback_callback=feedback.append if feedback is not None else None)
    world.ros.until(future.done, "acceptance")
    assert future.result().accepted
    return future.result()


def result_of(world, handle):
    future = handle.get_result_async()
    world.ros.until(future.done, "result")
    return future.result().status, future.result().result


def test_action_finds(world):
    world.classifier.answers.update(target="center near", label="obstacle")
    feedback = []
    handle = send_goal(world, "red ball", feedback=feedback)
    status, result = result_of(world, handle)
    assert status == GoalStatus.STATUS_SUCCEEDED
    assert result.found and 0.0 < result.time < 10.0 and "red ball is near" in result.message
    assert feedback[-1].feedback.sighting.range == "near" and feedback[-1].feedback.state
    world.ros.spin(0.2)
    assert world.states[-1].state == "arrived"


def test_action_is_cancelled(world):
    world.classifier.answers["target"] = "center far"
    handle = send_goal(world, "red ball")
    world.until_twist(lambda t: t.linear.x > 0.1, "drive")
    cancelling = handle.cancel_goal_async()
    world.ros.until(cancelling.done, "cancellation")
    status, result = result_of(world, handle)
    assert status == GoalStatus.STATUS_CANCELED and not result.found
    world.until_still(0.5)
    assert world.states[-1].mode == "idle"


def test_action_gives_up_in_time(world):
    handle = send_goal(world, "red ball", time_limit=1.0)
    status, result = result_of(world, handle)
    assert status == GoalStatus.STATUS_ABORTED and not result.found
    assert result.message == "red ball was not found within 1 s" and 0.9 < result.time < 3.0
    world.until_still(1.0)


def test_time_is_up_without_a_classifier_too(world):
    world.ros.remove(world.classifier)
    status, result = result_of(world, send_goal(world, "red ball", time_limit=0.5))
    assert status == GoalStatus.STATUS_ABORTED and "not found within 0.5 s" in result.message


def test_a_new_goal_and_a_new_target_preempt(world):
    first, second = send_goal(world, "red ball"), send_goal(world, "blue box")
    status, result = result_of(world, first)
    assert status == GoalStatus.STATUS_ABORTED and result.message == "preempted: the new goal is blue box"
    assert world.states[-1].target == "blue box"
    world.set_target("green cylinder")
    status, result = result_of(world, second)
    assert status == GoalStatus.STATUS_ABORTED and "green cylinder" in result.message


@pytest.mark.parametrize(
    ("target", "limit", "words"),
    [
        ("", 0.0, "the target is empty"),
        ("x" * 101, 0.0, "at most 100"),
        ("ball", -1.0, "-1.0 s"),
        ("ball", math.nan, "nan"),
    ],
)
def test_action_refuses_bad_goals_and_leaves_the_search_alone(world, target, limit, words):
    driving(world)
    status, result = result_of(world, send_goal(world, target, limit))
    assert status == GoalStatus.STATUS_ABORTED and words in result.message
    assert world.states[-1].target == "red ball"
