"""One camera, from its messages to the frame that is looked at: stream monitor, latest slot, decoding. No ROS."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from vlm_perception.perception.frame import Frame, stamp_of
from vlm_perception.perception.image_message import decode
from vlm_perception.perception.latest_slot import LatestSlot
from vlm_perception.perception.outputs import NotAnsweredError
from vlm_perception.perception.pipeline import Pipeline
from vlm_perception.perception.schedule import Schedule
from vlm_perception.perception.settings import Settings
from vlm_perception.perception.stream_monitor import Problem, StreamMonitor
from vlm_perception.perception.trace import Spans, Trace


class Camera:
    """A camera's stream and newest frame, the schedule of its questions, and the pipeline of their answers.

    `clock` returns the time [ns] that the messages' stamps are compared with. Messages from before `begun` [s,
    monotonic] are not looked at. `looked_at` [s, monotonic] is the time of its last turn. Until `asked_until` [s,
    monotonic] another ask is likely, and due questions wait to go to the model together with it.
    """

    def __init__(self, name: str, settings: Settings, clock: Callable[[], int], trace: Trace | None = None) -> None:
        self.name = name
        self.spans = Spans(name, trace)
        self.monitor = StreamMonitor(clock, settings.max_frame_age)
        self.slot: LatestSlot[tuple[Any, float]] = LatestSlot()
        self.schedule = Schedule()
        self.pipeline = Pipeline(settings)
        self.looked_at = self.asked_until = -math.inf
        self.begun = 0.0
        self._clock = clock
        self._forgotten = self.begun
        """Value of `begun` when what was seen was forgotten last."""
        self._frame: Frame | None = None
        self._corrupt: str | None = None

    # For the thread that puts.

    def put(self, message: Any) -> Problem | None:
        """Offer the newest message; return why it is not looked at, None when it will be."""
        if problem := self.monitor.admit(message):
            return problem
        self.slot.put((message, self.monitor.arrival))
        self.spans.received(stamp_of(message), self.monitor.arrival)
        return None

    def begin(self) -> None:
        """Forget all messages; those that come from now on are looked at."""
        self.begun = time.monotonic()
        self.monitor.begin()

    # For any thread.

    @property
    def unchanged(self) -> float:
        """Time [s] for which the camera has delivered the newest image that was looked at."""
        frame = self._frame
        return frame.unchanged if frame else 0.0

    @property
    def doubt(self) -> str | None:
        """Why the newest image that was looked at may not show what the camera sees; else None."""
        frame = self._frame
        return frame.doubt if frame else None

    # For the worker's thread.

    def adopt(self, settings: Settings) -> None:
        """Use `settings` from now on; another vocabulary or smoothing begins anew."""
        self.monitor.max_age = settings.max_frame_age
        self.pipeline.adopt(settings)
        self.schedule.set_rates(settings.rates)

    def is_ready(self, now: float) -> bool:
        """Whether a recurring question is due at `now` [s, monotonic] and there is a frame to ask it about."""
        if waiting := self.slot.peek():
            stamp = stamp_of(waiting[0])
        elif self._frame and not self._is_old(self._frame) and not self.monitor.problem:
            stamp = self._frame.stamp
        else:
            return False
        return now >= self.asked_until and self.schedule.is_due(now, stamp)

    def wait(self, now: float) -> float:
        """Return the seconds from `now` [s, monotonic] until a question is due, inf if none ever is."""
        return max(self.schedule.wait(now), self.asked_until - now)

    def is_expected(self, now: float, seconds: float) -> bool:
        """Whether it will probably be ready within `seconds`: its question is due, and its next frame is not late."""
        comes = self.monitor.arrival + self.monitor.period
        return abs(comes - now) <= seconds and self.wait(now) <= seconds

    def is_newer(self, frame: int, stamp: int) -> bool:
        """Whether the stamp of a `frame` is newer than `stamp` [ns].

        Every frame is newer than 0, and than a stamp of a time before the clock jumped back.
        """
        return not stamp or frame > stamp or stamp > self._clock() + self.monitor.max_age * 1e9

    def has_newer(self, stamp: int) -> bool:
        """Whether there is a newer frame than that of `stamp` [ns], or no reason to wait for one any more."""
        if not stamp or self.monitor.problem:
            return True
        if waiting := self.slot.peek():
            return self.is_newer(stamp_of(waiting[0]), stamp)
        frame = self._frame
        return frame is None or self._is_old(frame) or self.is_newer(frame.stamp, stamp)

    def refresh(self) -> str | None:
        """Decode the newest message, if one came; return its `doubt` when the image before had none.

        Raises the decoder's error when it cannot be decoded.
        """
        self.looked_at = time.monotonic()  # one after the other in a batch, so that no camera stays first
        if self._forgotten != (begun := self.begun):  # it began anew while the model was busy
            self._forgotten = begun
            self._forget_seen()
        taken, doubt = self.slot.take(), self.doubt
        if taken and not self.monitor.problem:
            self._decode(*taken)
        return None if doubt else self.doubt

    def frame(self, now: float) -> Frame:
        """Return the newest frame, taken up at `now` [s, monotonic]. NotAnsweredError when there is none to look at."""
        if problem := self.monitor.problem:
            raise NotAnsweredError(problem.words)
        if self._frame and self._frame.arrival < self.begun:
            self._frame = None
        if self._frame is None or self._is_old(self._frame):
            why = "the newest image is too old" if self._frame else "no image has come yet"
            raise NotAnsweredError(f"no usable image: {self._corrupt}" if self._corrupt else why)
        return replace(self._frame, taken=now)

    def forget(self) -> None:
        """Forget what was seen and what waits to be seen."""
        self.slot.clear()
        self._forget_seen()

    def _forget_seen(self) -> None:
        self._frame = self._corrupt = None
        self.pipeline.clear()

    def _decode(self, message: Any, arrival: float) -> None:
        taken, age = time.monotonic(), (self._clock() - stamp_of(message)) * 1e-9
        try:
            (image, doubt), before = decode(message), self._frame
        except Exception as error:
            self._corrupt = str(error)
            raise
        frame = Frame(self.name, image, message.header, arrival, arrival, doubt=doubt)
        if before and _equal(image, before.full_image):
            unchanged = max(0.0, before.unchanged + (frame.stamp - before.stamp) * 1e-9)
            frame = replace(frame, unchanged=unchanged)
        self._frame, self._corrupt = frame, None
        self.spans.taken(frame.stamp, age, arrival, taken, time.monotonic())

    def _is_old(self, frame: Frame) -> bool:
        age = max(time.monotonic() - frame.arrival, abs(self._clock() - frame.stamp) * 1e-9)
        return age > self.monitor.max_age


def _equal(image: np.ndarray, other: np.ndarray) -> bool:
    """Whether the images are the same, pixel by pixel. A few rows tell it of most that are not."""
    return np.array_equal(image[::32], other[::32]) and np.array_equal(image, other)
