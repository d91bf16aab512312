"""The newest answers, and whether they may still be believed: the robot moves on nothing else."""

from __future__ import annotations

from collections import Counter

from vlm_perception.navigation.sighting import Sighting, Surroundings

FUTURE = 0.1
"""Clocks may differ by this much [s]; an image from further in the future has a wrong stamp."""
PATIENCE = 2.5
"""A silence longer than this many times the usual one means that something stands still, ..."""
SHORT_SILENCE = 0.25
"""... unless it is shorter than this [s]. So a quick model that dies is noticed long before `max_age`."""
QUICK = 0.1
"""An answer is not awaited sooner than this [s], as the executor has other things to do."""
DUE, OVERDUE = 1.25, 2.0
"""From the first to the second of these many usual silences on the robot slows down to a stop, and forgets nothing."""
ANSWERS_LAST = 3.0
"""An answer has to count for so many times as long as it takes: until the next one comes, and a bit."""
IMAGES_LAST = 3.6
"""An image counts for so many times as long as an answer takes: its own, a wait for a better view, and the next one."""
SLOW = 0.25
"""Where an answer takes longer than this [s], it is awaited from its question on: that may have waited for a view."""
LONGEST = 40.0
"""However long answers take, an older image [s] is not believed."""
IN_THE_FUTURE = "the image's stamp is in the future"


class AnswerMonitor:
    """Keeps the answers about the newest image.

    Two clocks are asked: `now` [s] is the clock of the stamps, which may be simulated, jump or stand still;
    `steady` [s] only ever goes on. An answer is believed while both its image and its arrival are at most
    `allowed_age` [s] old, until the next one is overdue, and until a failure is reported.
    """

    def __init__(self, max_age: float) -> None:
        self.max_age = max_age
        self.faults: Counter[str] = Counter()
        self.forget()

    def forget(self, reason: str = "waiting for the first answer") -> None:
        """Begin anew; the faults stay counted."""
        self.surroundings: Surroundings | None = None
        self.sighting: Sighting | None = None
        self.period = 0.5  # between two answers [s]; a guess until it is measured
        self._measured = 0
        self.delay = 0.0  # from the newest image to its answer [s]
        self.takes = 0.0  # from a question to its answer, as is usual [s]
        self._asked = float("-inf")
        self._awaited = False
        self._fault: str | None = reason
        self._stamp = self._arrived = float("-inf")

    def fail(self, kind: str, reason: str) -> None:
        """Nothing is believed until the next good answer."""
        self.faults[kind] += 1
        self._fault = reason

    def jump(self) -> None:
        """Begin anew, as the clock of the stamps has jumped."""
        self.forget("the clock jumped: waiting for a new answer")
        self.faults["clock jumped"] += 1

    def add(self, surroundings: Surroundings, sighting: Sighting | None, now: float, steady: float) -> bool:
        """Take answers that have arrived; return whether they are news about a newer image."""
        stamp = surroundings.stamp
        self._measure(steady)
        if stamp > now + FUTURE:
            self.fail("stamp in the future", f"{IN_THE_FUTURE}: do all nodes use the same clock (use_sim_time)?")
            return False
        if stamp < self._stamp:
            self.fail("stamp jumped back", "the image is older than the one before: waiting for a newer one")
            return False
        fault, self._fault = self._fault, None
        if stamp == self._stamp:
            return False
        if self.surroundings is not None and not fault:  # how long a fault lasts is not what is usual
            self._measured += 1
            share = max(0.3, 1.0 / self._measured)  # a mean at first, so that the guess does not linger
            self.period += share * (min(60.0, max(0.01, steady - self._arrived)) - self.period)
        elif not self._measured:
            self.period = max(self.period, self.takes)  # the next one takes as long
        self.surroundings, self.sighting = surroundings, sighting
        self._stamp, self._arrived, self.delay = stamp, steady, now - stamp
        return True

    def asked(self, steady: float) -> None:
        """Take that a question was sent."""
        self._asked = steady
        self._awaited = True

    def _measure(self, steady: float) -> None:
        """Take how long an answer took, from the question on, by the steady clock."""
        if self._awaited:
            share = 0.3 if self.takes else 1.0
            self.takes += share * (steady - self._asked - self.takes)
            self._awaited = False

    @property
    def allowed_age(self) -> float:
        """How old [s] the newest answered image may be: `max_age`, or more if answers take long, up to `LONGEST`.

        The stamps of images have no say in it: those of a wrong clock stay too old.
        """
        return max(self.max_age, min(LONGEST, IMAGES_LAST * self.takes))

    def age(self, now: float) -> float:
        """Return the age [s] of the newest answered image, infinite without one."""
        return now - self._stamp

    def silence(self, steady: float) -> float:
        """Return how long [s] ago the newest answer came."""
        return steady - self._arrived

    def timeliness(self, steady: float) -> float:
        """Return the share of its speed that the robot may have: 1 until the next answer is due, 0 when it is overdue.

        So what dies is noticed before it is certain, and an answer that is a bit late costs little.
        """
        waiting = self._arrived if self.takes < SLOW else max(self._arrived, self._asked)
        silence = (steady - waiting) / max(self.period, QUICK)
        return min(1.0, max(0.0, (OVERDUE - silence) / (OVERDUE - DUE)))

    def doubt(self, now: float, steady: float) -> str | None:
        """Return why the newest answers must not be believed now, or None."""
        if self._fault or self.surroundings is None:
            return self._fault
        if self.age(now) < -FUTURE:
            return f"{IN_THE_FUTURE}: did the clock jump?"
        limit = f"{self.allowed_age:.2g} s (max_answer_age)"
        if self.age(now) > self.allowed_age:
            why = "camera or classifier are too slow or stand still"
            if 2.0 * self.delay > self.allowed_age:  # by the time that the next one comes
                enough = ANSWERS_LAST * self.delay
                why = f"an answer took {self.delay:.1f} s, for which max_answer_age should be {enough:.1f} s"
            return f"the newest answered image is older than {limit}: {why}"
        silence = min(self.allowed_age, max(SHORT_SILENCE, PATIENCE * self.period))
        if steady - self._arrived > silence:
            return (
                f"no answer about a new image came for {silence:.2g} s: the camera, the classifier or the clock "
                "stands still"
            )
        return None
