"""The slot of one."""

from __future__ import annotations

import threading

from vlm_perception.perception.latest_slot import LatestSlot


def test_the_newest_replaces_the_one_before_and_is_taken_once():
    slot = LatestSlot()
    for number in range(5):
        slot.put(number)
    assert slot.take() == 4
    assert slot.take() is None
    assert (slot.received, slot.dropped) == (5, 4)


def test_a_taken_item_is_not_counted_as_dropped():
    slot = LatestSlot()
    for number in range(3):
        slot.put(number)
        assert slot.take() == number
    assert (slot.received, slot.dropped) == (3, 0)


def test_clear_forgets_without_counting_a_drop():
    slot = LatestSlot()
    slot.put(1)
    slot.clear()
    slot.put(2)
    assert slot.take() == 2 and slot.dropped == 0


def test_waiting_ends_with_the_item_or_with_none():
    slot = LatestSlot()
    assert slot.take(timeout=0.01) is None
    thread = threading.Timer(0.05, slot.put, ["late"])
    thread.start()
    assert slot.take(timeout=30) == "late"
    thread.join()


def test_nothing_is_lost_or_invented_between_threads():
    slot, taken = LatestSlot(), []
    consumer_done = threading.Event()

    def consume():
        while (item := slot.take(timeout=5)) != "end":
            taken.append(item)
        consumer_done.set()

    thread = threading.Thread(target=consume)
    thread.start()
    for number in range(2000):
        slot.put(number)
    while slot.received - slot.dropped > len(taken):
        pass
    slot.put("end")
    thread.join(10)
    assert consumer_done.is_set()
    assert taken == sorted(set(taken)) and taken[-1] == 1999
    assert slot.received - slot.dropped == len(taken) + 1
