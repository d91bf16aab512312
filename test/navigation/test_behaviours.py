"""What the robot decides, answer by answer, and in whole rooms."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from kinematic_room import READ_SURROUNDINGS, READ_TARGET, KinematicRoom, answer

from vlm_perception.navigation.behaviours.base import Behaviour, Decision, WorldState
from vlm_perception.navigation.behaviours.explore import Explore
from vlm_perception.navigation.behaviours.follow import Follow
from vlm_perception.navigation.behaviours.idle import Idle
from vlm_perception.navigation.behaviours.search import Search
from vlm_perception.navigation.motion import STOP, Limits, MotionLimiter, Pose
from vlm_perception.navigation.tuning import Tuning
from vlm_perception.questions import Answer


class Script:
    """Feeds a behaviour with answers at 10 Hz and steps it at 20 Hz; the robot moves as commanded."""

    def __init__(self, behaviour: Behaviour, period: float = 0.1, moves: bool = True) -> None:
        self.behaviour = behaviour
        self.period = period
        self.moves = moves
        self.time = 0.0
        self.pose = Pose()
        self.limiter = MotionLimiter(Limits(), 0.05)

    def feed(
        self, target: str | Answer, label: str | Answer = "clear", way: str = "center", answers: int = 1
    ) -> list[Decision]:
        """Give the same answers several times; return all decisions."""
        if isinstance(target, str):
            target = answer(READ_TARGET.options, target)
        if isinstance(label, str):
            label = answer(READ_SURROUNDINGS.labels, label)
        decisions = []
        for _ in range(answers):
            stamp, pose_then = self.time, self.pose
            world = WorldState(
                READ_SURROUNDINGS.read(label, answer(READ_SURROUNDINGS.ways, way), stamp),
                READ_TARGET.read(target, stamp),
                period=self.period,
            )
            for _ in range(round(self.period / 0.05)):
                now = WorldState(world.surroundings, world.sighting, self.pose, pose_then, self.period)
                decisions.append(self.step(now))
        return decisions

    def step(self, world: WorldState) -> Decision:
        decision = self.behaviour.step(world, self.time)
        sent = self.limiter.step(decision.command) or STOP
        if self.moves:
            x, y = self.pose.ahead(sent.forward * 0.05)
            self.pose = Pose(x, y, self.pose.heading + sent.turn * 0.05)
        self.time += 0.05
        return decision


def approaching(sure: float = 0.95) -> Script:
    script = Script(Search("ball"))
    seen = mixed({"center far": sure, "no": 1.0 - sure})
    assert script.feed(seen, answers=20)[-1].state == "approaching"
    return script


def mixed(chances: dict[str, float]) -> Answer:
    """An answer with these probabilities."""
    probabilities = tuple(chances.get(option, 0.0) for option in READ_TARGET.options)
    value = max(chances, key=chances.__getitem__)
    return Answer(value, chances[value], READ_TARGET.options, probabilities)


UNSURE_CLOSE_UP = mixed({"no": 0.5, "center near": 0.47, "center far": 0.03})


def test_idle_is_still():
    script = Script(Idle())
    assert {(d.command, d.state) for d in script.feed("center far", answers=5)} == {(STOP, "stopped")}


@pytest.mark.parametrize(("side", "sign"), [("left", 1.0), ("right", -1.0)])
def test_a_target_at_the_side_is_turned_to(side, sign):
    script = Script(Search("ball"), moves=False)
    decision = script.feed(f"{side} far", answers=8)[-1]
    assert decision.state == "aligning" and side in decision.reason
    assert decision.command.turn * sign > 0.2 and 0.0 < decision.command.forward < 0.5 * Tuning().forward_speed
    blocked = Script(Search("ball"), moves=False).feed(f"{side} far", "obstacle", answers=8)[-1]
    assert blocked.state == "aligning" and blocked.command.turn * sign > 0.2 and blocked.command.forward == 0.0


def test_turning_stops_when_odometry_says_it_is_done_not_when_the_next_answer_comes():
    script = Script(Search("ball"), moves=False)
    view = script.feed("left far", answers=8)
    assert view[-1].command.turn > 0.0
    newest = script.behaviour.world
    turned = WorldState(
        newest.surroundings, newest.sighting, Pose(heading=script.behaviour.belief.heading), Pose(), 0.1
    )
    assert script.step(turned).command.turn == pytest.approx(0.0, abs=1e-6)


def test_one_wrong_answer_neither_starts_nor_stops_nor_loses():
    script = Script(Search("ball"))
    script.feed("no", answers=10)
    assert {d.state for d in script.feed("center near") + script.feed("no", answers=5)} == {"searching"}

    script = approaching()
    wrong = script.feed("no") + script.feed("center far", answers=5)
    assert {d.state for d in wrong} == {"approaching"}
    wrong = script.feed("center near", label="obstacle") + script.feed("center far", answers=5)
    assert {d.state for d in wrong} == {"approaching"} and wrong[-1].command.forward > 0.1
    wrong = script.feed("center far", label="obstacle") + script.feed("center far", answers=5)
    assert {d.state for d in wrong} == {"approaching"} and wrong[-1].command.forward > 0.1


def test_near_and_center_confirmed_is_arrived_and_stays_so():
    script = approaching()
    decisions = script.feed("center near", "obstacle", "none", answers=10)
    assert decisions[1].command.forward < 0.1, "it does not rush on while it makes sure"
    assert decisions[5].state != "arrived" and decisions[-1].state == "arrived" and decisions[-1].found is True
    assert script.feed("left far", answers=20)[-1] == decisions[-1]


def test_near_at_the_side_is_turned_to_before_it_counts():
    script = approaching()
    decisions = script.feed("left near", "clear", answers=6)
    assert decisions[-1].command.turn > 0.0 and decisions[-1].found is None


def test_near_with_nothing_ahead_is_doubted():
    script = approaching()
    decisions = script.feed("center near", "clear", answers=6)
    assert decisions[-1].state == "approaching" and "nothing is ahead" in decisions[-1].reason
    assert 0.0 < decisions[-1].command.forward <= 0.08
    assert script.feed("center near", "clear", answers=60)[-1].state == "arrived", "but not for ever"


def test_it_backs_up_only_where_it_came_from():
    """An unsure target near ahead is looked at again from farther away, but not after the robot has been elsewhere."""
    unsure = mixed({"center near": 0.55, "center far": 0.3, "no": 0.15})
    straight = approaching()
    assert any(d.command.forward < 0.0 for d in straight.feed(unsure, "obstacle", answers=80))
    for turned in (0.3, 1.5, 3.0):
        elsewhere = approaching()
        elsewhere.feed("no", answers=15)
        elsewhere.pose = Pose(2.0, 1.0, elsewhere.pose.heading + turned)
        decisions = elsewhere.feed("no", answers=100) + elsewhere.feed(unsure, "obstacle", answers=80)
        assert all(d.command.forward >= 0.0 for d in decisions)


def test_a_base_that_brakes_badly_is_driven_so_that_it_stops_in_sight():
    for braking in (0.2, 0.5, 1.5):
        script = Script(Search("ball", Tuning(braking=braking)))
        script.limiter = MotionLimiter(Limits(braking=braking), 0.05)
        script.feed("center far", answers=25)
        newest, start = script.behaviour.world, script.pose
        for _ in range(200):  # no more answers, and nobody says so
            script.step(WorldState(newest.surroundings, newest.sighting, script.pose, start, 0.1))
        assert script.pose.distance_to((start.x, start.y)) <= Tuning().blind_distance + 0.03


def test_what_was_sure_from_afar_may_be_unsure_close_up():
    script = approaching(sure=0.95)
    decisions = script.feed(UNSURE_CLOSE_UP, label="obstacle", answers=20)
    assert decisions[-1].state == "arrived"
    # Nothing that the robot drove towards while the way was clear: then half a chance is not enough.
    script = Script(Search("ball"))
    assert "arrived" not in {d.state for d in script.feed(UNSURE_CLOSE_UP, label="obstacle", answers=100)}
    # Ahead, but far: it is another thing that is close.
    script = approaching(sure=0.95)
    far = mixed({"no": 0.3, "center near": 0.2, "center far": 0.5})
    assert "arrived" not in {d.state for d in script.feed(far, label="obstacle", answers=60)}


def test_it_does_not_stand_for_ever_before_what_it_is_not_sure_of():
    script = approaching(sure=0.8)
    before = script.pose
    decisions = script.feed(mixed({"no": 0.4, "center near": 0.6}), label="obstacle", answers=60)
    assert "arrived" not in {d.state for d in decisions}
    assert min(d.command.forward for d in decisions) < 0.0  # back to look again
    assert max(d.command.forward for d in decisions[20:]) <= 0.0
    assert script.pose.x > before.x - 0.4  # a little


def test_it_does_not_stand_for_ever_where_the_way_is_neither_clear_nor_blocked():
    script = approaching()
    chances = {"clear": 0.48, "obstacle": 0.52}
    labels = READ_SURROUNDINGS.labels
    unsure = Answer("obstacle", 0.52, labels, tuple(chances.get(label, 0.0) for label in labels))
    decisions = script.feed("center far", unsure, "left", answers=100)
    stood = [n for n, decision in enumerate(decisions) if "looking again" in decision.reason]
    assert stood and all(decisions[n].command == STOP for n in stood)
    after = decisions[stood[-1] + 1 :]
    assert after[0].state == "detouring" and max(d.command.turn for d in after[:20]) > 0.0, "towards the free side"
    assert max(d.command.forward for d in after) < 0.1, "nowhere is it clear"


def test_another_thing_in_the_way_stops_at_once_and_leads_around_it():
    script = approaching()
    before = script.pose
    decisions = script.feed("center far", "obstacle", "left", answers=30)
    assert decisions[0].command.forward <= 0.08
    states = [d.state for d in decisions]
    assert "detouring" in states
    first = decisions[states.index("detouring") + 2]
    assert first.command.turn > 0.0 and first.command.forward == 0.0, "towards the free side"
    assert script.pose.distance_to((before.x, before.y)) < 0.35


def test_a_lost_target_is_awaited_then_looked_for_where_it_was():
    script = approaching()
    script.feed("left far", answers=3)
    decisions = script.feed("no", answers=60)
    states = [d.state for d in decisions]
    lost = states.index("lost")
    assert decisions[lost].command == STOP and "waiting" in decisions[lost].reason
    assert any("looking where it was" in d.reason for d in decisions)
    assert states[-1] == "searching"
    assert script.feed("center far", answers=5)[-1].state in ("approaching", "aligning")


def test_doubt_is_stillness_and_takes_new_answers_to_end():
    script = approaching()
    decision = script.step(WorldState(doubt="the camera is gone"))
    assert (decision.command, decision.state, decision.reason) == (STOP, "stopped", "the camera is gone")
    assert all(d.command.forward == 0.0 for d in script.feed("center far"))
    assert script.feed("center far", answers=10)[-1].command.forward > 0.1


def test_search_looks_all_around_then_goes_elsewhere_then_gives_up_in_time():
    script = Script(Search("ball", time_limit=30.0))
    decisions = script.feed("no", answers=120)
    leaves = next(i for i, decision in enumerate(decisions) if "going elsewhere" in decision.reason)
    assert all(decision.command.forward == 0.0 and decision.command.turn >= 0.0 for decision in decisions[:leaves])
    assert sum(decision.command.turn for decision in decisions[:leaves]) * 0.05 > math.tau
    decisions = script.feed("no", answers=200)
    assert script.pose.distance_to((0.0, 0.0)) > 1.0
    assert decisions[-1] == Decision(STOP, "stopped", "ball was not found within 30 s", found=False)


@pytest.mark.parametrize("period", [0.1, 1.0, 10.0])
def test_turning_is_so_slow_that_nothing_leaves_the_view_unseen(period):
    script = Script(Search("ball"), period=period)
    answers = 30 if period > 0.5 else 60
    headings = []
    for _ in range(answers):
        headings.append(script.pose.heading)
        script.feed("no", label="wall", way="none")
        if script.pose.heading > math.pi:
            break
    assert script.pose.heading > 1.0
    assert max(b - a for a, b in itertools.pairwise(headings)) < READ_TARGET.field_of_view / 2.5


def test_it_never_drives_far_beyond_the_newest_image():
    script = approaching()
    newest = script.behaviour.world
    start = script.pose
    for _ in range(200):  # no more answers, and nobody says so
        script.step(WorldState(newest.surroundings, newest.sighting, script.pose, start, 0.1))
    assert script.pose.distance_to((start.x, start.y)) <= Tuning().blind_distance + 0.02


def test_follow_keeps_the_distance_and_goes_on():
    script = Script(Follow("ball"))
    assert script.feed("center far", answers=20)[-1].command.forward > 0.1
    decisions = script.feed("center near", "obstacle", answers=20)
    assert decisions[-1].state == "following" and decisions[-1].command == STOP and decisions[-1].found is None
    decisions = script.feed("left near", answers=10)
    assert decisions[-1].command.turn > 0.0 and decisions[-1].command.forward == 0.0
    script.feed("center far", answers=20)
    assert script.feed("center far", answers=5)[-1].command.forward > 0.1
    waiting = script.feed("no", answers=400)
    assert all(d.found is None for d in waiting) and all(d.command.forward == 0.0 for d in waiting[200:])


def test_explore_drives_where_it_is_clear_and_turns_one_way_where_it_is_not():
    script = Script(Explore())
    assert script.feed("no", "clear", answers=20)[-1].command.forward > 0.2
    decisions = script.feed("no", "wall", "right", answers=15)
    assert decisions[1].command.forward == 0.0
    turning = [d for d in decisions if d.command.turn != 0.0]
    assert turning and all(d.command.turn < 0.0 and d.command.forward == 0.0 for d in turning)
    script.feed("no", "wall", "none", answers=400)
    assert "all sides" in " ".join(d.reason for d in script.feed("no", "wall", "none", answers=200))
    assert script.feed("no", "corridor", "center", answers=60)[-1].reason == "driving through a doorway or corridor"


def test_the_same_views_give_the_same_decisions():
    def decisions() -> list[Decision]:
        draw = random.Random(3)
        script = Script(Search("ball"))
        return [
            decision
            for _ in range(300)
            for decision in script.feed(draw.choice(READ_TARGET.options), draw.choice(READ_SURROUNDINGS.labels))
        ]

    assert decisions() == decisions()


def test_no_answers_however_wild_break_the_law():
    """Always a finite command within the speeds, and at most a creep where the newest answer says blocked."""
    for seed, behaviour in enumerate((Search("ball"), Follow("ball"), Explore())):
        draw = random.Random(seed)
        script = Script(behaviour)
        for _ in range(400):
            target, label = draw.choice(READ_TARGET.options), draw.choice(READ_SURROUNDINGS.labels)
            for decision in script.feed(target, label, draw.choice(READ_SURROUNDINGS.ways)):
                assert decision.command.is_finite and decision.reason
                assert 0.0 <= decision.command.forward <= 0.7 and abs(decision.command.turn) <= 2.0
                assert label not in ("obstacle", "wall") or decision.command.forward <= 0.08


@pytest.mark.parametrize(("low", "high"), [("lose", "see"), ("clear", "blocked"), ("creep_speed", "forward_speed")])
def test_thresholds_in_the_wrong_order_are_refused(low, high):
    with pytest.raises(ValueError, match=f"{low} is 0.9, expected at most {high}"):
        Tuning(**{low: 0.9})


# Whole rooms


@pytest.mark.parametrize("seed", range(16))
def test_it_finds_targets_with_wrong_and_late_answers_and_touches_nothing(seed):
    room = KinematicRoom(seed, wrong=0.1, delay=0.3)
    decision = room.run(Search(room.target), time_limit=180.0)
    assert decision.found, decision
    assert 0.3 < room.distance < 0.75
    assert room.closest > 0.2


@pytest.mark.parametrize(("delay", "limit"), [(1.0, 400.0), (4.0, 1500.0), (10.0, 3000.0)])
def test_a_slow_model_is_slow_but_right(delay, limit):
    for seed in range(4):
        room = KinematicRoom(seed, delay=delay, period=delay, max_answer_age=3.0 * delay)
        assert room.run(Search(room.target), time_limit=limit).found
        assert room.distance < 0.75 and room.closest > 0.2


@pytest.mark.slow
def test_what_is_not_there_is_not_found():
    for seed in range(3):
        room = KinematicRoom(seed, target="pink elephant", wrong=0.1)
        decision = room.run(Search(room.target, time_limit=60.0), time_limit=90.0)
        assert decision.found is False and room.closest > 0.2


@pytest.mark.slow
def test_exploring_goes_far_and_touches_nothing():
    for seed in range(4):
        room = KinematicRoom(seed, wrong=0.05)
        room.run(Explore(), time_limit=90.0)
        steps = zip(room.path, room.path[1:], strict=False)
        assert sum(a.distance_to((b.x, b.y)) for a, b in steps) > 5.0
        assert room.closest > 0.2
