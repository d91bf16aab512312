"""What the map of all images tells a robot that seeks: where the target is, and how far it may drive."""

from __future__ import annotations

import math
from dataclasses import replace

from vlm_perception.navigation.answer_monitor import SLOW
from vlm_perception.navigation.behaviours.base import ALIGNING, APPROACHING, LIKELY, STILL_NEAR, Decision, WorldState
from vlm_perception.navigation.behaviours.seek import Seek
from vlm_perception.navigation.motion import Command, Pose, wrap
from vlm_perception.navigation.sighting import Sighting, Surroundings
from vlm_perception.navigation.target_map import Sector
from vlm_perception.navigation.tuning import Tuning

MARGIN = 0.05
"""The robot stops so far [m] before the end of what it knows to be free."""
IN_FRONT, STEP = 0.15, 0.45
"""Driving to the target it stops so far [m] before that end, which may be the target, and goes so far at least [m]."""
WORTH_A_WAIT = 0.12, 0.55, 0.1
"""A question waits while the robot has so far to go, at least and at most [m], and is faster than this [m/s]. From
there the image tells more."""
SAME_WAY = 0.2
"""An image shows the way ahead if the robot headed so [rad] like now when it was taken."""
STRAIGHT = 0.1
"""Beyond the newest image the robot drives only where it was taken straight ahead, within this angle [rad]."""
OPEN = 0.4
"""A way is open that is known to be free for so long [m]."""
SETTLED, TAKEN = 0.05, 0.15
"""A question sent so long [s] after a turn is about the new view, and so long after it was sent its image is taken."""
AGREE = 0.6
"""A sighting agrees with the map if it is within this angle [rad] of it."""
SUPPORT = 2
"""So many images must show the target before the robot drives to it; it is lost after so many in a row without it."""
PATH_STEERING = 2.0, 0.8
"""On its way the robot steers so fast [rad/s] per angle [rad] to the next corner, at most so fast [rad/s]."""
ASIDES = tuple(0.04 * side for side in range(-6, 7))
"""So far [rad] aside of the heading the robot looks for a free way."""


class MappedSeek(Seek):
    """`Seek` that believes the map and drives where the map is free. Without a map it is `Seek`."""

    def __init__(self, target: str, tuning: Tuning | None = None) -> None:
        super().__init__(target, tuning)
        self._sector: Sector | None = None
        self._support = self._misses = 0
        self._suspicion = False
        self._pending: list[tuple[float, Pose]] = []
        self._detouring = False
        self._obstructed = 0
        self._turned = 0.0
        self._open_at = Pose()

    def step(self, world: WorldState, time: float) -> Decision:
        decision = super().step(world, time)
        if decision.found is not None or world.map is None or not self.is_slow:
            return decision
        least, most, speed = WORTH_A_WAIT
        drives_on = (
            decision.state == APPROACHING and decision.command.forward > speed and least < self.sight(1.0) < most
        )
        return replace(decision, asks_later=True) if drives_on or decision.state == ALIGNING else decision

    def _believe(self, surroundings: Surroundings, sighting: Sighting | None) -> None:
        was_seen, was_near = self.seen, self.near
        super()._believe(surroundings, sighting)
        world, tuning, belief = self.world, self.tuning, self.belief
        if world.map is None or sighting is None:
            self._sector = None
            return
        self._pending = [(asked, pose) for asked, pose in self._pending if asked > surroundings.stamp + TAKEN]
        before = self._sector.mass if self._sector else 0.0
        sector = self._sector = world.map.sector(world.pose)
        then = world.pose_then
        if sighting.visible > LIKELY:
            agrees = abs(wrap(then.bearing_of((sector.x, sector.y)) - sighting.bearing)) < AGREE
            self._support = self._support + 1 if agrees else 1
        elif sector.mass < tuning.lose:
            self._support = 0
        self._misses = 0 if sighting.visible > LIKELY else self._misses + 1
        if was_seen:
            self.seen = sector.mass > tuning.lose or self._misses < SUPPORT
        else:
            self.seen = sector.mass > tuning.see and self._support >= SUPPORT
        belief.visible = sector.mass
        belief.heading = world.pose.heading + self.world.pose.bearing_of((sector.x, sector.y))
        belief.near = sector.near(world.pose, tuning.target_near)
        self.near = self.seen and belief.near > (STILL_NEAR * tuning.near if was_near else tuning.near)
        if sector.mass > tuning.lose > before:
            self._suspicion = True
        if self.is_slow:
            self.blocked = surroundings.blocked > LIKELY
            self._obstructed = self._obstructed + 1 if self.blocked else 0
            if not self.blocked:
                self._open_at = world.pose

    @property
    def stamp(self) -> float:
        """When the newest answered image was taken [s]."""
        return self.world.surroundings.stamp if self.world.surroundings else -math.inf

    @property
    def is_slow(self) -> bool:
        """Do answers take so long that the robot stops for each view, and does not sweep?"""
        return self.world.takes > SLOW

    @property
    def bearing(self) -> float:
        if self.world.map is None or self._sector is None:
            return super().bearing
        return self.world.pose.bearing_of((self._sector.x, self._sector.y))

    @property
    def looks_ahead(self) -> bool:
        """Does the newest image show the way ahead?"""
        return abs(wrap(self.world.pose_then.heading - self.world.pose.heading)) < SAME_WAY

    def known_ahead(self) -> float:
        """Return how far [m] the way ahead is known to be free."""
        world = self.world
        if world.map is None:
            return 0.0
        # A base that slips is farther than odometry says.
        slipped = max(0.0, world.gone - self.travelled_since(world.pose_then))
        return world.map.free.ahead(world.pose, self.time) - slipped

    def sight(self, share: float) -> float:
        if self.world.map is None or not self.is_slow:
            return super().sight(share)
        known = self.known_ahead()
        known = max(known - IN_FRONT, min(known - MARGIN, STEP)) if self.seen else known - MARGIN
        turned = abs(wrap(self.world.pose_then.heading - self.world.pose.heading))
        return max(known, super().sight(share)) if turned < STRAIGHT else known

    def forward(self, speed: float, turn: float = 0.0) -> Command:
        if self.world.map is None or not self.is_slow:
            return super().forward(speed, turn)
        if self.looks_ahead:
            assert self.world.surroundings is not None
            doubt = self.world.surroundings.blocked
            known = self.known_ahead()
            if doubt > LIKELY:
                speed = 0.0
            elif known < OPEN:
                speed *= 1.0 - doubt
            if known <= MARGIN:
                turn = 0.0  # only what is straight ahead was seen, and nothing is known of what is beside
        return self.creep(speed, turn)

    def steering(self, bearing: float) -> float:
        """Return how fast [rad/s] to steer to where the way is known to be free, near to a bearing [rad]."""
        assert self.world.map is not None
        free, pose = self.world.map.free, self.world.pose
        best = (
            bearing
            if not self.is_slow
            else max(ASIDES, key=lambda side: free.ahead(pose, self.time, side) - abs(side - bearing) - 0.1 * abs(side))
        )
        gain, most = PATH_STEERING
        return max(-most, min(most, gain * best))

    def turn(self, angle: float) -> Command:
        """Turn in place as fast as it can still end with the turn."""
        if self.world.map is None:
            return super().turn(angle)
        limit = math.sqrt(2.0 * self.tuning.turn_braking * max(0.0, abs(angle) - 0.02))
        return Command(0.0, math.copysign(max(0.1, min(self.tuning.turn_speed, limit, 6.0 * abs(angle))), angle))

    def obstructed(self) -> bool:
        if self.world.map is None or not self.is_slow:
            return super().obstructed()
        return self.too_close or (self.looks_ahead and self.blocked and self.known_ahead() < OPEN)
