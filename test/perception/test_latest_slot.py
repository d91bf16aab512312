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


def test_nothing_is_lost_or_invented_between_threads():
    slot, taken = LatestSlot(), []

    def consume():
        while (item := slot.take()) != "end":
            if item is not None:
                taken.append(item)

    thread = threading.Thread(target=consume)
    thread.start()
    for number in range(2000):
        slot.put(number)
    while slot.received - slot.dropped > len(taken):
        pass
    slot.put("end")
    thread.join(10)
    assert not thread.is_alive()
    assert taken == sorted(set(taken)) and taken[-1] == 1999
    assert slot.received - slot.dropped == len(taken) + 1
