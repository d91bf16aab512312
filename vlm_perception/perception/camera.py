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
    """A camera's stream and newest frame, what is asked about it when, and what became of the answers.

    `clock` returns the time [ns] that the messages' stamps are compared with. `looked_at` [s, monotonic]: when it had
    its turn last; `asked_until`: until then somebody will probably ask again, and what is due goes to the model
    together with that.
    """

    def __init__(self, name: str, settings: Settings, clock: Callable[[], int], trace: Trace | None = None) -> None:
        self.name = name
        self.spans = Spans(name, trace)
        self.monitor = StreamMonitor(clock)
        self.slot: LatestSlot[tuple[Any, float]] = LatestSlot()
        self.schedule = Schedule()
        self.pipeline = Pipeline(settings)
        self.looked_at = self.asked_until = -math.inf
        self.begun = 0.0
        """Nothing that came before is looked at [s, monotonic]."""
        self._settings = settings
        self._clock = clock
        self._forgotten = self.begun
        """What is known was seen since then."""
        self._frame: Frame | None = None
        self._corrupt: str | None = None

    # For the thread that puts.

    def put(self, message: Any) -> Problem | None:
        """Offer the newest message; return why it is not looked at, None when it will be."""
        if problem := self.monitor.admit(message, self._settings.max_frame_age):
            return problem
        self.slot.put((message, self.monitor.arrival))
        self.spans.received(stamp_of(message), self.monitor.arrival)
        return None

    def begin(self) -> None:
        """Forget what came: from now on it is looked at."""
        self.begun = time.monotonic()
        self.monitor.begin()

    def watch(self) -> list[Problem]:
        """Return what has come to be wrong with the stream; to be called some times a second."""
        return self.monitor.watch(self._settings.max_frame_age)

    # For any thread.

    @property
    def problem(self) -> Problem | None:
        """Why nothing that came is worth looking at now; None before the first message came."""
        return self.monitor.problem(self._settings.max_frame_age)

    @property
    def unchanged(self) -> float:
        """For how long [s] the newest image that was looked at is the very same."""
        frame = self._frame
        return frame.unchanged if frame else 0.0

    @property
    def doubt(self) -> str | None:
        """Why the newest image that was looked at may not show what the camera sees, in words; else None."""
        frame = self._frame
        return frame.doubt if frame else None

    # For the worker's thread.

    def adopt(self, settings: Settings) -> None:
        """Use `settings` from now on; another vocabulary or smoothing begins anew."""
        self._settings = settings
        self.pipeline.adopt(settings)
        self.schedule.set_rates(settings.rates)

    def is_ready(self, now: float) -> bool:
        """Whether a recurring question is due at `now` [s, monotonic] and there is a frame to ask it about."""
        if waiting := self.slot.peek():
            stamp = stamp_of(waiting[0])
        elif self._frame and not self._is_old(self._frame) and not self.problem:
            stamp = self._frame.stamp
        else:
            return False
        return now >= self.asked_until and self.schedule.is_due(now, stamp)

    def wait(self, now: float) -> float:
        """Return the seconds from `now` [s, monotonic] until it is ready if there is a frame, inf if it never is."""
        return max(self.schedule.wait(now), self.asked_until - now)

    def is_expected(self, now: float, seconds: float) -> bool:
        """Whether it will probably be ready within `seconds`: its question is due, and its next frame not overdue."""
        comes = self.monitor.arrival + self.monitor.period
        return abs(comes - now) <= seconds and self.wait(now) <= seconds

    def is_newer(self, frame: int, stamp: int) -> bool:
        """Whether the stamp of a `frame` is newer than `stamp` [ns].

        Than 0, or a stamp of a time before the clock jumped back, every frame is newer.
        """
        return not stamp or frame > stamp or stamp > self._clock() + self._settings.max_frame_age * 1e9

    def has_newer(self, stamp: int) -> bool:
        """Whether there is a newer frame than that of `stamp` [ns], or no good reason to wait for it any more."""
        if not stamp or self.problem:
            return True
        if waiting := self.slot.peek():
            return self.is_newer(stamp_of(waiting[0]), stamp)
        frame = self._frame
        return frame is None or self._is_old(frame) or self.is_newer(frame.stamp, stamp)

    def refresh(self) -> str | None:
        """Decode the newest message, if one has come; return its `doubt` when the one before had none.

        Raises the decoder's error when it is corrupt.
        """
        self.looked_at = time.monotonic()  # later for each in a batch, so that nobody is ahead of others for ever
        if self._forgotten != (begun := self.begun):  # while the model was busy: nobody has called `forget`
            self._forgotten = begun
            self._forget_seen()
        taken, doubt = self.slot.take(), self.doubt
        if taken and not self.problem:
            self._decode(*taken)
        return None if doubt else self.doubt

    def frame(self, now: float) -> Frame:
        """Return the newest frame, taken up `now` [s, monotonic]; NotAnsweredError when none may be looked at."""
        if problem := self.problem:
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
        self._frame = None
        self._corrupt = None
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
        return age > self._settings.max_frame_age


def _equal(image: np.ndarray, other: np.ndarray) -> bool:
    """Whether they are the same pixel by pixel; of most that are not, a few rows tell."""
    return np.array_equal(image[::32], other[::32]) and np.array_equal(image, other)
