"""Services and the action, asked for anything, in any order, by several at once: the node survives and stays itself."""

from __future__ import annotations

import math
import random

import pytest

pytest.importorskip("rclpy")

from action_msgs.msg import GoalStatus
from navigator_world import World, driving, is_zero
from rclpy.action import ActionClient

from vlm_perception.action import SearchTarget
from vlm_perception.navigation.pilot import MODES
from vlm_perception.navigation.sighting import check_target
from vlm_perception.srv import SetNavigationMode, SetSearchTarget

ENDED = (GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_CANCELED, GoalStatus.STATUS_ABORTED)
TARGETS = [
    "red ball",
    "blue box",
    "",
    "   ",
    "x" * 101,
    "a\x00b",
    "a\nb",
    "红色的球",
    "\u202eball",
    "{target}",
    "é" * 100,
]


def any_text(draw: random.Random) -> str:
    if draw.random() < 0.7:
        return draw.choice(TARGETS)
    return "".join(
        chr(draw.choice([draw.randrange(32, 127), draw.randrange(1, 0xD7FF)])) for _ in range(draw.randrange(30))
    )


def check(pilot, before: tuple[str, str], mode: str | None = None, target: str | None = None, success: bool = True):
    """What must hold after every request that asked for a `mode` or a `target`."""
    assert pilot.mode in MODES
    assert pilot.mode in ("idle", "explore") or pilot.target, f"{pilot.mode} without a target"
    assert len(pilot.target) <= 100 and pilot.target == pilot.target.strip()
    if not success:
        assert (pilot.mode, pilot.target) == before, "a refused request changed something"
    elif mode is not None:
        assert pilot.mode == mode
    elif target is not None:
        assert pilot.target == (check_target(target) if target.strip() else "")
        assert pilot.mode == ("idle" if not pilot.target else "follow" if before[0] == "follow" else "search")


def test_ten_thousand_random_requests(ros):
    """The services' own callbacks, without the network, which would take minutes; the control timer in between."""
    world = World(ros)
    node, pilot = world.navigator, world.navigator._pilot
    draw = random.Random(0)
    for _ in range(10_000):
        before = (pilot.mode, pilot.target)
        if draw.random() < 0.5:
            request = SetSearchTarget.Request(target=any_text(draw))
            response = node._set_search_target(request, SetSearchTarget.Response())
            check(pilot, before, target=request.target, success=response.success)
        else:
            request = SetNavigationMode.Request(mode=draw.choice([*MODES, *MODES, any_text(draw)]))
            response = node._set_navigation_mode(request, SetNavigationMode.Response())
            check(pilot, before, mode=request.mode, success=response.success)
        assert response.message and len(response.message) < 400
        if draw.random() < 0.1:
            node._control()
            assert pilot.sent.is_finite
    assert "error" not in pilot.answers.faults
    driving(world)
    assert world.set_target("").success
    world.until_still()
    assert pilot.mode == "idle"


def test_two_clients_at_once_and_cancels_at_any_moment(ros):
    world = World(ros)
    world.classifier.answers["target"] = "center far"
    draw = random.Random(1)
    services = [ros.node.create_client(SetSearchTarget, "set_search_target") for _ in range(2)]
    modes = [ros.node.create_client(SetNavigationMode, "set_navigation_mode") for _ in range(2)]
    actions = [ActionClient(ros.node, SearchTarget, "search_target") for _ in range(2)]
    for client in (*services, *modes):
        ros.until(client.service_is_ready, "service")
    for client in actions:
        ros.until(client.server_is_ready, "action")
    futures, goals, results = [], [], []

    def accepted(future):
        handle = future.result()
        goals.append(handle)
        results.append(handle.get_result_async())

    for _ in range(150):
        kind, client = draw.randrange(5), draw.randrange(2)
        if kind == 0:
            futures.append(services[client].call_async(SetSearchTarget.Request(target=draw.choice(TARGETS))))
        elif kind == 1:
            futures.append(modes[client].call_async(SetNavigationMode.Request(mode=draw.choice([*MODES, "dance"]))))
        elif kind == 4 and goals:
            futures.append(draw.choice(goals).cancel_goal_async())
        else:
            limit = draw.choice([0.0, 0.0, 0.1, -1.0, math.nan])
            sent = actions[client].send_goal_async(SearchTarget.Goal(target=draw.choice(TARGETS), time_limit=limit))
            sent.add_done_callback(accepted)
            futures.append(sent)
        # Services keep ten requests: who asks faster than they answer loses some, which is not to be tested here.
        ros.until(lambda: sum(not future.done() for future in futures[-20:]) < 8, "answer to some requests")
        if draw.random() < 0.05:
            ros.until(lambda: all(future.done() for future in futures), "an answer to every request")
            driving(world)
    ros.until(lambda: all(future.done() for future in futures), "an answer to every request")
    assert world.set_target("").success  # ends the last goal too
    ros.until(lambda: all(result.done() for result in results), "an end of every goal")
    assert {result.result().status for result in results} <= set(ENDED)
    assert all(result.result().result.message for result in results)
    assert len({bytes(goal.goal_id.uuid) for goal in goals}) == len(goals) == len(results) > 30
    assert all(abs(twist.linear.x) <= 0.3 and abs(twist.angular.z) <= 0.8 for twist in world.twists)
    del world.twists[:]
    ros.spin(0.7)
    assert all(is_zero(twist) for twist in world.twists), "nothing is asked for, and it moves"
    state = world.states[-1]
    assert (state.mode, state.target, state.state) == ("idle", "", "stopped")
    pilot = world.navigator._pilot
    assert world.navigator._search.goal is None and not world.navigator._classifier.is_waiting
    assert "error" not in pilot.answers.faults
    assert world.set_target("red ball").success
    world.until_twist(lambda twist: twist.linear.x > 0.1, "driving as if nothing had been")
