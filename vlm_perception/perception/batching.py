"""Which cameras go to the model together. Pure: time comes in."""

from __future__ import annotations

import math
from collections.abc import Collection

from vlm_perception.perception.camera import Camera


class DynamicBatcher:
    """Collects the cameras that are ready into batches, in turn."""

    def __init__(self) -> None:
        self._since: float | None = None
        """When the first of those that are collected was ready [s]."""

    def next(self, cameras: Collection[Camera], now: float, window: float, most: int) -> tuple[list[Camera], float]:
        """Return at most `most` of the `cameras` to look at now, those first whose last turn is the longest ago.

        There are none when none is ready, and while, for at most `window` [s], others are worth waiting for; the second
        value says how long [s] until that may change by itself, inf if it will not.
        """
        ready = [camera for camera in cameras if camera.is_ready(now)]
        if not ready:
            self._since = None
            return [], min((wait for camera in cameras if (wait := camera.wait(now)) > 0), default=math.inf)
        if self._since is None:
            self._since = now
        left = self._since + window - now
        if left > 0 and len(ready) < most and any(c.is_expected(now, left) for c in cameras if c not in ready):
            return [], left
        self._since = None
        return sorted(ready, key=lambda camera: camera.looked_at)[:most], 0.0
