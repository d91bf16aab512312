"""Whose turn it is: which cameras go to the model together. Pure: time comes in."""

from __future__ import annotations

import math
from collections.abc import Collection

from vlm_perception.perception.view import View


class Turns:
    """Collects the cameras that are ready into batches, in turn."""

    def __init__(self) -> None:
        self._since: float | None = None
        """When the first of those that are collected was ready [s]."""

    def next(self, views: Collection[View], now: float, window: float, most: int) -> tuple[list[View], float]:
        """Return at most `most` of the `views` to look at now, those first whose last turn is the longest ago.

        There are none when none is ready, and while, for at most `window` [s], others are worth waiting for; the second
        value says how long [s] until that may change by itself, inf if it will not.
        """
        ready = [view for view in views if view.ready(now)]
        if not ready:
            self._since = None
            return [], min((wait for view in views if (wait := view.wait(now)) > 0), default=math.inf)
        if self._since is None:
            self._since = now
        left = self._since + window - now
        if left > 0 and len(ready) < most and any(v.expected(now, left) for v in views if v not in ready):
            return [], left
        self._since = None
        return sorted(ready, key=lambda view: view.looked_at)[:most], 0.0
