"""What is wrong with a stream of camera messages, judged by stamps and clocks. Nothing is decoded for it. No ROS."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from vlm_perception.perception.frame import stamp_of
from vlm_perception.perception.image_message import form_of


class Problem(NamedTuple):
    """A fault of this `kind`; `words` say what is wrong and what to check."""

    kind: str
    words: str


class StreamMonitor:
    """Judges the messages of one camera: one may be at most `max_age` [s] old to be looked at.

    `clock` returns the time of their stamps [ns], which may be simulated. One thread admits and watches; any thread may
    read the `problem`. Where the clock jumps back, everything begins anew.
    """

    def __init__(self, clock: Callable[[], int], max_age: float) -> None:
        self.max_age = max_age
        self._clock = clock
        self.changes = 0
        """Number of changes of the images' size or encoding."""
        self.begin()

    def begin(self) -> None:
        """Forget all messages."""
        self.form = ""
        self.stamp: int | None = None
        self.arrival = -math.inf
        """Time [s, monotonic] at which the newest stamp came; a repeated stamp does not count."""
        self.period = math.inf
        """Time [s] between the newest stamp and the one before."""
        self._heard = -math.inf
        self._lasting: str | None = None
        self._jump: Problem | None = None
        self._ticked = (self._clock(), time.monotonic())

    def admit(self, message: Any) -> Problem | None:
        """Take in `message`; return why it is not newer than the one before, None when it is newer.

        After `max_age` without a newer stamp, an older one is accepted.
        """
        self._look_at_clock()
        stamp, self._heard = stamp_of(message), time.monotonic()
        if self.stamp is not None and self._heard - self.arrival <= self.max_age and stamp < self.stamp:
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
        form = form_of(message)
        self.changes += self.form not in ("", form)
        self.period = self._heard - self.arrival
        self.stamp, self.arrival, self.form = stamp, self._heard, form
        return None

    def watch(self) -> list[Problem]:
        """Return the problems that began since the last call. Call it some times a second."""
        self._look_at_clock()
        new = [self._jump] if self._jump else []
        self._jump = None
        problem = self.problem
        kind = problem.kind if problem else None
        if problem and kind != self._lasting:
            new.append(problem)
        self._lasting = kind
        return new

    @property
    def problem(self) -> Problem | None:
        """Why no message is good enough to be looked at now; None if one is, or before the first message."""
        if self.stamp is None:
            return None
        now, steady, limit = self._clock(), time.monotonic(), f"limit {self.max_age:g} s"
        if not now:
            return Problem("no clock", "use_sim_time is set and nobody publishes /clock: start the simulation")
        ticked, since = self._ticked
        if now == ticked and steady - since > self.max_age:
            return Problem(
                "clock stands still",
                f"the clock has stood still for {steady - since:.1f} s: is the simulation paused (/clock)?",
            )
        if (silence := steady - self._heard) > self.max_age:
            words = f"the newest image came {silence:.1f} s ago, {limit}: has the camera stopped?"
            return Problem("camera silent", words)
        if steady - self.arrival > self.max_age:
            again = f"the same stamp came again and again for {steady - self.arrival:.1f} s, {limit}"
            return Problem("camera frozen", f"{again}: is the camera frozen, does its driver stamp every image?")
        age = (now - self.stamp) * 1e-9
        if self.max_age < age < 2 * silence:  # it came in good time, but nothing since then
            words = f"the newest image is {age:.1f} s old, {limit}, and none came for {silence:.1f} s"
            return Problem("camera silent", f"{words}: has the camera stopped?")
        if abs(age) > self.max_age:
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
