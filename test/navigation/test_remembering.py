"""What a robot with a memory does and why, by scripted answers; and that its map makes it no less careful."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_world import PERIOD, Chamber, SearchRobot

from vlm_perception.navigation.behaviours import view_search
from vlm_perception.navigation.motion import STOP, Pose
from vlm_perception.navigation.tuning import Tuning

AHEAD, BEHIND, ASIDE = (1.8, 0.0), (-1.5, 0.0), (1.5, 1.2)
QUICK, SLOW = 0.05, 1.0
KNOWN = Tuning().clear_distance - Tuning().robot_width / 2
"""So far [m] beyond an image the model says at most that the way is free."""


def reasons(robot: SearchRobot) -> str:
    return " | ".join(name for name, _ in itertools.groupby(decision.reason for decision in robot.decisions))


class Wrong:
    """A model of a chamber that says something else at the answers of some numbers, and before or after a time."""

    def __init__(self, chamber: Chamber, target: str, *numbers: int) -> None:
        self.chamber, self.target, self.numbers = chamber, target, numbers
        self.number = 0

    def __call__(self, pose: Pose) -> tuple[str, str, str]:
        target, label, way = self.chamber(pose)
        self.number += 1
        return self.target if self.number in self.numbers else target, label, way


# The search


def test_with_slow_answers_it_looks_around_in_steps_and_turns_while_the_last_image_is_being_answered():
    robot = SearchRobot(Chamber(), SLOW)
    robot.run(6.0)
    assert {decision.state for decision in robot.decisions[30:]} == {"searching"} and "looking for ball" in reasons(
        robot
    )
    turns = [abs(command.turn) > 0.05 for command in robot.sent]
    views = [pose.heading for pose, _ in robot.pilot.map.target.views()]
    assert len(views) >= 3 and all(command.forward == 0.0 for command in robot.sent)
    begins = [n for n in range(1, len(turns)) if turns[n] and not turns[n - 1]]
    assert len(begins) >= 3, "one turn after the other, not a sweep"
    assert min(abs(b - a) for a, b in itertools.pairwise(views)) > 0.5
    # An image is asked about at each view while the robot turns no more, and it turns while that is being answered.
    assert any(turns[round(n * SLOW / PERIOD + 2)] for n in range(1, 5))
    assert max(abs(command.turn) for command in robot.sent) > 1.0


def test_with_quick_answers_it_sweeps():
    robot = SearchRobot(Chamber(), QUICK)
    robot.run(2.5)
    turning = [command.turn for command in robot.sent]
    started = next(n for n, turn in enumerate(turning) if abs(turn) > 0.3)
    assert all(abs(turn) > 0.1 for turn in turning[started : started + 20])
    assert len({math.copysign(1.0, turn) for turn in turning if abs(turn) > 0.1}) == 1
    assert all(command.forward == 0.0 for command in robot.sent)


@pytest.mark.parametrize("delay", [QUICK, SLOW])
@pytest.mark.parametrize("target", [AHEAD, BEHIND, ASIDE])
def test_it_finds_what_is_there_whatever_the_delay(delay, target):
    robot = SearchRobot(Chamber(target=target), delay)
    last = robot.run(90.0)[-1]
    assert last.state == "arrived" and last.found is True
    assert 0.3 < robot.pose.distance_to(target) < Tuning().target_near + 0.05
    assert abs(robot.pose.bearing_of(target)) < 0.7
    assert max(max(abs(pose.x), abs(pose.y)) for pose in robot.poses) < 2.5 - Tuning().robot_width / 2


@pytest.mark.parametrize("delay", [QUICK, SLOW])
def test_what_is_not_there_ends_the_search_with_the_share_that_was_searched(delay):
    robot = SearchRobot(Chamber(half=1.8), delay)
    last = robot.run(240.0)[-1]
    assert last.found is False and last.state == view_search.NOT_FOUND and last.command == STOP
    assert "ball is not here" in last.reason
    share = int(last.reason.split("%")[0].split()[-1])
    assert 60 <= share <= 100 and share == pytest.approx(100 * robot.pilot.map.searched, abs=1.0)
    assert "elsewhere" in reasons(robot), "it looked from more than one place"
    assert robot.step() == last and robot.sent[-1] == STOP, "it stays so"


def test_no_view_is_taken_twice_while_nothing_is_new():
    robot = SearchRobot(Chamber(half=1.8), SLOW)
    robot.run(240.0)
    counts = [count for _, count in robot.pilot.map.target.views()]
    assert sum(counts) <= 2 * len(counts)


# A suspicion, and single wrong answers


@pytest.mark.parametrize("target", ["center far", "left far", "center near"])
@pytest.mark.parametrize("delay", [QUICK, SLOW])
def test_one_wrong_positive_answer_does_not_start_a_pursuit(target, delay):
    robot = SearchRobot(Wrong(Chamber(), target, 4), delay)
    robot.run(16.0)
    assert robot.answered > 6
    assert {decision.state for decision in robot.decisions} <= {"stopped", "searching"}


def test_a_suspicion_is_looked_at_again_before_anything_else():
    robot = SearchRobot(Wrong(Chamber(), "center far", 4), SLOW)
    robot.run(30.0, until=lambda decision: "looking again" in decision.reason)
    assert "there might be ball: looking again" in robot.decisions[-1].reason
    seen_at = robot.newest.heading
    robot.run(10.0, until=lambda decision: "looking again" not in decision.reason)
    assert "looking again" not in robot.decisions[-1].reason, "but not for ever"
    assert abs(math.remainder(robot.pose.heading - seen_at, math.tau)) < 0.6
    robot.run(20.0)
    assert {decision.state for decision in robot.decisions} <= {"stopped", "searching"}


@pytest.mark.parametrize("delay", [QUICK, SLOW])
def test_one_wrong_no_does_not_stop_a_pursuit(delay):
    far = (4.5, 0.0)
    robot = SearchRobot(Chamber(5.5, far), delay)
    robot.run(30.0, until=lambda decision: robot.answered >= 5 and decision.state == "approaching")
    assert robot.decisions[-1].state == "approaching"
    robot.see = Wrong(Chamber(5.5, far), "no", 1)
    decisions = robot.run(30.0)
    assert decisions[-1].state == "arrived"
    assert not {decision.state for decision in decisions} & {"searching", "lost"}


@pytest.mark.parametrize("delay", [QUICK, SLOW])
def test_a_target_that_goes_away_is_searched_for_again(delay):
    robot = SearchRobot(Chamber(target=AHEAD), delay)
    robot.run(30.0, until=lambda decision: decision.state == "approaching")
    robot.see = Chamber()
    robot.run(20.0, until=lambda decision: decision.state == "searching")
    assert robot.decisions[-1].state == "searching"


def test_near_is_confirmed_by_more_than_one_image_before_it_counts():
    robot = SearchRobot(Chamber(target=AHEAD), SLOW)
    robot.run(60.0)
    near = [n for n, pose in enumerate(robot.poses) if pose.distance_to(AHEAD) < Tuning().target_near]
    assert robot.decisions[-1].found and robot.time - near[0] * PERIOD > 1.0
    assert len(robot.pilot.map.target.views()) >= 3 or robot.answered >= 4
    assert robot.sent[-1] == STOP


class LookAlike(Chamber):
    """A thing that looks like the target from afar, and from near by like something else."""

    def where(self, pose: Pose) -> str:
        return "no" if pose.distance_to(self.target) < 1.1 else super().where(pose)


def test_something_that_only_looks_like_the_target_is_given_up():
    robot = SearchRobot(LookAlike(half=2.0, target=(1.6, 0.0)), SLOW)
    robot.run(120.0)
    states = [name for name, _ in itertools.groupby(decision.state for decision in robot.decisions)]
    assert "approaching" in states and "arrived" not in states
    after = states[states.index("approaching") :]
    assert "searching" in after


@pytest.mark.parametrize("delay", [QUICK, SLOW])
def test_what_is_rejected_is_not_driven_to_again(delay):
    robot = SearchRobot(Chamber(target=AHEAD), delay)
    robot.run(30.0, until=lambda decision: decision.state == "approaching")
    robot.see = Chamber()
    robot.pilot.map.reject(*AHEAD)
    before = len(robot.decisions)
    robot.run(20.0)
    assert robot.pilot.map.sector(robot.pose).mass < 0.5
    assert "searching" in {decision.state for decision in robot.decisions[before:]}


# Without a map


def test_without_odometry_it_is_the_careful_search():
    robot = SearchRobot(Chamber(), QUICK)
    robot.has_odometry = False
    robot.run(3.0)
    assert "looking around for ball" in reasons(robot) and robot.pilot.map.answers == 0


@pytest.mark.parametrize("delay", [QUICK, SLOW])
def test_lost_odometry_falls_back_to_the_careful_law_and_its_return_to_the_map(delay):
    robot = SearchRobot(Chamber(), delay)
    robot.run(5.0)
    robot.has_odometry = False
    robot.run(6.0)
    assert robot.pilot.map.answers == 0 and "look around" not in reasons(robot)
    assert "looking around for ball" in robot.decisions[-1].reason or "going elsewhere" in robot.decisions[-1].reason
    robot.has_odometry = True
    # The pose that odometry has then is another than before.
    decisions = robot.run(8.0)
    assert robot.pilot.map.answers > 0 and "looking for ball" in decisions[-1].reason


# Safety


@pytest.mark.parametrize("delay", [QUICK, SLOW])
@pytest.mark.parametrize("seconds", [1.5, 4.0, 7.0, 11.0])
def test_doubt_stops_at_once_and_keeps_the_map(delay, seconds):
    robot = SearchRobot(Chamber(target=BEHIND), delay)
    robot.run(seconds)
    if robot.decisions[-1].found:
        return
    answers = robot.pilot.map.answers
    robot.answers_come = False
    robot.pilot.fail("failure", "the classifier says no")
    for decision in robot.run(3.0):
        assert decision.state == "stopped" and "the classifier says no" in decision.reason
    assert all(command == STOP for command in robot.sent[-round(3.0 / PERIOD) :])
    assert robot.pilot.map.answers == answers
    robot.answers_come = True
    assert robot.run(120.0)[-1].found


@pytest.mark.parametrize("delay", [QUICK, SLOW, 3.0])
def test_answers_that_do_not_come_any_more_stop_it_before_what_it_knows_ends(delay):
    """From many moments of a search: it stops in time, and never beyond what an image said is free."""
    robot = SearchRobot(Chamber(target=BEHIND), delay)
    last = robot.run(25.0)
    moments = len(last)
    for moment in range(round((delay + 0.5) / PERIOD), moments, max(1, moments // 6)):
        other = SearchRobot(Chamber(target=BEHIND), delay)
        other.run(moment * PERIOD)
        if other.decisions[-1].found:
            break
        other.answers_come = False
        place, stopped = other.newest, other.pose
        other.run(4.0 + 4.0 * delay)
        assert other.sent[-1] == STOP and other.decisions[-1].state == "stopped"
        assert other.pose.distance_to((place.x, place.y)) <= KNOWN + 0.05
        assert other.pose.distance_to((stopped.x, stopped.y)) <= KNOWN + 0.05


def test_an_obstacle_that_comes_into_a_way_that_was_known_stops_it():
    """The map knew the way for free; the newest image says that something is there."""

    class Suddenly(Chamber):
        blocked = False

        def __call__(self, pose):
            target, label, way = super().__call__(pose)
            return (target, "obstacle", "none") if self.blocked else (target, label, way)

    for moment in range(2, 12):
        room = Suddenly(half=6.0, target=(5.0, 0.0))
        robot = SearchRobot(room, SLOW)
        robot.run(60.0, until=lambda decision, n=moment, robot=robot: robot.answered >= n)
        if robot.decisions[-1].found is not None:
            break
        room.blocked = True
        robot.run(3.0, until=lambda decision, n=robot.answered, robot=robot: robot.answered > n)
        heading, start = robot.pose.heading, robot.pose
        robot.run(0.9)
        straight = abs(math.remainder(robot.pose.heading - heading, math.tau)) < 0.3
        looked = abs(math.remainder(robot.newest.heading - heading, math.tau)) < 0.1
        if straight and looked:
            assert robot.pose.distance_to((start.x, start.y)) < 0.35, moment


labels = st.sampled_from(["clear", "clear", "clear", "obstacle", "wall", "doorway", "corridor"])
targets = st.sampled_from(["no", "no", "center far", "left far", "right near", "center near"])
ways = st.sampled_from(["center", "left", "right", "none"])
scripts = st.lists(st.tuples(targets, labels, ways), min_size=1, max_size=20)
faults = st.lists(st.tuples(st.integers(1, 30), st.sampled_from(["failure", "silence", "odometry"])), max_size=3)


@settings(max_examples=6, deadline=None)
@given(scripts, st.sampled_from([QUICK, 0.4, SLOW]), faults, st.sampled_from([None, 0.2, 0.34, 0.5, 3.0]))
def test_whatever_is_answered_it_is_as_careful_as_without_a_map(script, delay, faults, depth):
    """Never a command in doubt, never far beyond an image, never many plans in a step, and the same again."""
    sent = []
    for _ in range(2):
        answers = itertools.cycle(script)
        robot = SearchRobot(lambda pose, answers=answers: next(answers), delay, depth and (lambda pose: depth))
        at = {time * 5: fault for time, fault in faults}
        plans = count_plans(robot)
        for number in range(160):
            fault = at.get(number)
            if fault == "failure":
                robot.pilot.fail("failure", "a test")
            robot.answers_come = robot.answers_come != (fault == "silence")
            robot.has_odometry = robot.has_odometry != (fault == "odometry")
            plans.clear()
            robot.step()
            assert len(plans) <= 5, "it plans again and again in one step"
            command, pilot = robot.sent[-1], robot.pilot
            if command != STOP:
                assert not pilot.doubt(robot.now - PERIOD, robot.time - PERIOD) and pilot.decision.found is None
                assert robot.now - PERIOD - pilot.answers.surroundings.stamp <= pilot.answers.allowed_age + 1e-6
            if command.forward > 0.0:
                assert pilot.free is None or pilot.free >= Tuning().stop_distance
                beyond = robot.pose.distance_to((robot.newest.x, robot.newest.y))
                assert beyond <= max(KNOWN, Tuning().watched_distance) + 0.05
        sent.append(robot.sent)
    assert sent[0] == sent[1]


def count_plans(robot: SearchRobot) -> list[str]:
    """Return a list that gets an entry for each plan the robot makes."""
    plans: list[str] = []
    behaviour = robot.pilot._behaviour
    original = behaviour.plan_view

    def plan_view(*args, **keywords):
        plans.append("plan")
        if len(plans) > 20:
            raise AssertionError("it plans for ever in one step")
        return original(*args, **keywords)

    behaviour.plan_view = plan_view
    return plans


@pytest.mark.parametrize("delay", [QUICK, SLOW])
@pytest.mark.parametrize("every", [40, 200])
def test_depth_that_comes_and_goes_leads_to_no_endless_plan(delay, every):
    robot = SearchRobot(Chamber(half=6.0, target=(5.0, 0.0)), delay)
    robot.depth = lambda pose: 0.2 if round(robot.time / PERIOD) % every > 0.7 * every else 2.0
    plans = count_plans(robot)
    for _ in range(900):
        plans.clear()
        robot.step()
        assert len(plans) <= 5
        assert robot.sent[-1].forward <= 0.0 or robot.pilot.free >= Tuning().stop_distance


def test_a_thing_that_only_depth_sees_is_not_stood_before_for_ever():
    thing = (1.2, 0.0)

    def depth(pose):
        far, bearing = pose.distance_to(thing), pose.bearing_of(thing)
        in_the_way = abs(far * math.sin(bearing)) < 0.3 and math.cos(bearing) > 0.0
        return max(0.05, far * math.cos(bearing) - 0.2) if in_the_way else 9.0

    robot = SearchRobot(Chamber(half=4.0), QUICK, depth)
    robot.run(60.0)
    stood = max(
        (len(list(group)) for still, group in itertools.groupby(command == STOP for command in robot.sent) if still)
    )
    assert stood * PERIOD < 15.0 and min(pose.distance_to(thing) for pose in robot.poses) > 0.25
