"""Seek a target with a map of what all images showed: search, drive to it, make sure, go around what is between."""

from __future__ import annotations

import math

from vlm_perception.navigation.behaviours.base import ALIGNING, APPROACHING, LIKELY, SEARCHING, Decision, Plan
from vlm_perception.navigation.behaviours.mapped import MARGIN, OPEN
from vlm_perception.navigation.behaviours.view_search import ViewSearch
from vlm_perception.navigation.motion import STOP, Command, wrap
from vlm_perception.navigation.next_view import way_around

DETOURS = 4
"""So many ways around something are tried before the robot looks at the target again."""
OBSTRUCTED, CREEP = 2, 0.06
"""So many images must show something in the way to a target that is not near, and so far [m] the robot creeps on."""
SURE_SUPPORT, SURE_MASS = 3, 0.6
"""So many images must have shown a target in reach, and twice as many, and it must be so probable, if its image from
near by alone does not tell for sure."""
CERTAIN = 0.9
"""From this probability on, one image from near by confirms what was seen from afar."""
NEAR_ANSWERS = 4.5
"""A target that seems near is looked at for so many times between answers, and then from farther away."""
ASIDE = 0.25
"""A near target is turned to that is farther [rad] to the side."""


class RememberingSeek(ViewSearch):
    """`Seek` with a map. Without one, as when there is no odometry, it does what `Seek` does."""

    def act(self) -> Plan:
        while True:
            if self.world.map is None:
                yield from self.careful_search()
            elif self.seen:
                yield from self.pursue()
            else:
                began = self.time
                yield from self.search()
                if self.time == began:  # nothing could be done: look at the world again before the next plan
                    yield Decision(STOP, SEARCHING, f"looking for {self.target}")

    def careful_search(self) -> Plan:
        """Search as long as there is no map, without one."""
        parts = [self.look_around, self.go_elsewhere] if self._lost_at is None else [self.go_elsewhere]
        for part in parts:
            for decision in part():
                if self.world.map is not None:
                    return
                yield decision
            if self.seen:
                yield from self.pursue()
                return

    def approach(self) -> Command:
        if self.world.map is None or not self.is_slow:
            return super().approach()
        tuning, near = self.tuning, self.belief.near
        speed = tuning.creep_speed + (tuning.forward_speed - tuning.creep_speed) * (1.0 - near)
        return self.forward(speed, self.steering(self.bearing))

    def align(self) -> Command:
        return super().align() if self.world.map is None or not self.is_slow else self.turn(self.bearing)

    def creep_allowance(self) -> float:
        if self.world.map is None or not self.is_slow:
            return super().creep_allowance()
        # What is ahead is the target itself, most probably: one more image tells, from a bit nearer.
        again = self._obstructed < OBSTRUCTED and self.travelled_since(self._open_at) < CREEP
        return math.inf if again else 0.0

    def make_sure(self) -> Plan:
        sighting = self.world.sighting
        if self.world.map is not None and self.is_slow and sighting is not None and sighting.visible > LIKELY:
            bearing = wrap(self.world.pose_then.heading + sighting.bearing - self.world.pose.heading)
            if abs(bearing) > ASIDE:
                reason = f"{self.target} seems near: turning towards it"
                yield Decision(STOP, ALIGNING, reason)
                if bearing * self._turned < 0.0:  # it was on the other side before: it is in between
                    bearing = math.copysign(0.5 * abs(self._turned), bearing)
                self._turned = bearing
                certain = self.is_certain()
                yield from self.turn_to(self.world.pose.heading + bearing, ALIGNING, reason)
                if certain:
                    yield from self.at_target()
                    return
                stamp = self.time
                while self.stamp < stamp and not self.world.doubt and self.seen:
                    yield Decision(STOP, APPROACHING, f"{self.target} seems near: making sure")
                return
        yield from super().make_sure()

    def confirmed(self) -> bool:
        if self.world.map is None or not self.is_slow:
            return super().confirmed()
        sighting, tuning = self.world.sighting, self.tuning
        if not self.near or sighting is None or self._support < SURE_SUPPORT:
            return False
        if self._answers_in_reach >= 2 and sighting.in_reach > tuning.arrive:
            return True
        assert self.world.surroundings is not None
        if sighting.in_reach > CERTAIN and self.is_certain():
            return True
        return self._answers_in_reach >= 3 and self.belief.visible > SURE_MASS and self._support >= 2 * SURE_SUPPORT

    def is_certain(self) -> bool:
        """Tell whether one image from near by confirms what was seen from afar, from more than one place."""
        sighting, surroundings = self.world.sighting, self.world.surroundings
        assert sighting is not None
        assert surroundings is not None
        return (
            sighting.visible * sighting.near > CERTAIN
            and self.belief.visible > SURE_MASS
            and self._support > SURE_SUPPORT
            and surroundings.blocked > LIKELY
        )

    def patience(self) -> float:
        if self.world.map is None or not self.is_slow:
            return super().patience()
        return NEAR_ANSWERS * self.world.period

    def look_again(self) -> Plan:
        if self.world.map is not None and self._looked_again:  # it was looked at from here and from farther away
            self.world.map.reject(*self.world.pose.ahead(self.tuning.target_near, self.bearing))
        for decision in super().look_again():
            if self.world.map is not None and self.is_slow and self.confirmed():
                return
            yield decision

    def recover(self) -> Plan:
        if self.world.map is None:
            yield from super().recover()

    def detour(self) -> Plan:
        if self.world.map is None or not self.is_slow:
            yield from super().detour()
            return
        self._detouring = True
        for _ in range(DETOURS):
            yield from self.go_around()
            if self.world.map is None or not self.obstructed():
                break
        self._detouring = False

    def go_around(self) -> Plan:
        """Take the best way around what is ahead; one that was never looked at is looked at first."""
        world, sector = self.world, self._sector
        assert world.map is not None
        assert sector is not None
        goal = sector.x, sector.y
        reason = f"something else is between here and {self.target}: going around it"
        yield Decision(STOP, SEARCHING, reason)
        view = way_around(world.map, world.pose, goal, self.pace(), self.time)
        if view is None:
            yield from super().detour()
            return
        corners = view.corners
        if view.is_way:
            yield from self.look_at(view.heading, reason)
            yield from self.await_answer(reason)
            open_for = self.known_ahead() - MARGIN
            if open_for < OPEN or self.world.map is None:
                if self.world.map is not None:
                    self.world.map.free.doubt(self.world.pose, self.time)
                return
            corners = (self.world.pose.ahead(min(open_for, self.tuning.detour_distance)),)
        for corner in corners:
            yield from self.drive_to(corner, reason)
            if self.interrupted() or self.has_failed(corner):
                return
        yield from self.look_at(self.world.pose.heading + self.world.pose.bearing_of(goal), reason)
