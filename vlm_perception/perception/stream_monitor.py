"""The stream of camera messages: what arrives, and what is wrong with it. Nothing is decoded for it. No ROS."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from vlm_perception.perception.frame import stamp_of
from vlm_perception.perception.image_message import form_of


class Problem(NamedTuple):
    """A `kind` of fault to count, and in `words` what is wrong and what to look at."""

    kind: str
    words: str


class StreamMonitor:
    """Judges the messages of one camera. `clock` returns the time of their stamps [ns], which may be simulated.

    One thread admits and watches; any other may ask for the `problem`.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self.changes = 0
        """How often the images changed their size or encoding."""
        self.begin()

    def begin(self) -> None:
        """Forget what came, as before the first message."""
        self.form = ""
        self.stamp: int | None = None
        self.arrival = -math.inf
        """When the newest stamp came [s, monotonic]; the very same again is nothing new."""
        self.period = math.inf
        """Between the newest stamp and the one before it [s]."""
        self._heard = -math.inf
        self._lasting: str | None = None
        self._jump: Problem | None = None
        self._ticked = (self._clock(), time.monotonic())

    def admit(self, message: Any, max_age: float) -> Problem | None:
        """Take in `message`; return why it is not newer than what came before, None when it is.

        After `max_age` [s] without a newer stamp, older ones are good again.
        """
        self._look_at_clock()
        stamp, self._heard = stamp_of(message), time.monotonic()
        if self.stamp is not None and self._heard - self.arrival <= max_age and stamp < self.stamp:
            behind = (self.stamp - stamp) * 1e-9
            return Problem(
                "stamp jumped back",
                f"an image is stamped {behind:.3f} s before the one that came before it, and is skipped: "
                "does more than one camera publish here, was its clock set?",
            )
        if stamp == self.stamp:
            return Problem(
                "repeated stamp",
                "an image has the stamp of the one before and is skipped: is the camera frozen, or does its "
                "driver stamp only once?",
            )
        if self.form and self.form != form_of(message):
            self.changes += 1
        self.period = self._heard - self.arrival
        self.stamp, self.arrival, self.form = stamp, self._heard, form_of(message)
        return None

    def watch(self, max_age: float) -> list[Problem]:
        """Return what has come to be wrong since the last call; to be called some times a second."""
        self._look_at_clock()
        new = [self._jump] if self._jump else []
        self._jump = None
        problem = self.problem(max_age)
        kind = problem.kind if problem else None
        if problem and kind != self._lasting:
            new.append(problem)
        self._lasting = kind
        return new

    def problem(self, max_age: float) -> Problem | None:
        """Why nothing that came is worth looking at now, after at most `max_age` [s]; None before the first came."""
        if self.stamp is None:
            return None
        now, steady, limit = self._clock(), time.monotonic(), f"limit {max_age:g} s"
        if not now:
            return Problem("no clock", "use_sim_time is set and nobody publishes /clock: start the simulation")
        ticked, since = self._ticked
        if now == ticked and steady - since > max_age:
            return Problem(
                "clock stands still",
                f"the clock has stood still for {steady - since:.1f} s: is the simulation paused (/clock)?",
            )
        if steady - self._heard > max_age:
            silent = f"the newest image came {steady - self._heard:.1f} s ago, {limit}: has the camera stopped?"
            return Problem("camera silent", silent)
        if steady - self.arrival > max_age:
            again = f"the same stamp came again and again for {steady - self.arrival:.1f} s, {limit}"
            return Problem("camera frozen", f"{again}: is the camera frozen, does its driver stamp every image?")
        age = (now - self.stamp) * 1e-9
        if max_age < age < 2 * (silence := steady - self._heard):  # it came in good time, but nothing since then
            words = f"the newest image is {age:.1f} s old, {limit}, and none came for {silence:.1f} s"
            return Problem("camera silent", f"{words}: has the camera stopped?")
        if abs(age) > max_age:
            when = f"{age:.1f} s ago" if age > 0 else f"{-age:.1f} s in the future"
            return Problem(
                "wrong stamp",
                f"the newest image is stamped {when}, {limit}: "
                "does the camera stamp, do both clocks agree, is use_sim_time right?",
            )
        return None

    def _look_at_clock(self) -> None:
        now, steady = self._clock(), time.monotonic()
        ticked, _ = self._ticked
        if now != ticked:
            self._ticked = (now, steady)
        if now < ticked:
            self.stamp = None
            words = f"the clock jumped back by {(ticked - now) * 1e-9:.1f} s: all begins anew"
            self._jump = Problem("clock jumped back", words)
