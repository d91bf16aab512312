"""The whole law of motion without ROS: answers and odometry in, a velocity that is safe to send out."""

from __future__ import annotations

import math

from vlm_perception.navigation.behaviours import (
    STOPPED,
    Behaviour,
    Decision,
    Explore,
    Follow,
    Idle,
    Search,
    Tuning,
    View,
)
from vlm_perception.navigation.evidence import Evidence
from vlm_perception.navigation.motion import STOP, Command, Limits, MotionLimiter, Pose, Track
from vlm_perception.navigation.sighting import Sighting, Surroundings

MODES = ("idle", "search", "follow", "explore")
ZEROS = 0.5
"""For so long [s] zero is sent after a motion; then there is silence."""


class Pilot:
    """Steers a robot in one of the `MODES`, by the newest answers; while they are in doubt it stands still.

    `period` [s] is the time between two steps. Two clocks are told to it, in [s]: `now` is the clock of the stamps and
    `steady` one that only goes on. It asks no clock itself: the same calls give the same commands.
    """

    def __init__(self, period: float, tuning: Tuning, limits: Limits, max_answer_age: float) -> None:
        self.evidence = Evidence(max_answer_age)
        self.track = Track()
        self._tuning = tuning
        self._limiter = MotionLimiter(limits, period, zeros=math.ceil(ZEROS / period))
        self._pose_then = Pose()
        self._stepped = -math.inf
        self.start("idle", "", "not active")

    @property
    def sent(self) -> Command:
        """The command that moves the robot now."""
        return self._limiter.sent

    @property
    def is_busy(self) -> bool:
        """Does it need answers?"""
        return self.mode != "idle" and self.decision.found is None

    def adopt(self, tuning: Tuning, limits: Limits, max_answer_age: float) -> None:
        """Change how the robot behaves, in the middle of whatever it does."""
        self._tuning = self._behaviour.tuning = tuning
        self._behaviour.belief.memory = tuning.memory
        self._limiter.limits = limits
        self.evidence.max_age = max_answer_age

    def start(self, mode: str, target: str, reason: str, time_limit: float = 0.0) -> None:
        """Begin with `mode` anew, as if nothing had been seen. A search gives up after `time_limit` [s] (0: never)."""
        makers = {
            "idle": lambda: Idle(self._tuning, reason),
            "search": lambda: Search(target, self._tuning, time_limit),
            "follow": lambda: Follow(target, self._tuning),
            "explore": lambda: Explore(self._tuning),
        }
        self.mode, self.target = mode, target
        self._behaviour: Behaviour = makers[mode]()
        self.decision = Decision(STOP, STOPPED, reason)
        self.evidence.forget()

    def stop(self) -> Command:
        """Return the zero command, which is to be sent now; what is to be done stays."""
        return self._limiter.stop()

    def take(self, surroundings: Surroundings, sighting: Sighting | None, now: float, steady: float) -> bool:
        """Take the answers about a picture; return whether they are news."""
        if not self.evidence.add(surroundings, sighting, now, steady):
            return False
        self._pose_then = self.track.at(surroundings.stamp)
        return True

    def fail(self, kind: str, reason: str) -> None:
        """Stand still until the next good answer, and count this kind of fault."""
        self.evidence.fail(kind, reason)

    def step(self, now: float, steady: float) -> Command | None:
        """Decide; return the command to send now, or None to be silent. `decision` says what was decided and why."""
        passed = min(steady - self._stepped, 2.0 * self._limiter.period)
        self._stepped = steady
        if passed > 0.0:
            self.track.add_command(now, self.sent, passed)
        evidence = self.evidence
        doubt = evidence.doubt(now, steady)
        view = View(evidence.surroundings, evidence.sighting, self.track.pose, self._pose_then, evidence.period, doubt)
        self.decision = self._behaviour.step(view, now)
        return self._limiter.step(self.decision.command if self.is_busy and not doubt else None)
