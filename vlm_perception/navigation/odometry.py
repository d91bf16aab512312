"""Where the robot was when an image was taken, from odometry and the commands."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from typing import Any

from vlm_perception.navigation.motion import Command, Pose, placed, seen_from, wrap


class UnusableOdometryError(ValueError):
    """A message of odometry that does not say where the robot is; the message says why."""


def pose_of(message: Any) -> Pose:
    """Return the pose in a `nav_msgs/Odometry`, in whatever frame it has; raises UnusableOdometryError."""
    place, q = message.pose.pose.position, message.pose.pose.orientation
    orientation = (q.x, q.y, q.z, q.w)
    if not all(map(math.isfinite, (place.x, place.y, *orientation))):
        raise UnusableOdometryError("its pose is not finite")
    norm = math.hypot(*orientation)
    if not 0.9 <= norm <= 1.1:
        raise UnusableOdometryError(
            f"its orientation ({q.x:.3g}, {q.y:.3g}, {q.z:.3g}, {q.w:.3g}) has the norm {norm:.3g}, expected 1: "
            "does the driver fill it in?"
        )
    x, y, z, w = (value / norm for value in orientation)
    if x * x + y * y > 0.5:
        raise UnusableOdometryError("it says that the robot lies upside down: does its z axis point up (REP 103)?")
    return Pose(place.x, place.y, math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z)))


class Trajectory:
    """Poses over time, from (0, 0, 0) on; the last `HORIZON` [s] are remembered."""

    HORIZON = 60.0

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self._poses: deque[Pose] = deque()
        self.pose = Pose()

    def move(self, time: float, by: Pose) -> None:
        """Go on until `time` [s] `by` x [m] ahead, y [m] to the left, and a turn of heading [rad]."""
        self.pose = placed(self.pose, by)
        while self._times and self._times[-1] >= time:  # the clock jumped back
            self._times.pop()
            self._poses.pop()
        self._times.append(time)
        self._poses.append(self.pose)
        while self._times[0] < time - self.HORIZON:
            self._times.popleft()
            self._poses.popleft()

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

    def between(self, start: float, end: float) -> Pose:
        """Return the pose at `end` [s] as seen from that at `start` [s]; the turn is not wrapped."""
        return seen_from(self.at(start), self.at(end))


class OdometryBuffer:
    """Where the robot was, for as long as an image may be old: from odometry while that counts, else from the commands.

    Only changes of odometry are used, so that its frame, a restart or its absence does not matter. It counts while
    its changes are possible and agree with the commands. `measured` and `commanded` keep the two apart: what must not
    depend on either being right asks both.
    """

    TELEPORT = 0.05, 0.1
    """A change of odometry by more than this [m], [rad] ..."""
    FASTEST = 3.0, 6.0
    """... and faster than this [m/s], [rad/s] is no motion of the robot."""
    ODOMETRY_TIMEOUT = 0.5
    """Without odometry for this long [s] the commands are integrated."""
    PROBATION = 1.0
    """Time [s] after the last unusable message until odometry counts again."""
    COMPARED = 0.3, 0.5
    """Each time that the commands have driven so far [m] or turned so far [rad] odometry is compared with them, ..."""
    COMPARED_FOR = 5.0
    """... within so long [s]; what happens more slowly is not compared."""
    LAG = 0.5
    """A base may follow the commands so late [s]."""
    AGREEMENT = 1.0 / 3.0
    """Odometry agrees that has this share of what the commands say, or up to its inverse, in the same direction."""

    def __init__(self) -> None:
        self.measured = Trajectory()
        self.commanded = Trajectory()
        self._path = Trajectory()
        self._odometry: tuple[float, Pose] | None = None
        self._accepted = -math.inf
        self._refused = -math.inf
        self._why_refused: str | None = None
        self._compared = math.nan
        self._contradiction: str | None = None
        self.origin: Pose | None = None
        """Where the path began, in the frame of odometry; None until that counts."""

    @property
    def pose(self) -> Pose:
        return self._path.pose

    def at(self, time: float) -> Pose:
        """Return the pose at `time` [s], the nearest that is known for times outside of the memory."""
        return self._path.at(time)

    def gone(self, start: float, end: float) -> float:
        """Return how far [m] the robot went between two times [s], by odometry or commands, whichever says more."""
        ways = [path.between(start, end) for path in (self.measured, self.commanded)]
        return max(math.hypot(way.x, way.y) for way in ways)

    def take(self, message: Any, now: float) -> None:
        """Take a `nav_msgs/Odometry` that came at `now` [s]; one that is not usable leads to a word about it."""
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        try:
            # Stamps of another clock cannot be compared with those of images.
            if abs(now - stamp) > self.ODOMETRY_TIMEOUT:
                raise UnusableOdometryError(f"its stamps are {now - stamp:.3g} s old: do the clocks agree?")
            self.add_odometry(stamp, pose_of(message))
        except UnusableOdometryError as error:
            self._refused, self._why_refused = now, str(error)

    def add_odometry(self, time: float, measured: Pose) -> None:
        """Take a pose [m, rad] measured at `time` [s], in whatever frame odometry has; wrong ones are ignored."""
        if not all(map(math.isfinite, (time, measured.x, measured.y, measured.heading))):
            return
        before, self._odometry = self._odometry, (time, measured)
        if before is None or before == self._odometry:
            return
        passed = time - before[0]
        change = seen_from(before[1], measured)
        change = Pose(change.x, change.y, wrap(change.heading))
        if problem := self._impossible(passed, change):
            self._refused, self._why_refused = time, problem
            return
        self._accepted = time
        self.measured.move(time, change)
        if self.has_odometry(time):
            self._path.move(time, change)
            self.origin = placed(measured, seen_from(self._path.pose, Pose()))

    def _impossible(self, passed: float, change: Pose) -> str | None:
        """Return why no robot moves by `change` within the `passed` [s], or None."""
        if passed <= 0.0:
            return "its stamps repeat or go back: does more than one node publish it?"
        if passed > self.ODOMETRY_TIMEOUT:
            return f"it came {passed:.2g} s after the last, expected at most {self.ODOMETRY_TIMEOUT:g} s"
        distance = math.hypot(change.x, change.y)
        most = [slack + speed * passed for slack, speed in zip(self.TELEPORT, self.FASTEST, strict=True)]
        if distance > most[0] or abs(change.heading) > most[1]:
            return (
                f"it jumps by {distance:.3g} m and {abs(change.heading):.2g} rad within {passed:.2g} s: does more than "
                "one node publish it?"
            )
        return None

    def add_command(self, time: float, command: Command, duration: float) -> None:
        """Integrate a command sent for `duration` [s] until `time` [s]; where odometry counts it is only compared."""
        turned = command.turn * duration
        way = Pose(*Pose(heading=turned / 2).ahead(command.forward * duration), turned)
        self.commanded.move(time, way)
        if not self.has_odometry(time):
            self._path.move(time, way)
        self._compare(time)

    def _compare(self, time: float) -> None:
        """Find out whether odometry contradicts the commands, once they say enough."""
        if abs(time - self._accepted) > self.ODOMETRY_TIMEOUT or not 0.0 <= time - self._compared <= self.COMPARED_FOR:
            self._compared = time
        if time - self.LAG <= self._compared:
            return
        said = self.commanded.between(self._compared, time - self.LAG)
        far, turned = math.hypot(said.x, said.y), abs(said.heading)
        if far < self.COMPARED[0] and turned < self.COMPARED[1]:
            return
        moved = [self.measured.between(self._compared, time - ago) for ago in (self.LAG, self.LAG / 2, 0.0)]
        self._compared = time
        self._contradiction = None
        if (
            far >= self.COMPARED[0] and not self._agree([way.x * said.x + way.y * said.y for way in moved], far**2)
        ) or (turned >= self.COMPARED[1] and not self._agree([way.heading * said.heading for way in moved], turned**2)):
            last = moved[-1]
            self._contradiction = (
                f"it says {math.hypot(last.x, last.y):.2g} m and {last.heading:.2g} rad where the commands say "
                f"{far:.2g} m and {said.heading:.2g} rad: is the base off or blocked, or odometry wrong?"
            )

    def _agree(self, moved: list[float], said: float) -> bool:
        return max(moved) >= self.AGREEMENT * said and min(moved) <= said / self.AGREEMENT

    def has_odometry(self, time: float) -> bool:
        """Tell whether odometry counts at `time` [s]."""
        return (
            not self._contradiction
            and abs(time - self._accepted) <= self.ODOMETRY_TIMEOUT
            and not 0.0 <= time - self._refused <= self.PROBATION
        )

    def odometry_problem(self, time: float) -> str | None:
        """Return why odometry that comes does not count at `time` [s], or None."""
        if self.has_odometry(time):
            return None
        if 0.0 <= time - self._refused <= self.PROBATION:
            return self._why_refused
        if self._accepted == -math.inf:
            return None
        return self._contradiction or f"none came for {self.ODOMETRY_TIMEOUT:g} s"
