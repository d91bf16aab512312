"""What the navigator remembers, over real DDS: the grids, the target's pose, the diagnostics and a goal's result."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from action_msgs.msg import GoalStatus
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped, Twist
from nav_msgs.msg import OccupancyGrid, Odometry
from navigator_world import LATCHED, World
from rclpy.action import ActionClient

from vlm_perception.action import SearchTarget
from vlm_perception.msg import ModelScope
from vlm_perception.navigation.mounting import Transform
from vlm_perception.nodes import map_publisher

QUARTER = math.sqrt(0.5)


class OdometryWorld(World):
    """With a base that does what it is told: odometry comes at 20 Hz, and began at (5, 0), turned left by a quarter."""

    def __init__(self, ros, **parameters) -> None:
        self.x, self.y, self.heading = 5.0, 0.0, math.pi / 2
        self.command = Twist()
        self.odometry = ros.node.create_publisher(Odometry, "odom", 10)
        ros.node.create_subscription(Twist, "cmd_vel", self.drive, 10)
        self.timer = ros.node.create_timer(0.05, self.move)
        super().__init__(ros, **parameters)
        pilot = self.navigator._pilot
        ros.until(lambda: pilot.odometry.has_odometry(self.navigator._now()), "odometry")

    def drive(self, command):
        self.command = command

    def move(self):
        self.heading += 0.05 * self.command.angular.z
        self.x += 0.05 * self.command.linear.x * math.cos(self.heading)
        self.y += 0.05 * self.command.linear.x * math.sin(self.heading)
        message = Odometry()
        message.header.frame_id = "odom"
        message.header.stamp = self.ros.node.get_clock().now().to_msg()
        message.pose.pose.position.x, message.pose.pose.position.y = self.x, self.y
        message.pose.pose.orientation.z = math.sin(self.heading / 2)
        message.pose.pose.orientation.w = math.cos(self.heading / 2)
        self.odometry.publish(message)

    def figures(self):
        return self.navigator._check().values


@pytest.fixture
def world(ros):
    return OdometryWorld(ros)


def value_at(grid, x, y):
    """Return the value at a place in the grid's frame."""
    origin = grid.info.origin
    heading = 2.0 * math.atan2(origin.orientation.z, origin.orientation.w)
    dx, dy = x - origin.position.x, y - origin.position.y
    along = dx * math.cos(heading) + dy * math.sin(heading)
    across = dy * math.cos(heading) - dx * math.sin(heading)
    column, row = (math.floor(way / grid.info.resolution) for way in (along, across))
    assert 0 <= column < grid.info.width and 0 <= row < grid.info.height
    return grid.data[row * grid.info.width + column]


def test_the_grids_are_latched_in_odometrys_frame_and_cost_nothing_while_nobody_looks(ros, monkeypatch):
    world = OdometryWorld(ros, **{"limits.turn_speed": 0.1})  # it looks along y all the time
    made: list[int] = []
    belief_grid = map_publisher.belief_grid
    monkeypatch.setattr(map_publisher, "belief_grid", lambda search: made.append(1) or belief_grid(search))
    world.classifier.answers["target"] = "no"
    world.classifier.answers.update(label="obstacle", way="none")
    world.set_target("red ball")
    ros.until(lambda: world.figures()["remembers"] == "yes", "memory")
    ros.spin(1.2)
    assert not made
    maps, free = (ros.collect(OccupancyGrid, name, LATCHED) for name in ("search_map", "free_map"))
    ros.until(lambda: maps and free, "both grids")
    grid = maps[-1]
    assert grid.header.frame_id == free[-1].header.frame_id == "odom" and grid.info.resolution == pytest.approx(0.1)
    assert len(grid.data) == grid.info.width * grid.info.height
    assert min(grid.data) >= -1 and max(grid.data) <= 100
    assert value_at(free[-1], world.x, world.y) < 5 and value_at(free[-1], 5.0, 0.5) > 60
    # What was looked at and is not there is less probable than what is behind the robot.
    ros.until(lambda: value_at(maps[-1], 5.0, 1.0) < value_at(maps[-1], 5.0, -1.0), "belief")
    late = ros.collect(OccupancyGrid, "search_map", LATCHED)
    ros.until(lambda: late, "what a late subscriber gets", 0.9)


def test_the_targets_pose_is_told_in_the_map_where_tf_knows_it(world, monkeypatch):
    ros, pose = world.ros, ros_targets(world)
    world.classifier.answers.update(target="center near", label="obstacle", way="none")
    world.set_target("red ball")
    message = ros.until(lambda: pose and pose[-1], "pose of the target")
    at = message.pose.pose
    assert message.header.frame_id == "odom"
    assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec in world.classifier.stamps
    bearing = math.atan2(at.position.y - world.y, at.position.x - world.x)
    assert abs(math.remainder(bearing - world.heading, math.tau)) < 0.4
    assert 0.2 < math.dist((at.position.x, at.position.y), (world.x, world.y)) < 1.2
    assert math.remainder(2.0 * math.atan2(at.orientation.z, at.orientation.w) - bearing, math.tau) < 0.05
    covariance = message.pose.covariance
    assert 0.0 < covariance[0] < 0.5 and 0.0 < covariance[7] < 0.5 and covariance[35] > 0.0
    # odom lies at (1, 2) of the map, turned left by a quarter
    turned = Transform((1.0, 2.0, 0.0), (0.0, 0.0, QUARTER, QUARTER))
    monkeypatch.setattr(world.navigator._map_publisher._transforms, "find", lambda target, source: turned)
    del pose[:]
    world.set_target("red ball")
    moved = ros.until(lambda: pose and pose[-1], "pose in the map")
    assert moved.header.frame_id == "map"
    assert moved.pose.pose.position.x == pytest.approx(1.0 - at.position.y, abs=0.3)
    assert moved.pose.pose.position.y == pytest.approx(2.0 + at.position.x, abs=0.3)


def ros_targets(world):
    return world.ros.collect(PoseWithCovarianceStamped, "target_pose")


def test_without_odometry_nothing_is_remembered_and_it_is_said(ros):
    world = World(ros)
    maps, poses = ros.collect(OccupancyGrid, "search_map", LATCHED), ros_targets(world)
    world.classifier.answers["target"] = "center far"
    world.set_target("red ball")
    world.until_twist(lambda twist: twist.linear.x > 0.1, "drive")
    ros.spin(1.2)
    values = world.navigator._check().values
    assert values["remembers"] == "no, without odometry it drives by the newest images alone"
    assert not maps and not poses and "probability of absent" not in values


def test_what_is_not_here_ends_the_search_with_what_was_searched_and_what_remains(world, monkeypatch):
    """Nothing is worth a look any more, as after a long search."""
    ros = world.ros
    monkeypatch.setattr("vlm_perception.navigation.behaviours.view_search.next_view", lambda *_, **__: None)
    client = ActionClient(ros.node, SearchTarget, "search_target")
    ros.until(client.server_is_ready, "action server")
    sent = client.send_goal_async(SearchTarget.Goal(target="red ball"))
    ros.until(sent.done, "acceptance")
    future = sent.result().get_result_async()
    ros.until(future.done, "result")
    status, result = future.result().status, future.result().result
    assert status == GoalStatus.STATUS_ABORTED and not result.found
    assert 0.0 < result.searched < 1.0 and re.fullmatch(r"0\.\d\d may be in what .* m \w.*", result.remains)
    state = world.until_state("not_found")
    assert "red ball is not here:" in state.reason and "may be in what was not seen" in state.reason
    assert world.figures()["searched"] == pytest.approx(result.searched, abs=0.3)
    assert all(twist == Twist() for twist in world.twists)


def test_the_example_for_nav2_uses_fields_that_there_are():
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "nav2.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    compile(code, "nav2.md", "exec")
    # The goal without Nav2: what `send` does until it calls it.
    body = re.search(r"    goal = .*?(?=    nav2\.wait)", code, re.DOTALL)[0]
    target = PoseWithCovarianceStamped()
    target.header.frame_id = "map"
    target.pose.pose.position.x, target.pose.pose.orientation.z, target.pose.pose.orientation.w = 3.0, QUARTER, QUARTER
    names = {"math": math, "PoseStamped": PoseStamped, "target": target}
    exec(re.sub(r"^    ", "", body, flags=re.MULTILINE), names)
    goal = names["goal"].pose
    assert names["goal"].header.frame_id == "map"
    assert (goal.position.x, goal.position.y) == pytest.approx((3.0, -0.6))


def test_how_far_clear_means_is_what_the_user_says_else_the_model_else_careful(world):
    ros, navigator = world.ros, world.navigator

    def distance():
        return navigator._pilot.map.free.clear_distance

    assert distance() == 0.75
    scopes = ros.node.create_publisher(ModelScope, "model_scope", LATCHED)
    scopes.publish(ModelScope(model="taught", clear_distance=1.5))
    ros.until(lambda: distance() == 1.5, "the model's distance")
    assert ros.set_parameter("navigator", "way.clear_distance", 2.0).successful and distance() == 2.0
    scopes.publish(ModelScope(model="another"))
    ros.until(lambda: navigator._classifier.scope.model == "another", "another model")
    assert distance() == 2.0
    assert ros.set_parameter("navigator", "way.clear_distance", 0.0).successful and distance() == 0.75
