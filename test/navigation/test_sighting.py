"""From answers to what a robot can act on, and when answers may be believed."""

from __future__ import annotations

import dataclasses
import math

import pytest
from kinematic_room import READ_SURROUNDINGS, READ_TARGET, answer

from vlm_perception.navigation.answer_monitor import AnswerMonitor
from vlm_perception.navigation.belief import Belief
from vlm_perception.navigation.motion import wrap
from vlm_perception.navigation.sighting import (
    Sighting,
    Surroundings,
    SurroundingsReading,
    TargetReading,
    UnusableAnswerError,
    check_target,
)
from vlm_perception.questions import Answer

OPTIONS = READ_TARGET.options
MIDDLE_OF_THIRD = math.atan(2 / 3 * math.tan(1.312 / 2))


def distribution(**chances: float) -> Answer:
    chance = {name.replace("_", " "): p for name, p in chances.items()}
    probabilities = tuple(chance.get(option, 0.0) for option in OPTIONS)
    best = max(range(len(OPTIONS)), key=probabilities.__getitem__)
    return Answer(OPTIONS[best], probabilities[best], OPTIONS, probabilities)


def test_a_sighting_weighs_all_answers():
    sighting = READ_TARGET.read(distribution(no=0.2, center_far=0.4, left_far=0.2, center_near=0.2), stamp=7.0)
    assert (sighting.stamp, sighting.direction, sighting.range) == (7.0, "center", "far")
    assert sighting.visible == pytest.approx(0.8) and sighting.confidence == pytest.approx(0.8)
    assert sighting.near == pytest.approx(0.25) and sighting.in_reach == pytest.approx(0.2)
    assert sighting.bearing == pytest.approx(0.25 * MIDDLE_OF_THIRD)


@pytest.mark.parametrize(("side", "bearing"), [("left", MIDDLE_OF_THIRD), ("center", 0.0), ("right", -MIDDLE_OF_THIRD)])
def test_left_is_positive(side, bearing):
    assert READ_TARGET.read(distribution(**{f"{side}_far": 1.0}), 0.0).bearing == pytest.approx(bearing)


def test_nothing_seen_has_no_direction():
    sighting = READ_TARGET.read(distribution(no=1.0), 0.0)
    assert (sighting.visible, sighting.direction, sighting.range, sighting.bearing) == (0.0, "", "", 0.0)
    assert sighting.confidence == 1.0


def test_the_words_are_the_users():
    options = ("nein", "links nah", "links fern", "mitte nah", "mitte fern", "rechts nah", "rechts fern")
    reading = TargetReading(options, READ_TARGET.meanings, 1.3)
    assert reading.read(answer(options, "links nah"), 0.0).direction == "left"
    with pytest.raises(ValueError, match="unknown"):
        TargetReading(options, (*READ_TARGET.meanings[:-1], "behind"), 1.3)
    with pytest.raises(ValueError, match="no target option means"):
        TargetReading(options, (*READ_TARGET.meanings[:-1], "absent"), 1.3)


GOOD = distribution(no=0.1, left_far=0.9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"probabilities": (math.nan, *GOOD.probabilities[1:])}, "not in 0..1"),
        ({"probabilities": (math.inf, *GOOD.probabilities[1:])}, "not in 0..1"),
        ({"probabilities": (-0.5, 1.5, 0.0, 0.0, 0.0, 0.0, 0.0)}, "not in 0..1"),
        ({"probabilities": (0.1,) * 7}, "add up to 0.7"),
        ({"probabilities": (0.5, 0.5)}, "2 probabilities for 7 options"),
        ({"options": ("yes", "no")}, "asked were"),
        ({"value": "behind"}, "expected one of"),
        ({"value": "no"}, "contradicts itself"),
    ],
)
def test_an_answer_that_is_none_never_becomes_a_sighting(change, words):
    with pytest.raises(UnusableAnswerError, match=words):
        READ_TARGET.read(dataclasses.replace(GOOD, **change), 0.0)


# By option: no, left near, left far, center near, center far, right near, right far
@pytest.mark.parametrize(
    ("straight", "mirrored", "agree"),
    [
        ("left far", "right far", True),
        ("right near", "left far", True),
        ("center far", "center far", True),
        ("center far", "left far", True),
        ("no", "no", True),
        ("left far", "left far", False),
        ("right near", "right near", False),
        ("no", "center far", False),
        ("left far", "no", False),
    ],
)
def test_the_mirrored_image_must_swap_left_and_right(straight, mirrored, agree):
    answers = [answer(OPTIONS, value) for value in (straight, mirrored)]
    if agree:
        READ_TARGET.check_mirrored(*answers)
    else:
        with pytest.raises(
            UnusableAnswerError, match=f"'{straight}' about the image and '{mirrored}' about the mirrored"
        ):
            READ_TARGET.check_mirrored(*answers)


def test_who_does_not_know_does_not_contradict():
    unsure = distribution(no=0.5, left_far=0.25, right_far=0.25)
    READ_TARGET.check_mirrored(unsure, unsure)


def test_surroundings():
    label = Answer("wall", 0.5, READ_SURROUNDINGS.labels, (0.1, 0.2, 0.5, 0.15, 0.05))
    around = READ_SURROUNDINGS.read(label, answer(READ_SURROUNDINGS.ways, "left", 0.7), 3.0)
    assert around.blocked == pytest.approx(0.7) and around.passage == pytest.approx(0.2)
    assert (around.left, around.none, around.stamp) == (0.7, pytest.approx(0.1), 3.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"obstacles": ("tree",)}, "tree"),
        ({"obstacles": (), "walls": ()}, "never stop"),
        ({"ways": ("left", "right")}, "left, center, right and none"),
    ],
)
def test_surroundings_that_would_not_stop_the_robot_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        SurroundingsReading(**{**vars(READ_SURROUNDINGS), **change})


@pytest.mark.parametrize("text", ["", "   ", "x" * 101, "a\x00b", "a\nb", "a\u202eb\x1b"])
def test_bad_targets(text):
    with pytest.raises(ValueError, match="target"):
        check_target(text)


def test_good_targets():
    for same in ("blue box", " Blue box", "blue  BOX", "the blue box", "A Blue Box "):
        assert check_target(same) == "blue box"
    assert check_target("  Grüner Ball ") == check_target("gru\u0308ner ball") == "grüner ball"
    assert check_target("红色的球") == "红色的球" and check_target("The") == "the" and check_target("ants") == "ants"


# Belief


def surroundings(stamp: float, label: str = "clear") -> Surroundings:
    labels, ways = READ_SURROUNDINGS.labels, READ_SURROUNDINGS.ways
    return READ_SURROUNDINGS.read(answer(labels, label), answer(ways, "center"), stamp)


def sighting(stamp: float, value: str = "center far") -> Sighting:
    return READ_TARGET.read(answer(OPTIONS, value), stamp)


def test_one_wrong_answer_changes_no_mind_however_slow_the_model():
    for period in (0.02, 0.1, 1.0, 10.0):
        belief = Belief(memory=0.25)
        for step in range(60):
            belief.add(surroundings(step * period), sighting(step * period, "no"), 0.0)
        belief.add(surroundings(60 * period, "wall"), sighting(60 * period, "center near"), 0.0)
        assert belief.visible < 0.55 and belief.blocked < 0.55 and belief.in_reach < 0.55


def test_memory_is_of_time_not_of_answers():
    def believed_after(seconds: float, period: float) -> float:
        belief = Belief(memory=0.5)
        belief.add(surroundings(0.0), sighting(0.0, "no"), 0.0)
        for step in range(1, round(seconds / period) + 1):
            belief.add(surroundings(step * period), sighting(step * period), 0.0)
        return belief.visible

    assert believed_after(0.6, 0.02) == pytest.approx(believed_after(0.6, 0.1), abs=0.01)


def test_the_heading_is_that_of_the_image_and_absence_does_not_move_it():
    belief = Belief(memory=0.25)
    for step in range(10):
        belief.add(surroundings(step * 0.1), sighting(step * 0.1, "left far"), heading=3.0)
    heading = belief.heading
    assert wrap(heading - 3.0) == pytest.approx(MIDDLE_OF_THIRD, abs=0.06)
    for step in range(10, 20):
        belief.add(surroundings(step * 0.1), sighting(step * 0.1, "no"), heading=0.0)
    assert belief.visible < 0.15 and abs(wrap(belief.heading - heading)) < 0.5


# Evidence


def monitor_at(stamp: float = 100.0, now: float = 100.1, steady: float = 5.0) -> AnswerMonitor:
    monitor = AnswerMonitor(max_age=0.8)
    assert monitor.add(surroundings(stamp), sighting(stamp), now, steady)
    return monitor


def test_fresh_evidence_is_believed():
    assert monitor_at().doubt(100.2, 5.1) is None


def test_no_answer_is_doubt():
    assert "first answer" in AnswerMonitor(0.8).doubt(0.0, 0.0)


@pytest.mark.parametrize(
    ("now", "steady", "words"),
    [
        (100.9, 5.1, "older than 0.8 s"),
        (100.1, 6.0, "no answer about a new image came"),
        (99.8, 5.1, "stamp is in the future"),
    ],
)
def test_age_and_clocks(now, steady, words):
    assert words in monitor_at().doubt(now, steady)


@pytest.mark.parametrize(("period", "overdue"), [(0.05, 0.25), (0.15, 0.375), (0.3, 0.75), (1.0, 0.8)])
def test_an_answer_is_overdue_after_some_of_the_usual_pauses(period, overdue):
    monitor = monitor_at()
    for n in range(1, 51):
        assert monitor.add(surroundings(100 + n * period), None, 100 + n * period, 5 + n * period)
    last = 50 * period
    assert monitor.doubt(100 + last, 5 + last + overdue - 0.01) is None
    assert "no answer about a new image came" in monitor.doubt(100 + last, 5 + last + overdue + 0.01)


@pytest.mark.parametrize(("period", "overdue"), [(0.1, 0.25), (0.3, 0.75)])
def test_one_pause_is_enough_to_know_when_the_next_answer_is_overdue(period, overdue):
    monitor = monitor_at()
    monitor.add(surroundings(100 + period), None, 100 + period, 5 + period)
    assert monitor.period == pytest.approx(period)
    assert monitor.doubt(100 + period, 5 + period + overdue - 0.01) is None
    assert "no answer about a new image came" in monitor.doubt(100 + period, 5 + period + overdue + 0.01)


def test_how_long_a_fault_lasts_is_not_taken_for_usual():
    monitor = monitor_at()
    for n in range(1, 4):
        monitor.add(surroundings(100 + n / 10), None, 100 + n / 10, 5 + n / 10)
    monitor.fail("time-out", "the classifier did not answer")
    monitor.add(surroundings(140), None, 140, 45)
    assert monitor.period == pytest.approx(0.1)
    assert "no answer about a new image came" in monitor.doubt(140.26, 45.26)


def test_a_clock_that_jumps_back_forgets():
    monitor = monitor_at()
    assert monitor.doubt(100.2, 5.1) is None
    assert "did the clock jump?" in monitor.doubt(50.0, 5.2)
    monitor.jump()
    assert "waiting for a new answer" in monitor.doubt(50.0, 5.2)
    assert monitor.add(surroundings(50.1), sighting(50.1), 50.2, 5.3)
    assert monitor.doubt(50.2, 5.3) is None


def test_stamps_from_the_future_or_the_past_are_not_news():
    monitor = monitor_at()
    assert not monitor.add(surroundings(101.0), None, 100.2, 5.1)
    assert "future" in monitor.doubt(100.2, 5.1)
    assert not monitor.add(surroundings(99.9), None, 100.2, 5.1)
    assert "older than the one before" in monitor.doubt(100.2, 5.1)
    assert monitor.add(surroundings(100.15), None, 100.3, 5.2)
    assert monitor.doubt(100.3, 5.2) is None
    assert monitor.faults == {"stamp in the future": 1, "stamp jumped back": 1}


def test_a_frozen_camera_becomes_stale():
    monitor = monitor_at()
    for step in range(20):
        assert not monitor.add(surroundings(100.0), sighting(100.0), 100.1 + step * 0.1, 5.0 + step * 0.1)
    assert "older" in monitor.doubt(102.0, 7.0)


def test_a_failure_holds_until_the_next_good_answer():
    monitor = monitor_at()
    monitor.fail("failure", "out of memory")
    assert monitor.doubt(100.1, 5.0) == "out of memory"
    monitor.add(surroundings(100.2), None, 100.3, 5.2)
    assert monitor.doubt(100.3, 5.2) is None


def test_the_time_between_answers_is_measured():
    monitor = AnswerMonitor(max_age=5.0)
    for step in range(40):
        monitor.add(surroundings(step * 2.0), None, step * 2.0, step * 2.0)
    assert monitor.period == pytest.approx(2.0, abs=0.05)


def test_a_model_that_is_too_slow_for_the_limit_is_told_the_limit_that_it_needs():
    monitor = AnswerMonitor(max_age=0.8)
    monitor.add(surroundings(100.0), None, 101.2, 5.0)
    assert "an answer took 1.2 s, for which max_answer_age should be 3.6 s" in monitor.doubt(101.2, 5.0)
    monitor.add(surroundings(102.0), None, 102.2, 6.0)
    assert "stand still" in monitor.doubt(103.0, 6.1), "it was quick enough, the camera stopped"
