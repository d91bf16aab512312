"""The parameters of the simulator."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_perception.parameters import START, parameter
from vlm_perception.simulation.room import KINDS


@dataclass(frozen=True)
class Parameters:
    """The parameters of the simulator."""

    seed: int = parameter(0, "Number of the room", minimum=0, maximum=2**32 - 1, when=START)
    kind: str = parameter(
        "room",
        "room: one, with a corridor; chambers: three to five that doorways connect",
        choices=KINDS,
        when=START,
    )
    width: int = parameter(640, "Width of the image", unit="pixels", minimum=32, maximum=1920, when=START)
    height: int = parameter(480, "Height of the image", unit="pixels", minimum=32, maximum=1080, when=START)
    multisampling: int = parameter(
        4, "Samples per pixel. Fewer samples render faster, with harder edges", minimum=0, maximum=16, when=START
    )
    camera_rate: float = parameter(30.0, "Rate of images", unit="Hz", minimum=1.0, maximum=60.0, when=START)
    depth_rate: float = parameter(
        0.0,
        "Highest rate of depth images; 0: never",
        unit="Hz",
        minimum=0.0,
        maximum=60.0,
        when=START,
    )
    cmd_vel_timeout: float = parameter(
        0.3, "If no command comes for this long, the wheels stop", unit="s", minimum=0.05, maximum=10.0
    )
    camera_frame: str = parameter("camera_optical_frame", "frame_id of the images", when=START)
