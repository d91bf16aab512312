"""What all behaviours share: what they are told, what they decide, the belief, and manoeuvres to make plans of.

A behaviour is deterministic: its decisions depend on the world states and times it was given, and on nothing else. It
asks no clock, draws no random number and knows no ROS. What it does is written down as a plan, a generator that yields
one `Decision` per control step and finds the newest `WorldState` in `self.world`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vlm_perception.navigation.belief import WORTH_A_LOOK, Belief
from vlm_perception.navigation.motion import STOP, Command, Pose, wrap
from vlm_perception.navigation.search_map import SearchMap
from vlm_perception.navigation.sighting import Sighting, Surroundings
from vlm_perception.navigation.tuning import Tuning

STOPPED = "stopped"
SEARCHING = "searching"
ALIGNING = "aligning"
APPROACHING = "approaching"
ARRIVED = "arrived"
LOST = "lost"
DETOURING = "detouring"
FOLLOWING = "following"
EXPLORING = "exploring"

LIKELY = 0.5
"""From this probability up something is more likely than not."""
STILL_NEAR = 0.5
"""A target that is near stays so until its probability is below this share of what it took to become near."""
EASY_BRAKING = 0.8
"""The robot drives so fast that it could stop with this share of its braking where its sight ends."""
DOUBTFUL_SHARE = 0.2
"""Where the way is in doubt, the robot still uses this share of how far it sees."""
SETTLING = 0.2
"""The robot stands still so long [s] after a stop that images are sharp and headings certain."""
SLOWEST_TURN = 0.1
"""A turn in place is at least this fast [rad/s], ..."""
TURN_GAIN = 3.0
"""... and at most this fast [rad/s] per angle that is left [rad]."""
HEADING_TOLERANCE = 0.05
"""A turn ends this near [rad] to its heading."""
TURN_PATIENCE = 3.0, 3.0
"""A turn is given up after so long [s], and so many times what half a turn takes at full speed."""
DRIVE_PATIENCE = 5.0, 5.0, 3.0
"""A drive is given up after so long [s], plus two multiples: of its time at full speed, of the time between answers."""
LOOK_ASIDE = 0.6, 1.2, 1.8
"""Where a clear way is looked for [rad from the heading], on each side."""
FREER = 0.1
"""One side is freer than the other if its probability is higher by this."""


@dataclass(frozen=True)
class WorldState:
    """What is known at one control step.

    `surroundings` and `sighting` are the newest answers (no sighting without a target); `pose_then` is where the
    robot was when their image was taken and `pose` where it is. `period` [s] is the measured time between answers.
    `free` [m] is how far from the camera the way is free as depth has it, and None without depth. `doubt` says why the
    rest must not be believed, and is None otherwise. `gone` [m] is how far the robot went since that image, by
    odometry or the commands, whichever says more. `map` is what all images showed, and None when the map cannot tell
    where. `asked` [s] is when the newest question was sent, `takes` [s] how long an answer takes. Stamps and the times
    of the steps are of one clock.
    """

    surroundings: Surroundings | None = None
    sighting: Sighting | None = None
    pose: Pose = Pose()
    pose_then: Pose = Pose()
    period: float = 0.1
    free: float | None = None
    doubt: str | None = None
    gone: float = 0.0
    map: SearchMap | None = None
    asked: float = -math.inf
    takes: float = 0.0


@dataclass(frozen=True)
class Decision:
    """The wanted command, the name of the state and the reason in words. `found` is None while there is hope.

    `asks_later` says that an image is worth more in a moment, when the robot looks where it wants to.
    """

    command: Command
    state: str
    reason: str
    found: bool | None = None
    asks_later: bool = False


Plan = Iterator[Decision]


def nothing_yet() -> bool:
    return False


class Behaviour:
    """What all behaviours share: the belief, the plan, and manoeuvres to make plans of."""

    def __init__(self, tuning: Tuning | None = None) -> None:
        self.tuning = tuning or Tuning()
        self.belief = Belief(self.tuning.memory)
        self.world = WorldState(doubt="there is no answer yet")
        self.time = 0.0
        self.seen = False
        self.near = False
        self.blocked = True
        self.side = 1.0
        self._answers_in_reach = 0
        self._answers_near = 0
        self._plan = self.act()

    def step(self, world: WorldState, time: float) -> Decision:
        """Return what to do at `time` [s]; to be called at every control step."""
        if world.doubt or world.surroundings is None:
            self.belief.forget()
            self.seen, self.near, self.blocked = False, False, True
            self._answers_in_reach = self._answers_near = 0
            return Decision(STOP, STOPPED, world.doubt or "there is no answer yet")
        is_new = self.world.surroundings is None or world.surroundings.stamp != self.world.surroundings.stamp
        self.world, self.time = world, time
        if is_new:
            self._believe(world.surroundings, world.sighting)
        self.blocked = self.blocked or self.too_close
        return next(self._plan)

    def act(self) -> Plan:
        """Yield the decisions, without an end."""
        raise NotImplementedError

    def _believe(self, surroundings: Surroundings, sighting: Sighting | None) -> None:
        belief, tuning = self.belief, self.tuning
        belief.add(surroundings, sighting, self.world.pose_then.heading)
        self.seen = belief.visible > (tuning.lose if self.seen else tuning.see)
        self.near = self.seen and belief.near > (STILL_NEAR * tuning.near if self.near else tuning.near)
        self.blocked = belief.blocked > (tuning.clear if self.blocked else tuning.blocked)
        in_reach = sighting is not None and sighting.in_reach > LIKELY
        self._answers_in_reach = self._answers_in_reach + 1 if in_reach else 0
        is_near = sighting is not None and sighting.visible > WORTH_A_LOOK and sighting.near > tuning.arrive
        self._answers_near = self._answers_near + 1 if is_near else 0

    @property
    def too_close(self) -> bool:
        """Does depth say that there is something within the stop distance?"""
        return self.world.free is not None and self.world.free < self.tuning.stop_distance

    @property
    def bearing(self) -> float:
        """Where the target is believed to be now [rad, positive left]."""
        return wrap(self.belief.heading - self.world.pose.heading)

    def travelled_since(self, pose: Pose) -> float:
        return self.world.pose.distance_to((pose.x, pose.y))

    # Commands

    def turn(self, angle: float) -> Command:
        """Turn in place by what is left of `angle` [rad], slower towards the end."""
        speed = min(self.tuning.turn_speed, max(SLOWEST_TURN, TURN_GAIN * abs(angle)))
        return Command(0.0, math.copysign(speed, angle))

    def forward(self, speed: float, turn: float = 0.0) -> Command:
        """Drive, but not where the newest answer or the belief says that something is in the way.

        Where they are in doubt it is slower and less far: the next image, from a bit nearer, tells more.
        """
        assert self.world.surroundings is not None
        now = self.world.surroundings.blocked
        doubt = max(now, self.belief.blocked)
        speed = 0.0 if now > LIKELY else speed * (1.0 - doubt)
        return self.creep(speed, turn, share=max(DOUBTFUL_SHARE, 1.0 - 2.0 * doubt))

    def creep(self, speed: float, turn: float = 0.0, share: float = 1.0) -> Command:
        """Drive, but not far from where the newest image was taken: beyond it the robot is blind.

        `share` is how much of that distance may be used.
        """
        left = self.sight(share)
        speed = min(speed, math.sqrt(2.0 * EASY_BRAKING * self.tuning.braking * max(0.0, left)))
        return Command(speed, turn if speed > 0.0 else 0.0)

    def sight(self, share: float) -> float:
        """Return how far [m] the robot may still go beyond the newest image, by a `share` of that distance."""
        seen = self.tuning.blind_distance if self.world.free is None else self.tuning.watched_distance
        return share * seen - max(self.world.gone, self.travelled_since(self.world.pose_then))

    # Manoeuvres

    def wait(self, duration: float, state: str, reason: str, until: Callable[[], bool] = nothing_yet) -> Plan:
        """Stand still for `duration` [s]."""
        end = self.time + duration
        while self.time < end and not until():
            yield Decision(STOP, state, reason)

    def look(self, state: str, reason: str, answers: int = 2, until: Callable[[], bool] = nothing_yet) -> Plan:
        """Stand still until there were `answers` about images that were taken while standing still."""
        taken = self.time + SETTLING
        while answers and not until():
            yield Decision(STOP, state, reason)
            assert self.world.surroundings is not None
            if self.world.surroundings.stamp > taken:
                taken = self.world.surroundings.stamp
                answers -= 1

    def look_ahead(self, state: str, reason: str, until: Callable[[], bool] = nothing_yet) -> Plan:
        """Look whether the way is clear in a direction that the robot did not look in before."""
        self.belief.doubt_the_way()
        yield from self.look(state, reason, until=until)

    def turn_to(self, heading: float, state: str, reason: str, until: Callable[[], bool] = nothing_yet) -> Plan:
        """Turn in place to a heading [rad]; a robot that cannot turn gives up after a while."""
        end = self.time + TURN_PATIENCE[0] + TURN_PATIENCE[1] * math.pi / self.tuning.turn_speed
        while (
            abs(angle := wrap(heading - self.world.pose.heading)) > HEADING_TOLERANCE
            and self.time < end
            and not until()
        ):
            yield Decision(self.turn(angle), state, reason)

    def drive(self, distance: float, state: str, reason: str, until: Callable[[], bool] = nothing_yet) -> Plan:
        """Drive straight on for `distance` [m], or until the way is blocked."""
        start = self.world.pose
        end = self.time + DRIVE_PATIENCE[0] + DRIVE_PATIENCE[1] * distance / self.tuning.forward_speed
        end += DRIVE_PATIENCE[2] * self.world.period
        while self.travelled_since(start) < distance and not self.blocked and self.time < end and not until():
            yield Decision(self.forward(self.tuning.forward_speed), state, reason)

    def turn_to_clear_way(self, state: str, reason: str, until: Callable[[], bool] = nothing_yet) -> Plan:
        """Look for a clear way on the chosen side, then on the other, then behind.

        The side stays the same until the search there was in vain: no dithering in corners.
        """
        start = self.world.pose.heading
        angles = [side * angle for side in (self.side, -self.side) for angle in LOOK_ASIDE]
        for angle in (*angles, math.pi):
            yield from self.turn_to(start + angle, state, reason, until)
            yield from self.look_ahead(state, reason, until)
            if until():
                return
            if not self.blocked:
                self.side = math.copysign(1.0, angle)
                return

    def choose_side(self) -> None:
        """Prefer the free side, if one is freer than the other."""
        difference = self.belief.left - self.belief.right
        if abs(difference) > FREER:
            self.side = math.copysign(1.0, difference)
