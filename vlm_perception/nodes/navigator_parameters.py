"""The parameters of the navigator, and hints for names of earlier versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from vlm_perception.navigation.settings import NavigationSettings
from vlm_perception.parameters import START, group, parameter

CONTROL_RATE = 20.0
"""How often [Hz] velocity is published."""
SHORTEST_WAIT = 2.0
"""However quick the model is, an answer is awaited for so long [s]."""
NEW_NAMES = {
    "label_prompt": "surroundings.prompt",
    "label_options": "surroundings.options",
    "obstacle_labels": "surroundings.obstacles",
    "wall_labels": "surroundings.walls",
    "passage_labels": "surroundings.passages",
    "way_prompt": "way.prompt",
    "way_options": "way.options",
    "blocked": "way.blocked_threshold",
    "target_prompt": "target.prompt",
    "target_options": "target.options",
    "mirror_check": "target.mirror_check",
    "see": "target.seen_threshold",
    "field_of_view": "camera.field_of_view",
    "camera_height": "camera.height",
    "camera_pitch": "camera.pitch",
    "depth_image": "depth.image",
    "laser_scan": "depth.scan",
    "scan_pose": "depth.scan_pose",
    "stop_distance": "depth.stop_distance",
    "near_distance": "depth.near_distance",
    "robot_width": "robot.width",
    "robot_height": "robot.height",
    "forward_speed": "limits.forward_speed",
    "turn_speed": "limits.turn_speed",
    "forward_acceleration": "limits.forward_acceleration",
    "turn_acceleration": "limits.turn_acceleration",
    "braking": "limits.braking",
}
CONSTANTS = (
    "arrive",
    "arrive_answers",
    "control_rate",
    "creep_speed",
    "detour_distance",
    "lost_wait",
    "max_depth_age",
    "memory",
    "near",
    "viewpoint_distance",
)


@dataclass(frozen=True)
class Parameters:
    """The parameters of the navigator."""

    autostart: bool = parameter(True, "Configure and activate without being told to", when=START)
    ask_rate: float = parameter(
        10.0,
        "Highest rate of questions to the classifier; 0: ask about every image that the model has time for",
        unit="Hz",
        minimum=0.0,
        maximum=100.0,
    )
    navigation: NavigationSettings = group(NavigationSettings, prefix="")
    search_time_limit: float = parameter(
        0.0, "A search set by service gives up after this time; 0: never", unit="s", minimum=0.0, maximum=86400.0
    )
    enable_stamped_cmd_vel: bool = parameter(False, "Publish TwistStamped instead of Twist on cmd_vel", when=START)
    base_frame: str = parameter(
        "base_link", "The robot's frame: of a TwistStamped, and for the mounting of the sensors by TF", when=START
    )
    allow_nano: bool = parameter(
        False,
        "Drive even if the model was not taught to answer, such as nano on images of a real camera. For experiments",
    )

    RENAMED: ClassVar[Mapping[str, str]] = {
        **{old: f"its name is {new!r}" for old, new in NEW_NAMES.items()},
        "clear": "it is 0.2 below 'way.blocked_threshold'",
        "lose": "it is 0.3 below 'target.seen_threshold'",
        "target_meanings": "write 'target.options' in their usual order",
        "ask_timeout": "it follows how long answers take",
        "watched_distance": "it is twice 'blind_distance'",
        **dict.fromkeys(CONSTANTS, "it is a constant now"),
    }
