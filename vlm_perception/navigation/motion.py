"""What reaches the wheels: limited, finite commands. And poses, as odometry gives them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vlm_perception.parameters import parameter


@dataclass(frozen=True)
class Command:
    """A velocity in the robot's frame: `forward` [m/s] along +x and `turn` [rad/s] about +z (positive left)."""

    forward: float = 0.0
    turn: float = 0.0

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.forward) and math.isfinite(self.turn)

    def slowed(self, share: float) -> Command:
        """Return the same motion at a `share` of its speed."""
        return Command(share * self.forward, share * self.turn)


STOP = Command()


@dataclass(frozen=True)
class Limits:
    """What the robot may do: speeds [m/s], [rad/s] and accelerations [m/s²], [rad/s²], all positive and finite.

    `braking` [m/s²] is for driving; a turn may end twice as fast as it begins.
    """

    forward_speed: float = parameter(0.7, "Highest speed", unit="m/s", minimum=0.01, maximum=2.0)
    turn_speed: float = parameter(2.0, "Highest turning speed", unit="rad/s", minimum=0.1, maximum=3.0)
    forward_acceleration: float = parameter(1.2, "Highest acceleration", unit="m/s^2", minimum=0.05, maximum=10.0)
    turn_acceleration: float = parameter(
        5.0,
        "Highest turning acceleration. Turning slows down at up to twice this",
        unit="rad/s^2",
        minimum=0.1,
        maximum=50.0,
    )
    braking: float = parameter(
        1.5,
        "Deceleration of ordinary stops. On doubt, the robot stops at once",
        unit="m/s^2",
        minimum=0.1,
        maximum=50.0,
    )

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


SAME_VIEW = 0.15, 0.15
"""Images are of the same view that were taken within so far [m] and so much of a turn [rad]."""


def is_same_view(one: Pose, other: Pose) -> bool:
    """Tell whether images that were taken at two poses show the same."""
    far, turned = SAME_VIEW
    return math.hypot(one.x - other.x, one.y - other.y) <= far and abs(wrap(one.heading - other.heading)) <= turned


def seen_from(then: Pose, now: Pose) -> Pose:
    """Return the pose `now` in the frame of the pose `then`; the turn is not wrapped."""
    cos, sin = math.cos(then.heading), math.sin(then.heading)
    x, y = now.x - then.x, now.y - then.y
    return Pose(cos * x + sin * y, cos * y - sin * x, now.heading - then.heading)


def placed(frame: Pose, pose: Pose) -> Pose:
    """Return a `pose` that is given in the frame of the pose `frame` in the frame of that one; undoes `seen_from`."""
    cos, sin = math.cos(frame.heading), math.sin(frame.heading)
    x, y = frame.x + cos * pose.x - sin * pose.y, frame.y + sin * pose.x + cos * pose.y
    return Pose(x, y, frame.heading + pose.heading)
