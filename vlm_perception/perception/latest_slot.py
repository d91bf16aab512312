"""A slot for one item: the newest replaces the one before, so that nothing outdated is ever taken."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class LatestSlot(Generic[Item]):
    """Holds the newest item that was put. Any thread may put, any thread may take.

    `received` counts the items that were put, `dropped` those that were replaced before they were taken.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._item: Item | None = None
        self.received = 0
        self.dropped = 0

    def put(self, item: Item) -> None:
        """Put `item` in place of the one before."""
        with self._lock:
            self.received += 1
            self.dropped += self._item is not None
            self._item = item

    def take(self) -> Item | None:
        """Return the item and empty the slot; None when it is empty."""
        with self._lock:
            item, self._item = self._item, None
            return item

    def peek(self) -> Item | None:
        """Return the item and leave it there; None when the slot is empty."""
        return self._item

    def clear(self) -> None:
        """Empty the slot; the item does not count as dropped."""
        self.take()
