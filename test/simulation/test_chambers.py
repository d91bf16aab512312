"""Rooms of several chambers: what the generator promises, what is true in them, and how they look."""

import dataclasses
import itertools
import math
from collections import deque

import numpy as np
import pytest
from kinematic_room import KinematicRoom

from vlm_perception.navigation.motion import Pose
from vlm_perception.simulation import truth
from vlm_perception.simulation.floor_plan import WALL_THICKNESS, Doorway, Rectangle, connected_chambers
from vlm_perception.simulation.room import NAMES, ROBOT_RADIUS, RobotPose, Room, Thing, make_room
from vlm_perception.simulation.shortest_path import shortest_path
from vlm_perception.simulation.world import CAMERA_FORWARD, CAMERA_FOV_Y, CAMERA_PITCH_DOWN, World
from vlm_perception.training.dataset import random_pose

T = WALL_THICKNESS


def row_of_three(*things: Thing) -> Room:
    """Return chambers of 4 x 4 m: one at the origin, one ahead through a doorway at y = 1, one to the left of that.

    The doorway to the left one is at x = 3.
    """
    here, ahead = Rectangle(-2.0, 2.0, -2.0, 2.0), Rectangle(2.0 + T, 6.0 + T, -2.0, 2.0)
    left = Rectangle(ahead.x0, ahead.x1, 2.0 + T, 6.0 + T)
    doorways = Doorway(2.0, 1.0, 1.2, "x"), Doorway(3.0, 2.0, 1.2, "y")
    start = RobotPose(0.0, 0.0, 0.0)
    plan = connected_chambers((here, ahead, left), doorways)
    return dataclasses.replace(make_room(0, "chambers"), plan=plan, things=things, start=start)


def ball(x: float, y: float) -> Thing:
    return Thing("red", "ball", x, y, 0.0, 0.2, 0.4, (0.8, 0.1, 0.1))


@pytest.mark.parametrize("seed", range(60))
def test_chambers_keep_their_promises(seed):
    room = make_room(seed, "chambers")
    assert room == make_room(seed, "chambers")
    plan = room.plan
    assert 3 <= len(plan.chambers) <= 5 and 40.0 <= plan.area <= 80.0
    assert all(min(c.x1 - c.x0, c.y1 - c.y0) >= 2.8 for c in plan.chambers)
    assert all(1.0 <= doorway.width <= 1.3 for doorway in plan.doorways)
    assert len({thing.name for thing in room.things}) == len(room.things) < len(NAMES)
    for chamber in plan.chambers:
        inside = [thing for thing in room.things if chamber.holds(thing.x, thing.y)]
        assert 2 <= len(inside) <= 4
    assert sum(plan.in_chamber(thing.x, thing.y) for thing in room.things) == len(room.things)
    for thing in room.things:
        others = dataclasses.replace(room, things=tuple(other for other in room.things if other is not thing))
        assert others.clearance(thing.x, thing.y) >= thing.outer_radius + 0.5 - 1e-9
        for opening in (doorway.seen_from(thing.x, thing.y) for doorway in plan.doorways):
            assert math.hypot(thing.x - opening.x, thing.y - opening.y) > 1.2
    assert plan.in_chamber(room.start.x, room.start.y)
    assert room.clearance(room.start.x, room.start.y) > 0.6


def test_there_are_worlds_of_three_four_and_five_chambers_small_and_large():
    plans = [make_room(seed, "chambers").plan for seed in range(60)]
    assert {len(plan.chambers) for plan in plans} == {3, 4, 5}
    assert min(plan.area for plan in plans) < 50.0 and max(plan.area for plan in plans) > 70.0
    assert {doorway.along for plan in plans for doorway in plan.doorways} == {"x", "y"}
    assert any(len(plan.doorways) >= len(plan.chambers) for plan in plans)  # a round trip


@pytest.mark.parametrize("seed", range(8))
def test_a_robot_reaches_every_chamber_and_every_thing_with_a_margin(seed):
    room, step = make_room(seed, "chambers"), 0.12
    start = (0, 0)
    reached, todo = {start}, deque([start])
    while todo:
        column, row = todo.popleft()
        for cell in ((column + 1, row), (column - 1, row), (column, row + 1), (column, row - 1)):
            place = room.start.x + step * cell[0], room.start.y + step * cell[1]
            if cell not in reached and room.clearance(*place) > ROBOT_RADIUS + 0.06:
                reached.add(cell)
                todo.append(cell)
    places = [(room.start.x + step * column, room.start.y + step * row) for column, row in reached]
    assert all(room.plan.in_chamber(*place) or room.plan.in_passage(*place) for place in places)  # and not out of it
    assert all(any(chamber.holds(*place) for place in places) for chamber in room.plan.chambers)
    assert all(min(thing.distance_to(*place) for place in places) < 0.4 for thing in room.things)


def test_the_shortest_path_leads_through_the_doorways():
    goal = ball(2.6, 5.5)
    room = row_of_three(goal)
    posts = [(2.0 + T, 1.6 - ROBOT_RADIUS), (2.4 + ROBOT_RADIUS, 2.0 + T)]  # close to which the robot drives
    corners = [(0.0, 0.0), *posts, (goal.x, goal.y)]
    length = sum(math.dist(a, b) for a, b in itertools.pairwise(corners)) - goal.radius - 1.0
    assert shortest_path(room, goal, within=1.0) == pytest.approx(length, rel=0.03)
    closed = dataclasses.replace(room, plan=dataclasses.replace(room.plan, doorways=room.plan.doorways[:1]))
    assert shortest_path(closed, goal, within=1.0) == math.inf


@pytest.mark.parametrize(
    ("pose", "things", "label"),
    [
        (RobotPose(0.0, 1.0, 0.0), (), "doorway"),
        (RobotPose(0.0, 1.0, 0.6), (), "clear"),  # beside the heading
        (RobotPose(0.0, 1.0, 0.0), (ball(1.2, 1.0),), "clear"),  # hidden
        (RobotPose(0.0, 1.0, 0.0), (ball(3.5, 1.0),), "doorway"),  # what stands behind it hides nothing
        (RobotPose(1.8, 1.0, 0.0), (), "clear"),  # too close: it looks into the next chamber
        (RobotPose(2.05, 1.0, 0.0), (), "clear"),  # in it
        (RobotPose(4.6, 1.0, math.pi), (), "doorway"),  # from the other side
        (RobotPose(3.0, -1.0, math.pi / 2), (), "doorway"),  # along y
        (RobotPose(3.0, 4.0, -math.pi / 2), (), "doorway"),  # back again
        (RobotPose(3.0, 4.0, math.pi / 2), (), "clear"),
        (RobotPose(1.0, -1.0, math.atan2(2.0, 1.0)), (), "clear"),  # too far from straight on
        (RobotPose(1.2, -1.0, math.atan2(3.0, 1.8)), (), "clear"),  # the one to the left, hidden by a wall
        (RobotPose(1.0, -1.6, 0.0), (), "clear"),
        (RobotPose(1.1, -1.6, 0.0), (), "wall"),
    ],
)
def test_labels_follow_their_definitions_with_several_doorways(pose, things, label):
    assert truth.label(row_of_three(*things), pose) == label


def test_a_room_without_images_hides_behind_walls_what_the_camera_would_not_see():
    view = KinematicRoom(0, "red ball", kind="chambers")
    assert view.room == make_room(0, "chambers")
    view.room = row_of_three(ball(4.1, -1.0))
    view.pose = Pose(0.0, -1.0, 0.0)
    assert view.where() == "no"
    view.room = row_of_three(ball(4.1, 1.0))
    view.pose = Pose(0.0, 1.0, 0.0)
    assert view.where() == "center far"


@pytest.mark.parametrize("kind", ["room", "chambers"])
def test_the_walls_of_the_truth_are_those_that_the_camera_sees(kind):
    room = dataclasses.replace(make_room(3, kind), things=())
    rng = np.random.default_rng(0)
    full = make_room(3, kind)
    with World(room, 160, 120, samples=0) as world:
        row = 60 - math.tan(CAMERA_PITCH_DOWN) * 60 / math.tan(CAMERA_FOV_Y / 2)  # which looks straight ahead
        for _ in range(25):
            pose = random_pose(full, rng)
            world.place(pose)
            seen = world.depth()[round(row), 79:81].mean() / math.cos(CAMERA_PITCH_DOWN) + CAMERA_FORWARD
            ray = np.array([pose.x]), np.array([pose.y]), math.cos(pose.yaw), math.sin(pose.yaw)
            assert seen == pytest.approx(truth._ray_walls(*ray, room).min(), rel=0.02, abs=0.1), pose


def test_the_view_from_above_shows_every_thing_and_the_camera_a_chamber():
    room = make_room(2, "chambers")
    with World(room, 640, 480) as world:
        above, image = world.image("above"), world.image()
        for thing in room.things:
            column, row = world.pixel_from_above(thing.x, thing.y)
            seen, true = above[round(row), round(column)].astype(float), np.array(thing.rgb)
            assert seen @ true / np.linalg.norm(seen) / np.linalg.norm(true) > 0.95, thing.name
        assert 40 < image.mean() < 220 and image.std() > 10


def test_the_robot_drives_through_a_doorway():
    with World(row_of_three()) as world:
        world.place(RobotPose(1.0, 1.0, 0.0))
        world.drive(0.6, 0.0)
        world.step(4.0)
        assert world.pose.x > 3.0 and world.collisions == 0
        world.place(RobotPose(1.0, 0.3, 0.0))  # against the post of its frame
        world.drive(0.6, 0.0)
        world.step(4.0)
        assert world.pose.x < 2.0 and world.collisions > 0
