"""The whole law of motion without ROS: answers and odometry in, a velocity that is safe to send out."""

from __future__ import annotations

import math
from dataclasses import replace

from vlm_perception.navigation.answer_monitor import FUTURE, SLOW, AnswerMonitor
from vlm_perception.navigation.behaviours.base import STOPPED, Behaviour, Decision, WorldState
from vlm_perception.navigation.behaviours.explore import Explore
from vlm_perception.navigation.behaviours.follow import Follow
from vlm_perception.navigation.behaviours.idle import Idle
from vlm_perception.navigation.behaviours.search import Search
from vlm_perception.navigation.depth import DepthSensor, Points
from vlm_perception.navigation.motion import STOP, Command, Limits, MotionLimiter, Pose
from vlm_perception.navigation.odometry import OdometryBuffer
from vlm_perception.navigation.search_map import SearchMap
from vlm_perception.navigation.sighting import Sighting, Surroundings, third
from vlm_perception.navigation.tuning import Tuning

MOST_PATIENCE = 1.3
"""So long [s] after the last answer a question waits at most for the robot to look where it wants to."""
MODES = ("idle", "search", "follow", "explore")
MAX_DEPTH_AGE = 0.5
"""Depth that is older [s] does not count."""
ZEROS = 0.5
"""For so long [s] zero is sent after a motion; then there is silence."""
REACTION = 0.5
"""What depth sees in the way is neared by at most the way to the stop distance in so long [s]."""

FROZEN = (0.03, 0.06)
"""A camera is frozen whose image is the very same although odometry says that the robot went so far [m] or turned so
far [rad]; ..."""
FROZEN_BY_COMMANDS = (0.1, 0.2)
"""... or although the commands say that it went so far, which a base follows late; ..."""
FROZEN_FOR = 0.15
"""... and it is the same for so long [s], as some drivers deliver each image several times."""
JUMP = 2.0
"""The clock of the stamps has jumped when it goes on by so much [s] more than the steady one, or goes back."""


class Pilot:
    """Steers a robot in one of the `MODES`, by the newest answers; while they are in doubt it stands still.

    `period` [s] is the time between two steps. Two clocks are told to it, in [s]: `now` is the clock of the stamps and
    `steady` one that only goes on. It asks no clock itself: the same calls give the same commands.
    """

    def __init__(self, period: float, tuning: Tuning, limits: Limits, max_answer_age: float) -> None:
        self.answers = AnswerMonitor(max_answer_age)
        self.odometry = OdometryBuffer()
        self.depth_image = DepthSensor("depth image", MAX_DEPTH_AGE)
        self.laser_scan = DepthSensor("laser scan", MAX_DEPTH_AGE)
        self.free: float | None = None
        self.map = _search_map(tuning)
        self._tuning = tuning
        self._limiter = MotionLimiter(limits, period, zeros=math.ceil(ZEROS / period))
        self._pose_then = Pose()
        self._stepped = -math.inf
        self._now = self.time = math.nan
        self._jumped = 0.0  # by so much the clock of the stamps is ahead of `time`
        self._asked = -math.inf
        self._undecided = False
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
        if _search_map(tuning).means != self.map.means:
            self.map = _search_map(tuning)
        self._tuning = self._behaviour.tuning = tuning
        self._behaviour.belief.memory = tuning.memory
        self._limiter.limits = limits
        self.answers.max_age = max_answer_age

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
        self.answers.forget()
        self.map.forget_target()
        for sensor in (self.depth_image, self.laser_scan):
            sensor.forget()

    def stop(self) -> Command:
        """Return the zero command, which is to be sent now; what is to be done stays."""
        return self._limiter.stop()

    def take(
        self, surroundings: Surroundings, sighting: Sighting | None, now: float, steady: float, unchanged: float = 0.0
    ) -> bool:
        """Take the answers about an image that is the very same for `unchanged` [s]; return whether they are news."""
        odometry, stamp = self.odometry, surroundings.stamp
        pose = odometry.at(stamp)
        moved = any(
            math.hypot(way.x, way.y) > far or abs(way.heading) > turned
            for path, (far, turned) in ((odometry.measured, FROZEN), (odometry.commanded, FROZEN_BY_COMMANDS))
            for way in [path.between(stamp - unchanged, stamp)]
        )
        if moved and unchanged >= FROZEN_FOR:
            self.fail(
                "frozen image",
                "the robot moved and not one pixel of the image changed: is the camera frozen, or the base off?",
            )
            return False
        if sighting is not None and sighting.direction:
            right, left = third(sighting.direction, self._tuning.field_of_view)
            ranges = [points.range_between(right, left) for points in self._points(now, steady, pose)]
            known = [distance for distance in ranges if math.isfinite(distance)]
            sighting = sighting.measured(min(known, default=math.nan), self._tuning.near_distance)
        if not self.answers.add(surroundings, sighting, now, steady):
            return False
        self._pose_then = pose
        self._undecided = True
        if self.mode != "idle" and odometry.has_odometry(now):
            self.map.add(pose, surroundings, self.answers.sighting, stamp - self._jumped)
        return True

    def see(self, sensor: DepthSensor, points: Points, steady: float) -> None:
        """Take what one of the two depth sensors has measured."""
        sensor.add(points, self.odometry.at(points.stamp), steady)

    def _points(self, now: float, steady: float, pose: Pose) -> list[Points]:
        """Return what the sensors see that work now, as seen from `pose`."""
        seen = [sensor.points(now, steady, pose) for sensor in (self.depth_image, self.laser_scan)]
        return [points for points in seen if points is not None]

    def doubt(self, now: float, steady: float) -> str | None:
        """Return why the robot must not move, or None."""
        return (
            self.answers.doubt(now, steady) or self.depth_image.doubt(now, steady) or self.laser_scan.doubt(now, steady)
        )

    def remembered(self, now: float) -> SearchMap | None:
        """Return the map, None while nothing is in it or nobody knows where the robot was."""
        return self.map if self.odometry.has_odometry(now) and self.map.answers else None

    def asked(self, now: float, steady: float) -> None:
        """Take that a question about the newest image was sent."""
        self._asked = now - self._jumped
        self.answers.asked(steady)

    def wants_image(self, steady: float) -> bool:
        """Is it worth while to ask about the newest image, or will there be a better one in a moment?"""
        if self._undecided:
            return self.answers.takes < SLOW
        return not self.decision.asks_later or self.answers.silence(steady) > min(
            MOST_PATIENCE, 1.2 * self.answers.takes
        )

    def fail(self, kind: str, reason: str) -> None:
        """Stand still until the next good answer, and count this kind of fault."""
        self.answers.fail(kind, reason)

    def step(self, now: float, steady: float) -> Command | None:
        """Decide; return the command to send now, or None to be silent. `decision` says what was decided and why."""
        self._tell_time(now, steady)
        passed = min(steady - self._stepped, 2.0 * self._limiter.period)
        self._stepped = steady
        if passed > 0.0:
            self.odometry.add_command(now, self.sent, passed)
        answers, tuning, pose = self.answers, self._tuning, self.odometry.pose
        ways = [points.free(tuning.robot_width, tuning.robot_height) for points in self._points(now, steady, pose)]
        self.free = min(ways, default=None)
        doubt = self.doubt(now, steady)
        surroundings = answers.surroundings
        gone = 0.0
        if surroundings is not None:
            gone = self.odometry.gone(surroundings.stamp, now)
            surroundings = replace(surroundings, stamp=surroundings.stamp - self._jumped)
        sighting, then = answers.sighting, self._pose_then
        remembers = self.odometry.has_odometry(now)
        if not remembers and self.map.answers:
            self.map.forget()
        known = self.remembered(now)
        world = WorldState(
            surroundings,
            sighting,
            pose,
            then,
            answers.period,
            self.free,
            doubt,
            gone,
            known,
            self._asked,
            answers.takes,
        )
        self.decision = self._behaviour.step(world, self.time)
        self._undecided = False
        ceiling = math.inf if self.free is None else max(0.0, (self.free - tuning.stop_distance) / REACTION)
        share = answers.timeliness(steady) if self.is_busy and not doubt else 0.0
        return self._limiter.step(self.decision.command.slowed(share) if share else None, ceiling)

    def _tell_time(self, now: float, steady: float) -> None:
        """Set `time` [s], by which plans, waits and limits count: the clock of the stamps, without its jumps.

        It begins at 0, so that the map's small floats can hold it, and runs as fast as a simulation does. After a jump
        answers of before are not believed any more.
        """
        if math.isnan(self._now):
            self._jumped = now
        passed, really = now - self._now, steady - self._stepped
        self._now = now
        if passed < 0.0 or passed > really + JUMP:
            self._jumped += passed - really
            if passed < -FUTURE or passed > 0.0:
                self.answers.jump()
        self.time = now - self._jumped


def _search_map(tuning: Tuning) -> SearchMap:
    return SearchMap(tuning.field_of_view, tuning.target_near, tuning.clear_distance, tuning.robot_width)
