"""Look where the target may be: one view after the other, the most worthwhile first."""

from __future__ import annotations

import math

from vlm_perception.navigation.behaviours.base import LIKELY, SEARCHING, Decision, Plan
from vlm_perception.navigation.behaviours.mapped import SAME_WAY, SETTLED, TAKEN, MappedSeek
from vlm_perception.navigation.map_view import remains
from vlm_perception.navigation.motion import STOP, Command, wrap
from vlm_perception.navigation.next_view import Pace, View, next_view

NOT_FOUND = "not_found"

NEXT_SWEEP = 0.6
"""A sweep is planned anew so far [rad] before its end, so that it does not slow down."""
VIEW_TOLERANCE = 0.12
"""A view is in the wanted direction within this angle [rad]."""
VIEW_PATIENCE = 3.0, 3.0
"""A view is given up after so long [s], plus so many times between answers."""
AT_CORNER = 0.12
"""A corner of the way is reached within this distance [m]."""
PATH_TURN = 0.3
"""It turns in place towards a corner that is farther [rad] to the side."""


class ViewSearch(MappedSeek):
    """The search with a map: views from here or from elsewhere, until none is worth while."""

    def pace(self) -> Pace:
        """Return how fast the robot gets on."""
        tuning, period = self.tuning, self.world.period
        turn = min(tuning.turn_speed, tuning.field_of_view / (3.0 * period)) if not self.is_slow else tuning.turn_speed
        return Pace(
            0.8 * turn, 0.7 * tuning.forward_speed, max(self.world.takes + TAKEN, 0.8 * tuning.field_of_view / turn)
        )

    def plan_view(self, here_only: bool = False, side: float = 0.0) -> View | None:
        assert self.world.map is not None
        pending = [pose for _, pose in self._pending]
        return next_view(self.world.map, self.world.pose, self.pace(), self.time, pending, here_only, side)

    def interrupted(self) -> bool:
        """Tell whether there is something better to do than the plan."""
        return self.world.map is None or (not self._detouring and (self.seen or self._suspicion))

    def search(self) -> Plan:
        """Take the next view."""
        self._suspicion = False
        if self.is_slow and self._support and self._sector and self._sector.mass > LIKELY:
            reason = f"there might be {self.target}: looking again"
            yield from self.look_at(self.world.pose.heading + self.bearing, reason)
            yield from self.await_answer(reason)
            self._support = 0 if not self.seen else self._support
            return
        view = self.plan_view()
        if view is None:
            if not self._pending:
                yield from self.give_up()
            while self._pending and not self.interrupted():
                yield Decision(STOP, SEARCHING, f"waiting for the last answers about {self.target}")
            return
        reason = f"looking for {self.target}"
        for corner in view.corners:
            yield from self.drive_to(corner, f"{reason} from elsewhere")
            if self.interrupted() or self.has_failed(corner):
                return
        words = f"looking for a way to where {self.target} may be" if view.is_way else reason
        if self.is_slow:
            yield from self.look_at(view.heading, words)
        else:
            yield from self.sweep(view, words)

    def sweep(self, view: View, reason: str) -> Plan:
        """Turn to a view without a stop, and on to the next one here while there is one."""
        heading = view.heading
        side = math.copysign(1.0, wrap(heading - self.world.pose.heading))
        end = self.time + 10.0
        planned = self.time
        while not self.interrupted() and self.time < end:
            left = wrap(heading - self.world.pose.heading)
            if abs(left) < VIEW_TOLERANCE:
                taken = self.time + 0.1
                while not self.interrupted() and self.stamp < taken - 0.1 and self.time < taken + 1.0:
                    yield Decision(STOP, SEARCHING, reason)
                return
            if abs(left) < NEXT_SWEEP and self.time > planned + 0.1:
                planned = self.time
                following = self.plan_view(here_only=True, side=side)
                if following is not None and not following.corners and abs(wrap(following.heading - heading)) > 0.1:
                    heading = following.heading
                    left = wrap(heading - self.world.pose.heading)
            turn = self.turn(left).turn
            speed = min(abs(turn), self.look_around_speed())
            yield Decision(Command(0.0, math.copysign(speed, turn)), SEARCHING, reason)

    def look_at(self, heading: float, reason: str) -> Plan:
        """Turn to a heading [rad] and stay until an image was taken there; its answer comes later."""
        end = self.time + VIEW_PATIENCE[0] + VIEW_PATIENCE[1] * self.world.period
        while abs(angle := wrap(heading - self.world.pose.heading)) > VIEW_TOLERANCE and self.time < end:
            if self.interrupted():
                return
            yield Decision(self.turn(angle), SEARCHING, reason, asks_later=True)
        settled = self.time + SETTLED
        asked: float | None = None
        while self.time < end and not self.interrupted() and self.stamp < settled:
            if asked is None and self.world.asked >= settled:
                asked = self.world.asked
            if asked is not None and self.time >= asked + TAKEN:
                self._pending.append((asked, self.world.pose))
                return
            yield Decision(STOP, SEARCHING, reason, asks_later=self.time < settled)

    def await_answer(self, reason: str) -> Plan:
        """Stand still until there is an answer about an image from here."""
        taken, end = self.time - TAKEN, self.time + VIEW_PATIENCE[0] + VIEW_PATIENCE[1] * self.world.period
        while not self.interrupted() and self.stamp < taken and self.time < end:
            yield Decision(STOP, SEARCHING, reason)

    def drive_to(self, corner: tuple[float, float], reason: str) -> Plan:
        """Drive straight to a place [m] on a way that is known to be free, as long as it is."""
        pose = self.world.pose
        end = self.time + 5.0 + 5.0 * pose.distance_to(corner) / self.tuning.forward_speed + 3.0 * self.world.period
        stuck_since = self.time
        while self.world.pose.distance_to(corner) > AT_CORNER and self.time < end and not self.interrupted():
            bearing = self.world.pose.bearing_of(corner)
            if abs(bearing) < SAME_WAY and self.obstructed():
                return
            if abs(bearing) > PATH_TURN:
                stuck_since = self.time
                yield Decision(self.turn(bearing), SEARCHING, reason)
                continue
            command = self.forward(self.tuning.forward_speed, self.steering(bearing))
            if command.forward > 0.02:
                stuck_since = self.time
            elif self.time > stuck_since + 1.0 + 2.5 * self.world.period or self.too_close:
                return
            yield Decision(command, SEARCHING, reason)

    def has_failed(self, corner: tuple[float, float]) -> bool:
        """Tell whether the robot did not get there; the map doubts the way then."""
        if self.world.pose.distance_to(corner) <= 2.0 * AT_CORNER:
            return False
        assert self.world.map is not None
        self.world.map.free.doubt(self.world.pose, self.time)
        return True

    def give_up(self) -> Plan:
        """End the search: the target is nowhere in reach."""
        assert self.world.map is not None
        share, left = self.world.map.searched, remains(self.world.map, self.world.pose)
        reason = f"{self.target} is not here: {share:.0%} of what can be reached was searched"
        yield Decision(STOP, NOT_FOUND, f"{reason}; {left}" if left else reason, found=False)
