"""What reaches the wheels: limited, finite commands; and where the robot was when a picture was taken."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A velocity in the robot's frame: `forward` [m/s] along +x and `turn` [rad/s] about +z (positive left)."""

    forward: float = 0.0
    turn: float = 0.0

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.forward) and math.isfinite(self.turn)


STOP = Command()


@dataclass(frozen=True)
class Limits:
    """What the robot may do: speeds [m/s], [rad/s] and accelerations [m/s²], [rad/s²], all positive and finite.

    `braking` [m/s²] is for driving; a turn may end twice as fast as it begins.
    """

    forward_speed: float = 0.7
    turn_speed: float = 2.0
    forward_acceleration: float = 1.2
    turn_acceleration: float = 5.0
    braking: float = 1.5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"the limit {name} is {value}, expected a positive number")


class MotionLimiter:
    """Turns what a behaviour wants into what is sent, once per `period` [s].

    Speeds and accelerations are limited, and only finite numbers pass. Doubt (`None`) brakes at once. After
    `zeros` zero commands in a row there is silence, so that another source of commands may take over.
    """

    def __init__(self, limits: Limits, period: float, zeros: int = 10) -> None:
        if not (math.isfinite(period) and period > 0.0):
            raise ValueError(f"the period is {period} s, expected a positive number")
        if zeros < 1:
            raise ValueError(f"{zeros} zero commands before silence, expected at least 1")
        self.limits = limits
        self.period = period
        self.zeros = zeros
        self.sent = STOP
        self._zeros_left = 0

    def step(self, wanted: Command | None, ceiling: float = math.inf) -> Command | None:
        """Return the command to send now, or None to be silent. It is never faster forward than `ceiling` [m/s]."""
        if wanted is None or not wanted.is_finite:
            command = STOP
        else:
            limits = self.limits
            forward = _approach(
                self.sent.forward,
                max(-limits.forward_speed, min(limits.forward_speed, wanted.forward)),
                limits.forward_acceleration * self.period,
                limits.braking * self.period,
            )
            command = Command(
                min(forward, ceiling),
                _approach(
                    self.sent.turn,
                    max(-limits.turn_speed, min(limits.turn_speed, wanted.turn)),
                    limits.turn_acceleration * self.period,
                    2.0 * limits.turn_acceleration * self.period,
                ),
            )
        self.sent = command
        if command != STOP:
            self._zeros_left = self.zeros
            return command
        if self._zeros_left > 0:
            self._zeros_left -= 1
            return command
        return None

    def stop(self) -> Command:
        """Forget all motion and return the zero command, which is to be sent now whatever was sent before."""
        self.sent = STOP
        self._zeros_left = self.zeros - 1
        return STOP


def _approach(now: float, wanted: float, faster: float, slower: float) -> float:
    """Return `now` changed towards `wanted`: by at most `faster` away from zero and `slower` towards zero."""
    if now * wanted < 0.0:
        wanted = 0.0  # first stand still, then reverse
    step = faster if abs(wanted) > abs(now) else slower
    return wanted if abs(wanted - now) <= step else now + math.copysign(step, wanted - now)


@dataclass(frozen=True)
class Pose:
    """A place [m] and a heading [rad, not wrapped] in a frame that stays where it is."""

    x: float = 0.0
    y: float = 0.0
    heading: float = 0.0

    def ahead(self, distance: float, direction: float = 0.0) -> tuple[float, float]:
        """Return the point [m] that lies `distance` away in `direction` [rad, relative to the heading]."""
        angle = self.heading + direction
        return self.x + distance * math.cos(angle), self.y + distance * math.sin(angle)

    def bearing_of(self, point: tuple[float, float]) -> float:
        """Return the direction [rad, relative to the heading, -pi..pi] of a point."""
        return wrap(math.atan2(point[1] - self.y, point[0] - self.x) - self.heading)

    def distance_to(self, point: tuple[float, float]) -> float:
        return math.hypot(point[0] - self.x, point[1] - self.y)


def wrap(angle: float) -> float:
    """Return the angle [rad] brought into -pi..pi."""
    return math.remainder(angle, math.tau)


class Track:
    """Where the robot was, for as long as a picture may be old: from odometry, or else from the commands sent.

    Only changes of odometry are used, so that its frame, a restart or its absence does not matter.
    """

    HORIZON = 60.0
    """How long [s] is remembered."""
    TELEPORT = 0.5
    """A change of odometry by more than this [m] between two messages is no motion of the robot."""
    ODOMETRY_TIMEOUT = 0.5
    """Without odometry for this long [s] the commands are integrated."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self._poses: deque[Pose] = deque()
        self._odometry: tuple[float, Pose] | None = None
        self.pose = Pose()

    def add_odometry(self, time: float, measured: Pose) -> None:
        """Take a pose [m, rad] measured at `time` [s], in whatever frame odometry has; wrong ones are ignored."""
        if not all(map(math.isfinite, (time, measured.x, measured.y, measured.heading))):
            return
        before, self._odometry = self._odometry, (time, measured)
        if before is None or not 0.0 < time - before[0] <= self.ODOMETRY_TIMEOUT:
            return
        dx, dy = measured.x - before[1].x, measured.y - before[1].y
        if math.hypot(dx, dy) > self.TELEPORT:
            return
        angle = self.pose.heading - before[1].heading
        cos, sin = math.cos(angle), math.sin(angle)
        turned = wrap(measured.heading - before[1].heading)
        self._append(time, self.pose.x + cos * dx - sin * dy, self.pose.y + sin * dx + cos * dy, turned)

    def add_command(self, time: float, command: Command, duration: float) -> None:
        """Integrate a command sent for `duration` [s] until `time` [s], unless odometry says it better."""
        if self.has_odometry(time):
            return
        turned = command.turn * duration
        x, y = Pose(self.pose.x, self.pose.y, self.pose.heading + turned / 2).ahead(command.forward * duration)
        self._append(time, x, y, turned)

    def has_odometry(self, time: float) -> bool:
        """Is there odometry that is new enough at `time` [s]?"""
        return self._odometry is not None and abs(time - self._odometry[0]) <= self.ODOMETRY_TIMEOUT

    def at(self, time: float) -> Pose:
        """Return the pose at `time` [s], the nearest that is known for times outside of the memory."""
        if not self._times:
            return self.pose
        if time <= self._times[0]:
            return self._poses[0]
        if time >= self._times[-1]:
            return self._poses[-1]
        after = bisect_left(self._times, time)
        t0, t1 = self._times[after - 1], self._times[after]
        a, b = self._poses[after - 1], self._poses[after]
        share = (time - t0) / (t1 - t0)
        return Pose(*(p + share * (q - p) for p, q in ((a.x, b.x), (a.y, b.y), (a.heading, b.heading))))

    def _append(self, time: float, x: float, y: float, turned: float) -> None:
        self.pose = Pose(x, y, self.pose.heading + turned)
        while self._times and self._times[-1] >= time:  # the clock jumped back
            self._times.pop()
            self._poses.pop()
        self._times.append(time)
        self._poses.append(self.pose)
        while self._times[0] < time - self.HORIZON:
            self._times.popleft()
            self._poses.popleft()
