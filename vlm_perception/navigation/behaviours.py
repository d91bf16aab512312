"""What to do next: idle, search, follow, explore.

A behaviour is deterministic: its decisions depend on the views and times it was given, and on nothing else. It asks
no clock, draws no random number and knows no ROS. What it does is written down as a plan, a generator that yields one
`Decision` per control step and finds the newest `WorldState` in `self.world`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vlm_perception.navigation.belief import WORTH_A_LOOK, Belief
from vlm_perception.navigation.motion import STOP, Command, Limits, Pose, wrap
from vlm_perception.navigation.settings import (
    CameraMounting,
    DepthSettings,
    Footprint,
    NavigationSettings,
    TargetSettings,
    WaySettings,
)
from vlm_perception.navigation.sighting import Sighting, Surroundings

STOPPED = "stopped"
SEARCHING = "searching"
ALIGNING = "aligning"
APPROACHING = "approaching"
ARRIVED = "arrived"
LOST = "lost"
DETOURING = "detouring"
FOLLOWING = "following"
EXPLORING = "exploring"

AT_LEAST_TO_SEE = 3
"""The number of answers in which a target that passes through the view must appear."""
SURE = 0.85
"""From this probability up a target ahead is beyond doubt."""
MAKING_SURE = 3.0
"""How long [s] to stand before a target that seems near without becoming sure."""
EASY_BRAKING = 0.8
"""The robot drives so fast that it could stop with this share of its braking where its sight ends."""
SETTLING = 0.2
"""The robot stands still so long [s] after a stop that pictures are sharp and headings certain."""


LOSING, CLEARING = 0.3, 0.2
"""So much below the probability from which a target is seen, or a way blocked, that ends."""
WATCHED = 2.0
"""With depth the robot drives so many times as far beyond the newest image."""


@dataclass(frozen=True)
class Tuning:
    """How a robot behaves. Speeds are in [m/s] and [rad/s], distances in [m], times in [s], the rest is probability."""

    forward_speed: float = Limits.forward_speed
    turn_speed: float = Limits.turn_speed
    braking: float = Limits.braking
    """Deceleration of an ordinary stop [m/s^2]."""
    creep_speed: float = 0.08
    """The speed where it is close."""
    field_of_view: float = CameraMounting.field_of_view
    """Of the camera, horizontally [rad]."""
    memory: float = 0.25
    """Time constant with which old answers fade."""
    see: float = TargetSettings.seen_threshold
    lose: float = TargetSettings.seen_threshold - LOSING
    """The target counts as seen from `see` up, until it falls below `lose`."""
    blocked: float = WaySettings.blocked_threshold
    clear: float = WaySettings.blocked_threshold - CLEARING
    """The way counts as blocked from `blocked` up, until it falls below `clear`."""
    near: float = 0.6
    arrive: float = 0.7
    arrive_answers: int = 3
    """Arrived when near and in the center was believed that much, and said by that many answers in a row."""
    blind_distance: float = NavigationSettings.blind_distance
    """The robot drives no further than this beyond the place where the newest answered image was taken."""
    watched_distance: float = WATCHED * NavigationSettings.blind_distance
    """The same while depth is there, which sees what the old image does not show."""
    stop_distance: float = DepthSettings.stop_distance
    """From the camera: nothing may be nearer in the way, as depth has it."""
    near_distance: float = DepthSettings.near_distance
    """From the camera: a target with nothing nearer in its direction, as depth has it, is not near."""
    robot_width: float = Footprint.width
    robot_height: float = Footprint.height
    """What the robot needs to pass, with some room to spare."""
    viewpoint_distance: float = 1.25
    """From one place to look around to the next."""
    detour_distance: float = 0.75
    """To the side of what is in the way."""
    lost_wait: float = 1.0
    """How long a lost target is awaited before the search begins again."""

    @classmethod
    def of(cls, settings: NavigationSettings) -> Tuning:
        """Return the tuning that follows from a user's `settings`."""
        return cls(
            forward_speed=settings.limits.forward_speed,
            turn_speed=settings.limits.turn_speed,
            braking=settings.limits.braking,
            creep_speed=min(cls.creep_speed, settings.limits.forward_speed),
            field_of_view=settings.camera.field_of_view,
            see=settings.target.seen_threshold,
            lose=settings.target.seen_threshold - LOSING,
            blocked=settings.way.blocked_threshold,
            clear=settings.way.blocked_threshold - CLEARING,
            blind_distance=settings.blind_distance,
            watched_distance=WATCHED * settings.blind_distance,
            stop_distance=settings.depth.stop_distance,
            near_distance=settings.depth.near_distance,
            robot_width=settings.robot.width,
            robot_height=settings.robot.height,
        )

    def __post_init__(self) -> None:
        for low, high in (("lose", "see"), ("clear", "blocked"), ("creep_speed", "forward_speed")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"{low} is {getattr(self, low)}, expected at most {high}, which is {getattr(self, high)}"
                )


@dataclass(frozen=True)
class WorldState:
    """What is known at one control step.

    `surroundings` and `sighting` are the newest answers (no sighting without a target); `pose_then` is where the
    robot was when their picture was taken and `pose` where it is. `period` [s] is the measured time between answers.
    `free` [m] is how far from the camera the way is free as depth has it, and None without depth. `doubt` says why the
    rest must not be believed, and is empty otherwise. `gone` [m] is how far the robot went since that picture, by
    odometry or the commands, whichever says more. Stamps and the times of the steps are of one clock.
    """

    surroundings: Surroundings | None = None
    sighting: Sighting | None = None
    pose: Pose = Pose()
    pose_then: Pose = Pose()
    period: float = 0.1
    free: float | None = None
    doubt: str = ""
    gone: float = 0.0


@dataclass(frozen=True)
class Decision:
    """The wanted command, the name of the state and the reason in words. `found` is None while there is hope."""

    command: Command
    state: str
    reason: str
    found: bool | None = None


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
        """The plan; it never ends."""
        raise NotImplementedError

    def _believe(self, surroundings: Surroundings, sighting: Sighting | None) -> None:
        belief, tuning = self.belief, self.tuning
        belief.add(surroundings, sighting, self.world.pose_then.heading)
        self.seen = belief.visible > (tuning.lose if self.seen else tuning.see)
        self.near = self.seen and belief.near > (0.5 * tuning.near if self.near else tuning.near)
        self.blocked = belief.blocked > (tuning.clear if self.blocked else tuning.blocked)
        in_reach = sighting is not None and sighting.in_reach > 0.5
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
        speed = min(self.tuning.turn_speed, max(0.1, 3.0 * abs(angle)))
        return Command(0.0, math.copysign(speed, angle))

    def forward(self, speed: float, turn: float = 0.0) -> Command:
        """Drive, but not where the newest answer or the belief says that something is in the way.

        Where they are in doubt it is slower and less far: the next picture, from a bit nearer, tells more.
        """
        assert self.world.surroundings is not None
        now = self.world.surroundings.blocked
        doubt = max(now, self.belief.blocked)
        speed = 0.0 if now > 0.5 else speed * (1.0 - doubt)
        return self.creep(speed, turn, share=max(0.2, 1.0 - 2.0 * doubt))

    def creep(self, speed: float, turn: float = 0.0, share: float = 1.0) -> Command:
        """Drive, but not far from where the newest picture was taken: beyond it the robot is blind.

        `share` is how much of that distance may be used.
        """
        seen = self.tuning.blind_distance if self.world.free is None else self.tuning.watched_distance
        left = share * seen - max(self.world.gone, self.travelled_since(self.world.pose_then))
        speed = min(speed, math.sqrt(2.0 * EASY_BRAKING * self.tuning.braking * max(0.0, left)))
        return Command(speed, turn if speed > 0.0 else 0.0)

    # Manoeuvres

    def wait(self, duration: float, state: str, reason: str, until: Callable[[], bool] = nothing_yet) -> Plan:
        """Stand still for `duration` [s]."""
        end = self.time + duration
        while self.time < end and not until():
            yield Decision(STOP, state, reason)

    def look(self, state: str, reason: str, answers: int = 2, until: Callable[[], bool] = nothing_yet) -> Plan:
        """Stand still until there were `answers` about pictures that were taken while standing still."""
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
        end = self.time + 3.0 + 3.0 * math.pi / self.tuning.turn_speed
        while abs(angle := wrap(heading - self.world.pose.heading)) > 0.05 and self.time < end and not until():
            yield Decision(self.turn(angle), state, reason)

    def drive(self, distance: float, state: str, reason: str, until: Callable[[], bool] = nothing_yet) -> Plan:
        """Drive straight on for `distance` [m], or until the way is blocked."""
        start = self.world.pose
        end = self.time + 5.0 + 5.0 * distance / self.tuning.forward_speed + 3.0 * self.world.period
        while self.travelled_since(start) < distance and not self.blocked and self.time < end and not until():
            yield Decision(self.forward(self.tuning.forward_speed), state, reason)

    def turn_to_clear_way(self, state: str, reason: str, until: Callable[[], bool] = nothing_yet) -> Plan:
        """Look for a clear way on the chosen side, then on the other, then behind.

        The side stays the same until the search there was in vain: no dithering in corners.
        """
        start = self.world.pose.heading
        angles = [side * angle for side in (self.side, -self.side) for angle in (0.6, 1.2, 1.8)]
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
        if abs(difference) > 0.1:
            self.side = math.copysign(1.0, difference)


class Idle(Behaviour):
    """Stand still."""

    def __init__(self, tuning: Tuning | None = None, reason: str = "the mode is idle") -> None:
        super().__init__(tuning)
        self.reason = reason

    def step(self, world: WorldState, time: float) -> Decision:
        return next(self._plan)

    def act(self) -> Plan:
        while True:
            yield Decision(STOP, STOPPED, self.reason)


class Explore(Behaviour):
    """Drive where it is clear; where it is not, turn until it is."""

    def act(self) -> Plan:
        turned_at: Pose | None = None
        while True:
            yield from self.look(EXPLORING, "looking whether the way ahead is clear")
            while not self.blocked:
                belief = self.belief
                # Doorways and corridors lead somewhere: drive straight through them.
                steering = 0.6 * (belief.left - belief.right) * (1.0 - belief.center) * (1.0 - belief.passage)
                where = "through a doorway or corridor" if belief.passage > 0.5 else "on, the way is clear"
                yield Decision(self.forward(self.tuning.forward_speed, steering), EXPLORING, f"driving {where}")
            if turned_at is None or self.travelled_since(turned_at) > 0.5:
                self.choose_side()
            turned_at = self.world.pose
            side = "left" if self.side > 0.0 else "right"
            yield from self.turn_to_clear_way(EXPLORING, f"the way is blocked: turning {side}")
            if self.blocked:
                yield from self.wait(3.0, STOPPED, "the way is blocked on all sides")


class Seek(Behaviour):
    """Look for the target, drive to it, and come back to the search when it is lost."""

    def __init__(self, target: str, tuning: Tuning | None = None) -> None:
        super().__init__(tuning)
        self.target = target
        self._viewpoints: list[Pose] = []
        self._ways: list[tuple[float, float]] = []  # heading [rad], how good it looks to drive there
        self._lost_at: float | None = None  # heading [rad] where the target was lost, to be looked for from elsewhere
        self._clear_at: Pose | None = None  # where the way to the target was seen clear last
        self._near_at: Pose | None = None  # where the target seemed near first
        self._near_since = 0.0
        self._looked_again = False
        self._driven_from: Pose | None = None  # where the straight way to here began
        self._sure_from_afar = False  # was the target, ahead and far, beyond doubt when the way was clear last?

    def is_seen(self) -> bool:
        return self.seen

    def act(self) -> Plan:
        while True:
            if self._lost_at is None:
                yield from self.look_around()
            if self.seen:
                yield from self.pursue()
            else:
                yield from self.go_elsewhere()

    def look_around(self) -> Plan:
        """Turn once around, so slowly that the target cannot pass unnoticed; a suspicion gets a second look."""
        reason = f"looking around for {self.target}"
        self._viewpoints.append(self.world.pose)
        self._ways.clear()
        start = last = self.world.pose.heading
        self.choose_side()
        side = self.side
        next_suspicion = -math.inf
        stamp = None
        while abs(last - start) < math.tau and not self.seen:
            last = self.world.pose.heading
            surroundings = self.world.surroundings
            assert surroundings is not None
            if surroundings.stamp != stamp:
                stamp = surroundings.stamp
                clear = (1.0 - surroundings.blocked) * (0.3 + 0.7 * surroundings.center)
                self._ways.append((self.world.pose_then.heading, clear * (1.0 + 0.3 * surroundings.passage)))
            if self.belief.visible > self.tuning.lose and abs(last - start) > next_suspicion:
                next_suspicion = abs(last - start) + 0.3
                yield from self.suspect()
                continue
            yield Decision(Command(0.0, side * self.look_around_speed()), SEARCHING, reason)

    def look_around_speed(self) -> float:
        """As fast [rad/s] as the camera's view and the time between answers allow."""
        period = max(self.world.period, 0.02)
        speed = min(self.tuning.turn_speed, self.tuning.field_of_view / (AT_LEAST_TO_SEE * period))
        turned = abs(wrap(self.world.pose.heading - self.world.pose_then.heading))
        left = self.tuning.field_of_view / 2 - turned
        return max(0.0, min(speed, 8.0 * left))

    def suspect(self) -> Plan:
        """Look again where the target might have been."""
        end = self.time + max(1.0, 4.0 * self.world.period)
        while self.tuning.lose < self.belief.visible and not self.seen and self.time < end:
            turn = self.turn(self.bearing) if abs(self.bearing) > 0.12 else STOP
            yield Decision(turn, SEARCHING, f"there might be {self.target}: looking again")

    def go_elsewhere(self) -> Plan:
        """Drive to a new viewpoint, where it is clear and nobody has looked yet."""
        heading = self.best_way() if self._lost_at is None else self._lost_at
        self._lost_at = None
        if heading is None:
            yield from self.wait(2.0, SEARCHING, "the way is blocked on all sides", until=self.is_seen)
            return
        reason = f"{self.target} is not to be seen from here: going elsewhere"
        yield from self.turn_to(heading, SEARCHING, reason, until=self.is_seen)
        yield from self.look_ahead(SEARCHING, reason, until=self.is_seen)
        left = self.tuning.viewpoint_distance
        for _ in range(3):
            if self.blocked and not self.seen:
                self.choose_side()
                yield from self.turn_to_clear_way(SEARCHING, reason, until=self.is_seen)
            start = self.world.pose
            yield from self.drive(left, SEARCHING, reason, until=self.is_seen)
            left -= self.travelled_since(start)
            if left < 0.5 * self.tuning.viewpoint_distance or self.seen:
                return

    def best_way(self) -> float | None:
        """Return the heading [rad] of a clear way into the open, far from earlier viewpoints, or None."""

        def clear(heading: float, width: float) -> float:
            ways = [good for other, good in self._ways if abs(wrap(other - heading)) < width]
            return sum(ways) / len(ways)

        def worth(heading: float) -> float:
            if clear(heading, 0.3) < 0.25:
                return 0.0
            x, y = replace(self.world.pose, heading=heading).ahead(self.tuning.viewpoint_distance)
            novelty = min(math.hypot(x - place.x, y - place.y) for place in self._viewpoints)
            return clear(heading, 0.3) * clear(heading, 1.0) * (0.3 + min(novelty, 1.5))

        best = max((heading for heading, _ in self._ways), key=worth, default=None)
        return best if best is not None and worth(best) > 0.0 else None

    def pursue(self) -> Plan:
        """Turn to the target and drive to it, until it is lost."""
        self._come_from_nowhere()
        aligning = True
        while True:
            if not self.seen:
                yield from self.recover()
                if not self.seen:
                    self._lost_at = self.belief.heading
                    return
                self._clear_at = self._near_at = None
            aligning = abs(self.bearing) > (0.12 if aligning else 0.3)
            if aligning:
                self._driven_from = None
                side = "left" if self.bearing > 0.0 else "right"
                yield Decision(self.align(), ALIGNING, f"{self.target} is to the {side}: turning towards it")
            elif self.near or self.sighting_is_near():
                yield from self.make_sure()
            elif not self.obstructed():
                self._clear_at, self._near_at = self.world.pose_then, None
                self._sure_from_afar = self.belief.visible > SURE
                self._driven_from = self._driven_from or self.world.pose
                yield Decision(self.approach(), APPROACHING, f"{self.target} is ahead: driving to it")
            elif (
                not self.too_close and self._clear_at and self.travelled_since(self._clear_at) < self.creep_allowance()
            ):
                reason = f"something is ahead, perhaps {self.target}: creeping closer"
                yield Decision(self.creep(self.tuning.creep_speed, 0.5 * self.bearing), APPROACHING, reason)
            elif self.blocked:
                yield from self.detour()
                self._come_from_nowhere()
                aligning = True
            else:
                reason, patience = "something seems to be in the way: looking again", self.patience()
                yield from self.wait(patience, APPROACHING, reason, until=lambda: self.blocked or not self.obstructed())
                self.blocked = self.obstructed()  # the same picture would get the same answers for ever

    def _come_from_nowhere(self) -> None:
        """The robot was elsewhere: what it saw and drove before does not lead to the target from here."""
        self._clear_at = self._near_at = self._driven_from = None
        self._sure_from_afar = False

    def obstructed(self) -> bool:
        """Does the belief, or the newest answer alone, say that something is ahead?"""
        return self.blocked or (self.world.surroundings is not None and self.world.surroundings.blocked > 0.5)

    def sighting_is_near(self) -> bool:
        """Does the newest answer alone say that the target is near?"""
        sighting = self.world.sighting
        return sighting is not None and sighting.visible * sighting.near > 0.5

    def align(self) -> Command:
        """Towards the target: in place, or in an arc where the way is clear and the target not far to the side."""
        turn = self.turn(self.bearing)
        ahead = 0.0 if self.near or self.obstructed() else max(0.0, 1.0 - abs(self.bearing) / 0.6)
        arc = self.forward(ahead * self.tuning.forward_speed, turn.turn)
        return arc if arc.forward > 0.0 else turn

    def approach(self) -> Command:
        """Towards the target: slower when it may be near and when it is in doubt."""
        tuning, belief = self.tuning, self.belief
        sure = min(1.0, max(0.0, (belief.visible - tuning.lose) / (0.9 - tuning.lose)))
        speed = tuning.creep_speed + (tuning.forward_speed - tuning.creep_speed) * sure * (1.0 - belief.near)
        return self.forward(speed, max(-0.8, min(0.8, 2.0 * self.bearing)))

    def make_sure(self) -> Plan:
        """Near, as it seems: stand still until several answers agree, and something is ahead, as it must be then."""
        if self._near_at is None:
            self._near_at, self._near_since = self.world.pose_then, self.time
        if not self.confirmed():
            if self.time - self._near_since > self.patience():
                yield from self.look_again()
                return
            turn = max(-0.3, min(0.3, self.bearing))
            yield Decision(Command(0.0, turn), APPROACHING, f"{self.target} seems near: making sure")
        elif self.obstructed() or self.travelled_since(self._near_at) > 0.2:
            yield from self.at_target()
        else:
            reason = f"{self.target} seems near, but nothing is ahead: creeping closer"
            yield Decision(self.creep(self.tuning.creep_speed, self.bearing), APPROACHING, reason)

    def confirmed(self) -> bool:
        """Is the target in reach beyond doubt? By the answers from here, or by those from afar and from here together.

        Close up a shape is hard to tell. But what was seen for sure straight ahead, while the way to it was clear, and
        was driven to, is what is ahead now, unless the answers say that it is not there or not near.
        """
        tuning, belief = self.tuning, self.belief
        if self._answers_in_reach >= tuning.arrive_answers and belief.in_reach > tuning.arrive:
            return self.near
        near = self._answers_near >= 2 * tuning.arrive_answers and belief.near > tuning.arrive
        return near and self._sure_from_afar and self.obstructed()

    def patience(self) -> float:
        """How long [s] to stand still and wait for answers that agree."""
        return max(MAKING_SURE, 12.0 * self.world.period)

    def look_again(self) -> Plan:
        """The same picture would get the same answers for ever: look from farther away, then from elsewhere."""
        reason = f"not sure whether it is {self.target} that is near: looking again from farther away"
        self._near_at = None
        # The robot came straight from there just now, so it may go back a few decimetres without looking.
        came = self._driven_from
        straight = came is not None and abs(wrap(self.world.pose.heading - came.heading)) < 0.2
        distance = min(0.3, self.travelled_since(came)) if came and straight else 0.0
        self._looked_again = distance > 0.1 and not self._looked_again
        if not self._looked_again:
            yield from self.detour()
            self._driven_from = None
            return
        start, end = self.world.pose, self.time + 6.0
        while self.travelled_since(start) < distance and self.time < end:
            yield Decision(Command(-self.tuning.creep_speed, 0.0), APPROACHING, reason)
        yield from self.look(APPROACHING, reason, answers=3)

    def creep_allowance(self) -> float:
        """How far [m] from where the way was clear last the robot may go on towards what is ahead.

        Is it the target itself, it becomes near within that distance. A wall is seen from farther away.
        """
        if self.belief.wall > 2.0 * self.belief.obstacle:
            return 0.5
        return 0.3 if self.belief.near > 0.3 else 0.2

    def detour(self) -> Plan:
        """Around what is in the way, and back to where the target was."""
        reason = f"something else is between here and {self.target}: going around it"
        goal = self.world.pose.ahead(1.5, self.bearing)
        self.choose_side()
        yield from self.turn_to_clear_way(DETOURING, reason)
        start = self.world.pose
        yield from self.drive(self.tuning.detour_distance, DETOURING, reason)
        if self.travelled_since(start) < 0.5 * self.tuning.detour_distance:
            self.side = -self.side  # a dead end: the other side next time
        heading = self.world.pose.heading + self.world.pose.bearing_of(goal)
        yield from self.turn_to(heading, DETOURING, reason)
        yield from self.look(DETOURING, reason, answers=3)

    def recover(self) -> Plan:
        """Wait for a lost target to come back, then look where it was last."""
        reason = f"lost sight of {self.target}"
        heading = self.belief.heading
        self.side = 1.0 if self.bearing >= 0.0 else -1.0
        wait = max(self.tuning.lost_wait, 3.0 * self.world.period)
        yield from self.wait(wait, LOST, f"{reason}: waiting for it", until=self.is_seen)
        yield from self.turn_to(heading, LOST, f"{reason}: turning to where it was", until=self.is_seen)
        yield from self.look(LOST, f"{reason}: looking where it was", answers=3, until=self.is_seen)

    def at_target(self) -> Plan:
        """What to do in front of the target."""
        raise NotImplementedError


class Search(Seek):
    """Find the target, stop in front of it and stay. After `time_limit` [s] without success give up (0: never)."""

    def __init__(self, target: str, tuning: Tuning | None = None, time_limit: float = 0.0) -> None:
        super().__init__(target, tuning)
        self.time_limit = time_limit
        self._started: float | None = None
        self._result: Decision | None = None

    def step(self, world: WorldState, time: float) -> Decision:
        if self._result is not None:
            return self._result
        if self._started is None:
            self._started = time
        if self.time_limit > 0.0 and time - self._started >= self.time_limit:
            decision = Decision(STOP, STOPPED, f"{self.target} was not found within {self.time_limit:g} s", found=False)
        else:
            decision = super().step(world, time)
        if decision.found is not None:
            self._result = decision
        return decision

    def at_target(self) -> Plan:
        yield Decision(STOP, ARRIVED, f"{self.target} is near and ahead", found=True)


class Follow(Seek):
    """Keep the target in sight and at a distance, for ever. It is awaited where it was lost."""

    def at_target(self) -> Plan:
        while self.near:
            bearing = self.bearing
            turn = self.turn(bearing) if abs(bearing) > 0.2 else STOP
            yield Decision(turn, FOLLOWING, f"{self.target} is near: keeping the distance")

    def go_elsewhere(self) -> Plan:
        yield from self.wait(2.0, SEARCHING, f"{self.target} is not to be seen: waiting", until=self.is_seen)
