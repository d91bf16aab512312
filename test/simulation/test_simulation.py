"""The room by seed, its ground truth by geometry, the robot's physics and its camera."""

import dataclasses
import hashlib
import math
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm_perception.simulation import truth
from vlm_perception.simulation.floor_plan import WALL_THICKNESS, room_with_corridor
from vlm_perception.simulation.room import NAMES, RobotPose, Room, Thing, make_room
from vlm_perception.simulation.world import World


def room_with(*things: Thing) -> Room:
    """A room of 8 x 6 m whose door is in the middle of the wall at +x."""
    plan = room_with_corridor(8.0, 6.0, door_y=0.0, door_width=1.2, corridor_length=5.0, corridor_width=1.8)
    return dataclasses.replace(make_room(0), plan=plan, things=things, start=RobotPose(0.0, 0.0, 0.0))


def thing(shape: str, x: float, y: float, colour: str = "red") -> Thing:
    return Thing(colour, shape, x, y, 0.0, 0.2, 0.4, (0.9, 0.1, 0.1))


@pytest.mark.parametrize("seed", range(40))
def test_a_room_keeps_its_promises(seed):
    room = make_room(seed)
    assert room == make_room(seed)
    assert 5 <= len(room.things) <= 9
    assert len({t.name for t in room.things}) == len(room.things)
    assert room.clearance(room.start.x, room.start.y) > 0.6
    for t in room.things:
        assert t.name in NAMES
        assert abs(t.x) + t.outer_radius < room.plan.chambers[0].x1
        others = dataclasses.replace(room, things=tuple(o for o in room.things if o is not t))
        assert others.clearance(t.x, t.y) > t.radius + 0.4  # the robot fits between all of them


def test_rooms_differ_and_a_wrong_seed_is_named():
    assert make_room(1) != make_room(2)
    assert make_room(1).things != make_room(1, "chambers").things
    with pytest.raises(ValueError, match="seed is -1"):
        make_room(-1)
    with pytest.raises(ValueError, match="seed is 4294967296"):
        make_room(2**32)
    with pytest.raises(ValueError, match="'maze', expected one of room, chambers"):
        make_room(1, "maze")


def rounded(value):
    """Numbers that are the same on every machine."""
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return round(value, 6) + 0.0 if isinstance(value, float) else value


def test_rooms_stay_as_the_nano_model_was_trained_and_judged_in_them():
    """Another kind of rooms, or another order of lots, must not change the rooms that there are."""
    rooms = [make_room(seed) for seed in range(20)]
    values = [([astuple(thing) for thing in room.things], astuple(room.start), sorted(room.walls)) for room in rooms]
    digest = hashlib.sha256("".join(repr(rounded(value)) for value in values).encode()).hexdigest()
    assert digest == "874ed866716dc21769e06d14b70216f7107c7912defd71b03a5f34a864d8c555"


def test_rooms_look_as_the_nano_model_has_seen_them():
    before = np.asarray(Image.open(Path(__file__).with_name("room-5.png"))).astype(int)
    with World(make_room(5), 160, 120) as world:
        now = np.hstack([world.image(), world.image("above")])
    difference = np.abs(before - now)
    assert difference.mean() < 1.0 and np.percentile(difference, 99) < 20  # another driver draws edges otherwise


@pytest.mark.parametrize(
    ("pose", "things", "label"),
    [
        (RobotPose(-2, 0, math.pi / 2), (), "clear"),
        (RobotPose(-2, 0, 0), (thing("ball", -1.2, 0),), "obstacle"),  # surface at 0.6 m
        (RobotPose(-2, 0, 0), (thing("ball", -1.1, 0),), "clear"),  # at 0.7 m
        (RobotPose(-2, 0, 0), (thing("box", -1.4, 0.4),), "obstacle"),  # its edge reaches into the swath
        (RobotPose(-2, 0, 0), (thing("box", -1.4, 0.5),), "clear"),
        (RobotPose(-2, 0, math.pi), (thing("ball", -1.2, 0),), "clear"),  # behind
        (RobotPose(-3.1, 0, math.pi), (), "wall"),
        (RobotPose(-2.9, 0, math.pi), (), "clear"),
        (RobotPose(1.5, 0, 0), (), "doorway"),
        (RobotPose(1.5, 0, 0.6), (), "clear"),  # beside the heading
        (RobotPose(0.0, 0, 0), (), "clear"),  # too far away
        (RobotPose(1.5, 0, 0), (thing("ball", 2.8, 0),), "clear"),  # hidden
        (RobotPose(4.0 + WALL_THICKNESS + 1, 0, 0.2), (), "corridor"),
        (RobotPose(4.0 + WALL_THICKNESS + 1.5, 0, math.pi), (), "corridor"),
        (RobotPose(4.0 + WALL_THICKNESS + 0.5, 0, math.pi), (), "clear"),  # almost out of it
        (RobotPose(3.6, 0, 0), (), "corridor"),  # almost in it
        (RobotPose(4.0 + WALL_THICKNESS + 1, 0, math.pi / 2), (), "wall"),
    ],
)
def test_labels_follow_their_definitions(pose, things, label):
    assert truth.label(room_with(*things), pose) == label


def test_the_way_is_where_there_is_room():
    assert truth.way(room_with(), RobotPose(-2, 0, 0)) == "center"
    # Something ahead and more of it to the left leaves the right, and the reverse.
    assert (
        truth.way(room_with(thing("box", -1.0, 0.25), thing("box", -1.0, 0.75, "blue")), RobotPose(-2, 0, 0)) == "right"
    )
    assert (
        truth.way(room_with(thing("box", -1.0, -0.25), thing("box", -1.0, -0.75, "blue")), RobotPose(-2, 0, 0))
        == "left"
    )
    assert truth.way(room_with(), RobotPose(-3.5, 0, math.pi)) == "none"


@pytest.mark.parametrize("shape", ["ball", "box", "cylinder"])
def test_the_camera_sees_things_where_they_are(shape):
    near, far = thing(shape, -1.2, 0.0), thing(shape, 0.5, 1.3, "blue")
    room = room_with(near, far)
    with World(room, 320, 240) as world:
        world.place(RobotPose(-2, 0, 0))
        seen = truth.sightings(room, world.pose, world.segmentation())
        image = world.image()
        assert [item.name for item in seen] == [f"blue {shape}", f"red {shape}"]  # +y is left
        assert truth.description(seen) == f"blue {shape} left far, red {shape} center near"
        column = int(seen[1].column * 320)
        red, green, blue = image[130, column].astype(int)
        assert red > 2 * green and red > 2 * blue
        world.place(RobotPose(-2, 0, math.pi))
        assert truth.sightings(room, world.pose, world.segmentation()) == []
        assert truth.description([]) == "no objects"


def test_wheels_drive_and_turn_the_robot_as_told():
    with World(room_with()) as world:
        world.place(RobotPose(-2, 0, 0))
        world.drive(0.3, 0.0)
        world.step(2.0)
        assert world.pose.x == pytest.approx(-2 + 0.3 * 2 - 0.03, abs=0.03)  # less what getting up to speed takes
        assert world.pose.y == pytest.approx(0, abs=0.01)
        assert world.odometry.x == pytest.approx(world.pose.x + 2, abs=0.02)
        world.drive(0.0, 1.0)
        world.step(1.0)
        assert 0.7 < world.pose.yaw < 1.1  # positive is left
        assert world.odometry.yaw == pytest.approx(world.pose.yaw, abs=0.1)
        world.drive(0.0, 0.0)
        world.step(1.0)
        before = world.pose
        world.step(1.0)
        assert math.dist((before.x, before.y), (world.pose.x, world.pose.y)) < 0.005
        assert world.collisions == 0


def test_the_base_limits_speed_and_refuses_nonsense():
    with World(room_with()) as world:
        world.place(RobotPose(-3, 0, 0))
        world.drive(100.0, 0.0)
        world.step(1.0)
        assert world.speed[0] == pytest.approx(0.7, abs=0.02)
        with pytest.raises(ValueError, match="not finite"):
            world.drive(math.nan, 0.0)


def test_a_collision_is_counted_once_per_touch():
    with World(room_with(thing("box", -1.0, 0))) as world:
        world.place(RobotPose(-2, 0, 0))
        world.drive(0.3, 0.0)
        world.step(1.0)
        assert world.collisions == 0
        world.step(4.0)
        assert world.collisions >= 1
        count = world.collisions
        world.drive(-0.3, 0.0)
        world.step(2.0)
        assert world.collisions - count <= 1
        assert world.pose.x < -1.6


def test_odometry_starts_anew_when_the_robot_is_placed():
    with World(room_with()) as world:
        world.drive(0.3, 0.5)
        world.step(1.0)
        assert world.odometry.x > 0.1
        world.place(RobotPose(1, 1, 1))
        assert world.odometry == RobotPose(0, 0, 0)
        assert world.pose.yaw == pytest.approx(1)


def test_points_on_the_floor_are_found_from_above():
    room = room_with(thing("cylinder", 2.0, -1.5))
    with World(room, 640, 480) as world:
        column, row = world.pixel_from_above(2.0, -1.5)
        red, green, blue = world.image("above")[round(row), round(column)].astype(int)
        assert red > green + 40 and red > blue + 40


def test_images_of_the_same_pose_are_the_same():
    with World(make_room(5), 160, 120) as world:
        assert np.array_equal(world.image(), world.image())
