"""The yardstick of SPL, and that the rooms are fair: everything can be reached and seen."""

import dataclasses
import math

import pytest

from vlm_perception.simulation import truth
from vlm_perception.simulation.floor_plan import room_with_corridor
from vlm_perception.simulation.room import ROBOT_RADIUS, RobotPose, Room, Thing, make_room
from vlm_perception.simulation.shortest_path import shortest_path

RED = (0.8, 0.1, 0.1)


def room_with(*things: Thing, start: tuple[float, float] = (0.0, 0.0)) -> Room:
    """An 8 m square with `things` in it."""
    pose = RobotPose(*start, 0.0)
    plan = room_with_corridor(8.0, 8.0, door_y=0.0, door_width=1.2, corridor_length=5.0, corridor_width=1.8)
    return dataclasses.replace(make_room(0), plan=plan, things=things, start=pose)


def ball(x: float, y: float, radius: float = 0.2, colour: str = "red") -> Thing:
    return Thing(colour, "ball", x, y, 0.0, radius, 2 * radius, RED)


@pytest.mark.parametrize("angle", [0.0, 0.2, math.pi / 4, 1.0, 2.5, -2.0])
def test_a_free_way_is_straight_whatever_its_direction(angle):
    goal = ball(3 * math.cos(angle), 3 * math.sin(angle))
    length = shortest_path(room_with(goal), goal, within=1.0)
    assert 1.8 - 1e-9 <= length <= 1.8 * 1.013 + 0.05


def test_a_way_leads_around_what_is_in_between_at_the_robots_distance():
    goal, pillar = ball(3.0, 0.0), ball(1.2, 0.0, 0.5, "blue")
    away = 0.5 + ROBOT_RADIUS
    around = 2 * math.sqrt(1.2**2 - away**2)  # tangents to the circle that the robot's centre keeps out of ...
    around += away * (math.pi - 2 * math.acos(away / 1.2))  # ... and the arc between them
    free = 1.8 - 1.2 * 2  # from there on straight
    length = shortest_path(room_with(goal, pillar), goal, within=1.0)
    assert length == pytest.approx(around + free, rel=0.04)
    assert length > 1.9


def test_there_is_nothing_to_drive_within_reach_and_no_way_through_a_fence():
    near = ball(1.1, 0.0)
    assert shortest_path(room_with(near), near, within=1.0) == 0.0
    goal = ball(3.5, 3.5)
    fence = [ball(1.5 * math.cos(a), 1.5 * math.sin(a), colour="blue") for a in (math.tau * i / 16 for i in range(16))]
    assert shortest_path(room_with(goal, *fence), goal, within=1.0) == math.inf


def test_every_target_of_a_room_can_be_reached_from_its_start():
    for seed in range(40):
        room = make_room(seed)
        for thing in room.things:
            straight = max(0.0, thing.distance_to(room.start.x, room.start.y) - 1.0)
            assert straight - 1e-9 <= shortest_path(room, thing, 1.0) < straight + 3.0, (seed, thing.name)


def test_every_target_of_a_room_is_seen_from_somewhere_in_it():
    world = pytest.importorskip("vlm_perception.simulation.world")
    for seed in range(8):
        room = make_room(seed)
        with world.World(room, 320, 240, samples=0) as view:
            for thing in room.things:
                assert any(_is_seen(room, thing, view, pose) for pose in _poses_around(room, thing)), (seed, thing.name)


def _poses_around(room: Room, thing: Thing) -> list[RobotPose]:
    """Where a robot has room, a metre away, with the thing ahead."""
    angles = [math.tau * i / 12 for i in range(12)]
    places = [(thing.x + math.cos(a), thing.y + math.sin(a), a + math.pi) for a in angles]
    return [
        RobotPose(x, y, math.remainder(yaw, math.tau)) for x, y, yaw in places if room.clearance(x, y) > ROBOT_RADIUS
    ]


def _is_seen(room: Room, thing: Thing, view, pose: RobotPose) -> bool:
    view.place(pose)
    return any(seen.name == thing.name and seen.visible for seen in truth.sightings(room, pose, view.segmentation()))
