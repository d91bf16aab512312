"""One camera as the worker sees it. No ROS."""

from __future__ import annotations

import functools
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlm_perception.perception.frames import Frame, decode, stamp_of
from vlm_perception.perception.newest import Newest
from vlm_perception.perception.observer import Schedule
from vlm_perception.perception.region import Motion, Region
from vlm_perception.perception.reuse import Reuse
from vlm_perception.perception.settings import Settings
from vlm_perception.perception.smoothing import LabelSmoother
from vlm_perception.perception.stream import Stream
from vlm_perception.perception.trace import Spans, Trace

ASKED_AGAIN = 0.05
"""Who was answered and wants to know more asks again within this time [s]."""


@dataclass(frozen=True, eq=False)
class Observation:
    """A decoded picture with the `header` of its message, when it arrived and when it was `taken` up [s, monotonic].

    `unchanged` [s, by the stamps]: for how long the camera has delivered this very picture, pixel by pixel.
    `region`: the part of the picture that is looked at, None for all of it.
    """

    camera: str
    frame: Frame
    header: Any
    arrival: float
    taken: float
    unchanged: float
    region: Region | None = None

    @functools.cached_property
    def image(self) -> np.ndarray:
        """What is looked at: RGB, uint8, shape (height, width, 3), read-only."""
        return self.region.of(self.frame.image) if self.region else self.frame.image


class NotAnsweredError(Exception):
    """Why a question could not be answered now, in words."""


class View:
    """What one `camera` shows: its stream, its newest picture, what is asked about it when, its smoothed label.

    Whatever is wrong with it is its own: `fault` hears of a kind of fault and its words. `clock` returns the time [ns]
    that the messages' stamps are compared with. `looked_at` [s, monotonic]: when it had its turn last; `asked_until`:
    until then somebody will probably ask again, and what is due goes to the model together with that.
    """

    def __init__(
        self,
        camera: str,
        settings: Settings,
        clock: Callable[[], int],
        fault: Callable[[str, BaseException | str], None],
        trace: Trace | None = None,
    ) -> None:
        self.camera = camera
        self.spans = Spans(camera, trace)
        self.stream = Stream(clock, fault)
        self.newest: Newest[tuple[Any, float]] = Newest()
        self.counts: Counter[str] = Counter()
        self.schedule = Schedule()
        self.smoother = LabelSmoother(settings.label.options, settings.smoothing)
        self.motion = Motion()
        self.reuse = Reuse(settings.reuse)
        self.looked_at = self.asked_until = -math.inf
        self.begun = 0.0
        """Nothing that came before is looked at [s, monotonic]."""
        self._settings = settings
        self._clock = clock
        self._fault = fault
        self._begun = self.begun
        """What is known was seen since then."""
        self._picture: Observation | None = None
        self._corrupt = ""

    # For the thread that puts.

    def put(self, message: Any) -> bool:
        """Offer the newest message; whether it is news. One that is not is counted and forgotten."""
        if news := self.stream.admit(message, self._settings.max_age):
            self.newest.put((message, self.stream.arrival))
            self.spans.received(stamp_of(message), self.stream.arrival)
        return news

    def begin(self) -> None:
        """Forget what came: from now on it is looked at."""
        self.begun = time.monotonic()
        self.stream.begin()

    # For any thread.

    @property
    def unchanged(self) -> float:
        """For how long [s] the newest picture that was looked at is the very same."""
        picture = self._picture
        return picture.unchanged if picture else 0.0

    @property
    def doubt(self) -> str:
        """Why the newest picture that was looked at may not show what the camera sees, in words; "" if nothing."""
        picture = self._picture
        return picture.frame.doubt if picture else ""

    # For the worker's thread.

    def adopt(self, settings: Settings) -> None:
        """Use `settings` from now on; another vocabulary or smoothing begins anew."""
        before, self._settings = self._settings, settings
        if (settings.label, settings.smoothing) != (before.label, before.smoothing):  # another prompt counts as well
            self.smoother = LabelSmoother(settings.label.options, settings.smoothing)
        self.schedule.set_rates(settings.rates)
        self.reuse.settings = settings.reuse

    def ready(self, now: float) -> bool:
        """Whether a recurring question is due at `now` [s, monotonic] and there is a picture to ask it about."""
        if waiting := self.newest.peek():
            stamp = stamp_of(waiting[0])
        elif self._picture and not self._is_old(self._picture) and not self.stream.problem(self._settings.max_age):
            stamp = self._picture.frame.stamp
        else:
            return False
        return now >= self.asked_until and self.schedule.is_due(now, stamp)

    def wait(self, now: float) -> float:
        """Seconds from `now` [s, monotonic] until it is ready if there is a picture, inf if it will never be."""
        return max(self.schedule.wait(now), self.asked_until - now)

    def expected(self, now: float, seconds: float) -> bool:
        """Whether it will probably be ready within `seconds`: its question is due, and its next picture not overdue."""
        comes = self.stream.arrival + self.stream.period
        return abs(comes - now) <= seconds and self.wait(now) <= seconds

    def is_newer(self, picture: int, stamp: int) -> bool:
        """Whether the stamp of a `picture` is newer than `stamp` [ns]; than 0, or one of a time before the clock jumped
        back, each is."""
        return not stamp or picture > stamp or stamp > self._clock() + self._settings.max_age * 1e9

    def has_newer(self, stamp: int) -> bool:
        """Whether there is a newer picture than that of `stamp` [ns], or no good reason to wait for it any more."""
        if not stamp or self.stream.problem(self._settings.max_age):
            return True
        if waiting := self.newest.peek():
            return self.is_newer(stamp_of(waiting[0]), stamp)
        picture = self._picture
        return picture is None or self._is_old(picture) or self.is_newer(picture.frame.stamp, stamp)

    def take_up(self, now: float) -> Observation:
        """Return the newest picture; raises NotAnsweredError, with the reason, when it must not be looked at."""
        self.looked_at = time.monotonic()  # later for each in a batch, so that nobody is ahead of others for ever
        if self._begun != (begun := self.begun):  # while the model was busy: nobody has called `forget`
            self._begun = begun
            self._forget_seen()
        taken = self.newest.take()
        if problem := self.stream.problem(self._settings.max_age):
            raise NotAnsweredError(problem.words)
        if taken:
            self._decode(*taken)
        if self._picture and self._picture.arrival < self.begun:
            self._picture = None
        if self._picture is None or self._is_old(self._picture):
            why = "the newest picture is too old" if self._picture else "no picture has come yet"
            raise NotAnsweredError(f"no usable picture: {self._corrupt}" if self._corrupt else why)
        return replace(self._picture, taken=now)

    def part(self, picture: Observation) -> Observation:
        """Return `picture` as its label is to be about it: where something moves, if that is to be followed."""
        if not self._settings.follow_motion:
            self.motion.clear()
            return picture
        region = self.motion.region(picture.frame.image)
        self.counts["regions"] += region is not None
        return replace(picture, region=region)

    def forget(self) -> None:
        """Forget what was seen and what waits to be seen."""
        self.newest.clear()
        self._forget_seen()

    def _forget_seen(self) -> None:
        self._picture = None
        self._corrupt = ""
        self.smoother.reset()
        self.motion.clear()
        self.reuse.clear()

    def _decode(self, message: Any, arrival: float) -> None:
        taken, age = time.monotonic(), (self._clock() - stamp_of(message)) * 1e-9
        try:
            frame, before = decode(message), self._picture
            unchanged = 0.0
            if before and _equal(frame.image, before.frame.image):
                unchanged = max(0.0, before.unchanged + (frame.stamp - before.frame.stamp) * 1e-9)
            if frame.doubt and not self.doubt:
                self._fault("doubtful picture", frame.doubt)
            self._picture = Observation(self.camera, frame, message.header, arrival, arrival, unchanged)
            self._corrupt = ""
            self.spans.taken(frame.stamp, age, arrival, taken, time.monotonic())
        except Exception as error:  # a broken message must not stop the good ones
            self._corrupt = str(error)
            self._fault("corrupt picture", error)

    def _is_old(self, picture: Observation) -> bool:
        age = max(time.monotonic() - picture.arrival, abs(self._clock() - picture.frame.stamp) * 1e-9)
        return age > self._settings.max_age


def _equal(picture: np.ndarray, other: np.ndarray) -> bool:
    """Whether they are the same pixel by pixel; of most that are not, a few rows tell."""
    return np.array_equal(picture[::32], other[::32]) and np.array_equal(picture, other)
