"""The stream of camera messages: what arrives, and what is wrong with it. Nothing is decoded for it. No ROS."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from vlm_perception.perception.frames import form_of, stamp_of


class Problem(NamedTuple):
    """A `kind` of fault to count, and in `words` what is wrong and what to look at."""

    kind: str
    words: str


class Stream:
    """Judges the messages of one camera. `clock` returns the time of their stamps [ns], which may be simulated.

    `noticed` hears of every fault once: of a message that is not worth looking at when it comes, of a state that
    lasts when it begins. One thread admits and watches; any other may ask for the `problem`.
    """

    def __init__(self, clock: Callable[[], int], noticed: Callable[[str, str], None]) -> None:
        self._clock = clock
        self._noticed = noticed
        self.changes = 0
        """How often the pictures changed their size or encoding."""
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
        self._lasting = ""
        self._ticked = (self._clock(), time.monotonic())

    def admit(self, message: Any, max_age: float) -> bool:
        """Whether `message` is newer than what came before; later ones may be older again after `max_age` [s]."""
        self._look_at_clock()
        stamp, self._heard = stamp_of(message), time.monotonic()
        if self.stamp is not None and self._heard - self.arrival <= max_age and stamp < self.stamp:
            behind = (self.stamp - stamp) * 1e-9
            self._noticed(
                "stamp jumped back",
                f"a picture is stamped {behind:.3f} s before the one that came before it, and passed over: "
                "does more than one camera publish here, was its clock set?",
            )
            return False
        if stamp == self.stamp:
            self._noticed(
                "repeated stamp",
                "a picture has the stamp of the one before and is passed over: is the camera frozen, or does its "
                "driver stamp only once?",
            )
            return False
        if self.form and self.form != form_of(message):
            self.changes += 1
        self.period = self._heard - self.arrival
        self.stamp, self.arrival, self.form = stamp, self._heard, form_of(message)
        return True

    def watch(self, max_age: float) -> None:
        """Notice what has come to be wrong; to be called some times a second."""
        self._look_at_clock()
        problem = self.problem(max_age)
        kind = problem.kind if problem else ""
        if problem and kind != self._lasting:
            self._noticed(*problem)
        self._lasting = kind

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
            silent = f"the newest picture came {steady - self._heard:.1f} s ago, {limit}: has the camera stopped?"
            return Problem("camera silent", silent)
        if steady - self.arrival > max_age:
            again = f"the same stamp came again and again for {steady - self.arrival:.1f} s, {limit}"
            return Problem("camera frozen", f"{again}: is the camera frozen, does its driver stamp every picture?")
        age = (now - self.stamp) * 1e-9
        if max_age < age < 2 * (silence := steady - self._heard):  # it came in good time, but nothing since then
            words = f"the newest picture is {age:.1f} s old, {limit}, and none came for {silence:.1f} s"
            return Problem("camera silent", f"{words}: has the camera stopped?")
        if abs(age) > max_age:
            when = f"{age:.1f} s ago" if age > 0 else f"{-age:.1f} s in the future"
            return Problem(
                "wrong stamp",
                f"the newest picture is stamped {when}, {limit}: "
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
            self._noticed(
                "clock jumped back", f"the clock jumped back by {(ticked - now) * 1e-9:.1f} s: all begins anew"
            )
