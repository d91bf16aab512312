"""The slot of one: the newest replaces the one before, so that nobody ever looks at the past."""

from __future__ import annotations

import threading
import time
from typing import Generic, TypeVar

Item = TypeVar("Item")


class LatestSlot(Generic[Item]):
    """Holds the newest item that was put. Any thread may put, any thread may take.

    `received` counts what was put, `dropped` what was replaced before anybody took it.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._item: Item | None = None
        self.received = 0
        self.dropped = 0

    def put(self, item: Item) -> None:
        """Replace what is there by `item` and wake the threads that wait."""
        with self._condition:
            self.received += 1
            self.dropped += self._item is not None
            self._item = item
            self._condition.notify()

    def take(self, timeout: float = 0.0) -> Item | None:
        """Return the newest item and empty the slot; None when none comes within `timeout` [s]."""
        with self._condition:
            end = time.monotonic() + timeout
            while self._item is None and (left := end - time.monotonic()) > 0:
                self._condition.wait(left)
            item, self._item = self._item, None
            return item

    def peek(self) -> Item | None:
        """Return the newest item and leave it there; None when there is none."""
        with self._condition:
            return self._item

    def clear(self) -> None:
        """Forget the item, uncounted: it was not dropped for a newer one."""
        with self._condition:
            self._item = None
