"""Look for a target, drive to it, and come back to the search when it is lost."""

from __future__ import annotations

import math
from dataclasses import replace

from vlm_perception.navigation.behaviours.base import (
    ALIGNING,
    APPROACHING,
    DETOURING,
    LIKELY,
    LOST,
    SEARCHING,
    Behaviour,
    Decision,
    Plan,
)
from vlm_perception.navigation.motion import STOP, Command, Pose, wrap
from vlm_perception.navigation.tuning import Tuning

# Looking around
AT_LEAST_TO_SEE = 3
"""The number of answers in which a target that passes through the view must appear."""
SHORTEST_PERIOD = 0.02
"""The time between answers [s] counts as at least this."""
SIGHT_GAIN = 8.0
"""A turn is at most this fast [rad/s] per angle [rad] until the robot looks where the newest image shows nothing."""
SUSPICION_SPACING = 0.3
"""A suspicion gets a second look only so far [rad] beyond the one before."""
SUSPICION = 1.0, 4.0
"""How long a suspicion is looked at: so long [s], or so many times between answers if that is longer."""
CAREFUL_ANSWERS = 3
"""Number of answers that are awaited where a mistake would cost much."""

# Where to go next
CLEAR_ASIDE = 0.3
"""What a clear way counts that is not said to be the clear one."""
PASSAGE_BONUS = 0.3
"""By so much a doorway or corridor makes a way better."""
ROBOT_ANGLE, OPEN_ANGLE = 0.3, 1.0
"""Half angles [rad] within which a way must be clear for the robot to drive, and to count as open."""
CLEAR_ENOUGH = 0.25
"""A way that is less clear is none."""
NOVELTY = 0.3, 1.5
"""What a place counts where the robot was before, and the distance [m] from there from which on more is no better."""
ENCLOSED_WAIT = 2.0
"""How long [s] to wait where the way is blocked on all sides."""
LEGS = 3
"""In so many straight drives the robot goes to its next viewpoint."""
FAR_ENOUGH = 0.5
"""A drive of less than this share of its distance was in vain; less than this share of it need not be driven."""

# Driving to the target
ALIGNED, MISALIGNED = 0.12, 0.3
"""The robot turns to a target that is farther [rad] to the side than the second, until it is nearer than the first."""
ARC = 0.6
"""The robot drives while it turns to a target that is nearer [rad] than this to straight ahead."""
STEERING = 0.8
"""The robot steers at most this fast [rad/s] while it drives to a target, ..."""
STEERING_GAIN = 2.0
"""... and this fast [rad/s] per angle to it [rad]."""
FULL_SPEED = 0.9
"""From this probability of the target up the robot drives to it at full speed."""
SURE = 0.85
"""From this probability up a target ahead is beyond doubt."""

# Something is ahead: the target?
CREEP_STEERING = 0.5
"""While it creeps the robot steers so fast [rad/s] per angle to the target [rad]."""
CREEP_TO_WALL, CREEP_TO_NEAR, CREEP_TO_FAR = 0.5, 0.3, 0.2
"""The robot creeps so far [m]: when a wall is ahead, when the target is perhaps near, and else."""
SURELY_WALL = 2.0
"""It is a wall that is ahead when that is so many times as probable as an obstacle."""
PERHAPS_NEAR = 0.3
"""From this probability up a target is perhaps near."""
MAKING_SURE = 3.0, 12.0
"""How long to stand before a target that seems near without becoming sure: so long [s], or so many times between
answers if that is longer."""
STANDING_TURN = 0.3
"""The robot turns at most this fast [rad/s] while it makes sure."""
CREPT = 0.2
"""After so far [m] a target that seems near is there although nothing is ahead."""
FROM_AFAR = 2
"""Factor for the number of answers that must say "near", if the target is known from afar alone."""
STRAIGHT = 0.2
"""The robot came straight here when it turned by less than this [rad]."""
STEP_BACK = 0.3
"""The robot steps back so far [m] at most ..."""
SHORTEST_STEP_BACK = 0.1
"""... and so far [m] at least, ..."""
STEP_BACK_PATIENCE = 6.0
"""... or gives it up after so long [s]."""

# Around an obstacle, and after a loss
BEHIND_OBSTACLE = 1.5
"""A target behind something else is so far away [m], it is assumed."""
LOST_ANSWERS = 3.0
"""A lost target is awaited for at least so many times between answers."""


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
                clear = (1.0 - surroundings.blocked) * (CLEAR_ASIDE + (1.0 - CLEAR_ASIDE) * surroundings.center)
                self._ways.append((self.world.pose_then.heading, clear * (1.0 + PASSAGE_BONUS * surroundings.passage)))
            if self.belief.visible > self.tuning.lose and abs(last - start) > next_suspicion:
                next_suspicion = abs(last - start) + SUSPICION_SPACING
                yield from self.suspect()
                continue
            yield Decision(Command(0.0, side * self.look_around_speed()), SEARCHING, reason)

    def look_around_speed(self) -> float:
        """As fast [rad/s] as the camera's view and the time between answers allow."""
        period = max(self.world.period, SHORTEST_PERIOD)
        speed = min(self.tuning.turn_speed, self.tuning.field_of_view / (AT_LEAST_TO_SEE * period))
        turned = abs(wrap(self.world.pose.heading - self.world.pose_then.heading))
        left = self.tuning.field_of_view / 2 - turned
        return max(0.0, min(speed, SIGHT_GAIN * left))

    def suspect(self) -> Plan:
        """Look again where the target might have been."""
        end = self.time + max(SUSPICION[0], SUSPICION[1] * self.world.period)
        while self.tuning.lose < self.belief.visible and not self.seen and self.time < end:
            turn = self.turn(self.bearing) if abs(self.bearing) > ALIGNED else STOP
            yield Decision(turn, SEARCHING, f"there might be {self.target}: looking again")

    def go_elsewhere(self) -> Plan:
        """Drive to a new viewpoint, where it is clear and nobody has looked yet."""
        heading = self.best_way() if self._lost_at is None else self._lost_at
        self._lost_at = None
        if heading is None:
            yield from self.wait(ENCLOSED_WAIT, SEARCHING, "the way is blocked on all sides", until=self.is_seen)
            return
        reason = f"{self.target} is not to be seen from here: going elsewhere"
        yield from self.turn_to(heading, SEARCHING, reason, until=self.is_seen)
        yield from self.look_ahead(SEARCHING, reason, until=self.is_seen)
        left = self.tuning.viewpoint_distance
        for _ in range(LEGS):
            if self.blocked and not self.seen:
                self.choose_side()
                yield from self.turn_to_clear_way(SEARCHING, reason, until=self.is_seen)
            start = self.world.pose
            yield from self.drive(left, SEARCHING, reason, until=self.is_seen)
            left -= self.travelled_since(start)
            if left < FAR_ENOUGH * self.tuning.viewpoint_distance or self.seen:
                return

    def best_way(self) -> float | None:
        """Return the heading [rad] of a clear way into the open, far from earlier viewpoints, or None."""

        def clear(heading: float, width: float) -> float:
            ways = [good for other, good in self._ways if abs(wrap(other - heading)) < width]
            return sum(ways) / len(ways)

        def worth(heading: float) -> float:
            if clear(heading, ROBOT_ANGLE) < CLEAR_ENOUGH:
                return 0.0
            x, y = replace(self.world.pose, heading=heading).ahead(self.tuning.viewpoint_distance)
            novelty = min(math.hypot(x - place.x, y - place.y) for place in self._viewpoints)
            return clear(heading, ROBOT_ANGLE) * clear(heading, OPEN_ANGLE) * (NOVELTY[0] + min(novelty, NOVELTY[1]))

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
            aligning = abs(self.bearing) > (ALIGNED if aligning else MISALIGNED)
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
                yield Decision(self.creep(self.tuning.creep_speed, CREEP_STEERING * self.bearing), APPROACHING, reason)
            elif self.blocked:
                yield from self.detour()
                self._come_from_nowhere()
                aligning = True
            else:
                reason, patience = "something seems to be in the way: looking again", self.patience()
                yield from self.wait(patience, APPROACHING, reason, until=lambda: self.blocked or not self.obstructed())
                self.blocked = self.obstructed()  # the same image would get the same answers for ever

    def _come_from_nowhere(self) -> None:
        """Forget what the robot saw and drove before: it does not lead to the target from here."""
        self._clear_at = self._near_at = self._driven_from = None
        self._sure_from_afar = False

    def obstructed(self) -> bool:
        """Tell whether the belief, or the newest answer alone, says that something is ahead."""
        return self.blocked or (self.world.surroundings is not None and self.world.surroundings.blocked > LIKELY)

    def sighting_is_near(self) -> bool:
        """Tell whether the newest answer alone says that the target is near."""
        sighting = self.world.sighting
        return sighting is not None and sighting.visible * sighting.near > LIKELY

    def align(self) -> Command:
        """Towards the target: in place, or in an arc where the way is clear and the target not far to the side."""
        turn = self.turn(self.bearing)
        ahead = 0.0 if self.near or self.obstructed() else max(0.0, 1.0 - abs(self.bearing) / ARC)
        arc = self.forward(ahead * self.tuning.forward_speed, turn.turn)
        return arc if arc.forward > 0.0 else turn

    def approach(self) -> Command:
        """Towards the target: slower when it may be near and when it is in doubt."""
        tuning, belief = self.tuning, self.belief
        sure = min(1.0, max(0.0, (belief.visible - tuning.lose) / (FULL_SPEED - tuning.lose)))
        speed = tuning.creep_speed + (tuning.forward_speed - tuning.creep_speed) * sure * (1.0 - belief.near)
        return self.forward(speed, max(-STEERING, min(STEERING, STEERING_GAIN * self.bearing)))

    def make_sure(self) -> Plan:
        """Near, as it seems: stand still until several answers agree, and something is ahead, as it must be then."""
        if self._near_at is None:
            self._near_at, self._near_since = self.world.pose_then, self.time
        if not self.confirmed():
            if self.time - self._near_since > self.patience():
                yield from self.look_again()
                return
            turn = max(-STANDING_TURN, min(STANDING_TURN, self.bearing))
            yield Decision(Command(0.0, turn), APPROACHING, f"{self.target} seems near: making sure")
        elif self.obstructed() or self.travelled_since(self._near_at) > CREPT:
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
        near = self._answers_near >= FROM_AFAR * tuning.arrive_answers and belief.near > tuning.arrive
        return near and self._sure_from_afar and self.obstructed()

    def patience(self) -> float:
        """How long [s] to stand still and wait for answers that agree."""
        return max(MAKING_SURE[0], MAKING_SURE[1] * self.world.period)

    def look_again(self) -> Plan:
        """Look from farther away, then from elsewhere: the same image would get the same answers for ever."""
        reason = f"not sure whether it is {self.target} that is near: looking again from farther away"
        self._near_at = None
        # The robot came straight from there just now, so it may go back a few decimetres without looking.
        came = self._driven_from
        straight = came is not None and abs(wrap(self.world.pose.heading - came.heading)) < STRAIGHT
        distance = min(STEP_BACK, self.travelled_since(came)) if came and straight else 0.0
        self._looked_again = distance > SHORTEST_STEP_BACK and not self._looked_again
        if not self._looked_again:
            yield from self.detour()
            self._driven_from = None
            return
        start, end = self.world.pose, self.time + STEP_BACK_PATIENCE
        while self.travelled_since(start) < distance and self.time < end:
            yield Decision(Command(-self.tuning.creep_speed, 0.0), APPROACHING, reason)
        yield from self.look(APPROACHING, reason, answers=CAREFUL_ANSWERS)

    def creep_allowance(self) -> float:
        """How far [m] from where the way was clear last the robot may go on towards what is ahead.

        Is it the target itself, it becomes near within that distance. A wall is seen from farther away.
        """
        if self.belief.wall > SURELY_WALL * self.belief.obstacle:
            return CREEP_TO_WALL
        return CREEP_TO_NEAR if self.belief.near > PERHAPS_NEAR else CREEP_TO_FAR

    def detour(self) -> Plan:
        """Around what is in the way, and back to where the target was."""
        reason = f"something else is between here and {self.target}: going around it"
        goal = self.world.pose.ahead(BEHIND_OBSTACLE, self.bearing)
        self.choose_side()
        yield from self.turn_to_clear_way(DETOURING, reason)
        start = self.world.pose
        yield from self.drive(self.tuning.detour_distance, DETOURING, reason)
        if self.travelled_since(start) < FAR_ENOUGH * self.tuning.detour_distance:
            self.side = -self.side  # a dead end: the other side next time
        heading = self.world.pose.heading + self.world.pose.bearing_of(goal)
        yield from self.turn_to(heading, DETOURING, reason)
        yield from self.look(DETOURING, reason, answers=CAREFUL_ANSWERS)

    def recover(self) -> Plan:
        """Wait for a lost target to come back, then look where it was last."""
        reason = f"lost sight of {self.target}"
        heading = self.belief.heading
        self.side = 1.0 if self.bearing >= 0.0 else -1.0
        wait = max(self.tuning.lost_wait, LOST_ANSWERS * self.world.period)
        yield from self.wait(wait, LOST, f"{reason}: waiting for it", until=self.is_seen)
        yield from self.turn_to(heading, LOST, f"{reason}: turning to where it was", until=self.is_seen)
        yield from self.look(LOST, f"{reason}: looking where it was", answers=CAREFUL_ANSWERS, until=self.is_seen)

    def at_target(self) -> Plan:
        """Yield what to do in front of the target."""
        raise NotImplementedError
