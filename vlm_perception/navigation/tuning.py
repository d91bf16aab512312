"""How a robot behaves: what a user may set of it, and what nobody can set sensibly."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_perception.navigation.motion import Limits
from vlm_perception.navigation.settings import (
    CAREFUL_DISTANCE,
    CameraMounting,
    DepthSettings,
    Footprint,
    NavigationSettings,
    TargetSettings,
    WaySettings,
)

LOSING, CLEARING = 0.3, 0.2
"""Hysteresis: how far the probability must fall below its threshold until a target is lost, or a way is clear again."""
WATCHED = 2.0
"""With depth the robot drives so many times as far beyond the newest image."""


@dataclass(frozen=True)
class Tuning:
    """How a robot behaves. Speeds are in [m/s] and [rad/s], distances in [m], times in [s], the rest is probability."""

    forward_speed: float = Limits.forward_speed
    turn_speed: float = Limits.turn_speed
    turn_braking: float = 0.7 * Limits.turn_acceleration
    """Deceleration of an ordinary turn [rad/s^2]."""
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
    """The blind distance with depth, which sees what the old image does not show [m]."""
    stop_distance: float = DepthSettings.stop_distance
    """From the camera: nothing may be nearer in the way, as depth has it."""
    near_distance: float = DepthSettings.near_distance
    """From the camera: a target with nothing nearer in its direction, as depth has it, is not near."""
    robot_width: float = Footprint.width
    robot_height: float = Footprint.height
    """What the robot needs to pass, with some room to spare."""
    clear_distance: float = 1.5
    """From the robot's centre: the way is free for so long when the model says that it is clear."""
    target_near: float = 0.85
    """From the robot's centre to the target's: within this distance the model says that it is near."""
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
            turn_braking=0.7 * settings.limits.turn_acceleration,
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
            clear_distance=settings.way.clear_distance or CAREFUL_DISTANCE,
        )

    def __post_init__(self) -> None:
        for low, high in (("lose", "see"), ("clear", "blocked"), ("creep_speed", "forward_speed")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"{low} is {getattr(self, low)}, expected at most {high}, which is {getattr(self, high)}"
                )
