"""Which cameras go to the model together: in turn, collected for a moment, waiting for nobody who does not come."""

from __future__ import annotations

import math
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from perception_settings import settings

from vlm_perception.perception.batching import DynamicBatcher
from vlm_perception.perception.camera import Camera
from vlm_perception.questions import Choice, Text


class StandIn:
    """Ready from `ready_at` on; `comes` is when that is to be expected."""

    def __init__(self, ready_at, comes=None, due=0.0):
        self.ready_at, self.comes = ready_at, ready_at if comes is None else comes
        self.looked_at = -math.inf
        self.due = due

    def wait(self, now):
        return max(0.0, self.due - now)

    def is_ready(self, now):
        return now >= self.ready_at

    def is_expected(self, now, seconds):
        return abs(self.comes - now) <= seconds


def look(turns, cameras, now, window=0.05, most=16):
    batch, seconds = turns.next(cameras, now, window, most)
    for place, camera in enumerate(batch):
        camera.looked_at = now + place * 1e-6
    return batch, seconds


def test_those_who_are_ready_go_together_at_once_when_nobody_else_is_expected():
    one, two, silent = StandIn(0.0), StandIn(0.0), StandIn(math.inf)
    assert look(DynamicBatcher(), [one, silent, two], 1.0) == ([one, two], 0.0)


def test_the_first_waits_for_one_that_is_about_to_come_and_then_they_go_together():
    turns, one, two = DynamicBatcher(), StandIn(1.0), StandIn(1.03)
    assert look(turns, [one, two], 1.0) == ([], pytest.approx(0.05))
    assert look(turns, [one, two], 1.02) == ([], pytest.approx(0.03))
    assert look(turns, [one, two], 1.03) == ([one, two], 0.0)


def test_nobody_waits_longer_than_the_window_for_one_that_does_not_come():
    turns, one, late = DynamicBatcher(), StandIn(1.0), StandIn(math.inf, comes=1.04)
    assert look(turns, [one, late], 1.0)[0] == []
    assert look(turns, [one, late], 1.0501) == ([one], 0.0)


def test_a_slow_camera_is_not_waited_for_while_its_next_image_is_far_away():
    one, slow = StandIn(1.0), StandIn(1.4)
    assert look(DynamicBatcher(), [one, slow], 1.0) == ([one], 0.0)


def test_a_full_batch_does_not_wait():
    one, two, third = StandIn(1.0), StandIn(1.0), StandIn(1.03)
    assert look(DynamicBatcher(), [one, two, third], 1.0, most=2) == ([one, two], 0.0)


def test_without_a_window_nobody_waits():
    one, two = StandIn(1.0), StandIn(1.001)
    assert look(DynamicBatcher(), [one, two], 1.0, window=0.0) == ([one], 0.0)


def test_all_have_their_turn_however_few_go_at_once():
    turns, cameras, turns_of = DynamicBatcher(), [StandIn(0.0) for _ in range(7)], Counter()
    for moment in range(70):
        batch, _ = look(turns, cameras, float(moment), most=3)
        assert len(batch) == 3
        turns_of.update(map(id, batch))
    assert set(turns_of.values()) == {30}


def test_when_nobody_is_ready_it_is_known_when_the_next_question_is_due():
    cameras = [StandIn(math.inf, due=5.0), StandIn(math.inf, due=3.5), StandIn(math.inf, due=1.0)]
    assert look(DynamicBatcher(), cameras, 3.0) == ([], pytest.approx(0.5))
    assert look(DynamicBatcher(), cameras[2:], 3.0) == ([], math.inf), "it is an image that is missing"


def test_a_camera_that_was_just_asked_about_waits_a_moment_for_the_next_question_and_nobody_waits_for_it():
    camera, other = a_camera(), StandIn(1.0)
    camera.slot.put((SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=0))), 1.0))
    camera.monitor.arrival, camera.monitor.period = 0.9, 0.1
    camera.asked_until = 1.05
    assert look(DynamicBatcher(), [camera], 1.0) == ([], pytest.approx(0.05))
    assert look(DynamicBatcher(), [camera, other], 1.0, window=0.04) == ([other], 0.0)
    assert look(DynamicBatcher(), [camera], 1.05) == ([camera], 0.0)


def a_camera():
    some = settings(Choice("what is ahead?", ("clear", "wall")), Text("?"), 1.0, max_frame_age=1.0)
    camera = Camera("front", some, time.time_ns)
    camera.adopt(some)
    return camera


@pytest.mark.parametrize(
    ("now", "expected"), [(10.01, False), (10.06, True), (10.14, True), (10.16, False), (12.0, False)]
)
def test_a_camera_is_expected_shortly_before_its_next_image_and_not_when_that_is_overdue(now, expected):
    camera = a_camera()
    assert not camera.is_expected(now, 0.05), "nothing is known of its images yet"
    camera.monitor.arrival, camera.monitor.period = 10.0, 0.1
    assert camera.is_expected(now, 0.05) == expected
    assert camera.schedule.take("label", now, 1) and not camera.is_expected(now, 0.05), "its question is not due"
