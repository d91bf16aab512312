"""Which cameras go to the model together. Pure: time is an argument."""

from __future__ import annotations

import math
from collections.abc import Collection

from vlm_perception.perception.camera import Camera


class DynamicBatcher:
    """Collects cameras that are ready into batches, in turn."""

    def __init__(self) -> None:
        self._since: float | None = None
        """Time [s] at which the first camera of the next batch was ready."""

    def next(self, cameras: Collection[Camera], now: float, window: float, most: int) -> tuple[list[Camera], float]:
        """Return the next batch, at most `most` of the `cameras`, and how long [s] to wait if it is empty.

        The batch is empty while no camera is ready, and while, for at most `window` [s], another camera is expected.
        The longest ago a camera was looked at, the earlier it is in the batch. The wait is inf if time alone will not
        make a camera ready.
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
