"""Which recurring question is due when."""

from __future__ import annotations

import math
import random

import pytest

from vlm_perception.perception.schedule import Schedule


def times(schedule, name, stamps):
    return [t for t in stamps if schedule.take(name, t, round(t * 1e9))]


def test_each_question_comes_at_its_own_rate():
    schedule = Schedule()
    schedule.set_rates({"label": 10.0, "description": 0.5, "never": 0.0})
    frames = [n / 30 for n in range(30 * 20)]
    assert abs(len(times(schedule, "label", frames)) - 200) <= 1
    assert len(times(schedule, "description", frames)) == 10
    assert times(schedule, "never", frames) == times(schedule, "unknown", frames) == []


def test_a_rate_like_the_cameras_asks_about_every_image_though_they_come_unevenly():
    schedule = Schedule()
    schedule.set_rates({"label": 30.0})
    frames = [n / 30 + random.Random(n).uniform(-0.004, 0.004) for n in range(1, 300)]
    assert len(times(schedule, "label", frames)) == len(frames)
    twice_as_often = [n / 60 for n in range(700, 1300)]
    assert abs(len(times(schedule, "label", twice_as_often)) - 300) <= 1, "and not more often"


def test_a_rate_above_the_cameras_asks_about_every_image_once():
    schedule = Schedule()
    schedule.set_rates({"label": 100.0})
    assert schedule.take("label", 1.0, 7)
    assert not schedule.take("label", 2.0, 7), "the same image again"
    assert schedule.take("label", 2.1, 8)


def test_after_a_long_answer_it_does_not_catch_up():
    schedule = Schedule()
    schedule.set_rates({"label": 10.0})
    assert times(schedule, "label", [0.0, 5.0, 5.01, 5.05, 5.11]) == [0.0, 5.0, 5.11]


def test_waiting_is_until_the_next_is_due():
    schedule = Schedule()
    assert schedule.wait(3.0) == math.inf
    schedule.set_rates({"label": 2.0, "never": 0.0})
    assert schedule.wait(3.0) == 0
    assert schedule.take("label", 3.0, 1)
    assert schedule.wait(3.1) == pytest.approx(0.39)
    schedule.set_rates({"never": 0.0})
    assert schedule.wait(3.1) == math.inf
