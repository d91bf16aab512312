"""The parameters of the classifier, and hints for names of earlier versions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from vlm_perception.models.options import LoadOptions
from vlm_perception.nodes.camera_topics import names_of_cameras
from vlm_perception.parameters import CONFIGURE, START, group, parameter
from vlm_perception.perception.settings import Settings

LABEL_NAMES = {"s": "options", "_prompt": "prompt", "_descriptions": "descriptions", "_rate": "rate"}
DESCRIPTION_NAMES = ("prompt", "phrases", "rate", "max_new_tokens")
CONSTANTS = (
    "attn_implementation",
    "batch_window",
    "cudnn_benchmark",
    "max_batch",
    "requests_in_flight",
    "reuse_lifetime",
    "reuse_scenes",
    "smoothing_evidence_time",
    "unknown_label",
)


@dataclass(frozen=True)
class Parameters:
    """The parameters of the classifier."""

    autostart: bool = parameter(True, "Configure and activate without being told to", when=START)
    model: str = parameter(
        "nano",
        "The shipped model 'nano', a model folder or a server's address. From a list with commas, the first that can "
        "be loaded is used. Quote a path with a comma or a blank at its end: '/data/a,b', nano. A server must be named "
        "at start, see allow_remote_model",
        when=CONFIGURE,
    )
    allow_remote_model: bool = parameter(
        False, "Accept a new server in model while the node runs, from anybody on the ROS network", when=START
    )
    loading: LoadOptions = group(LoadOptions, prefix="")
    camera_topics: tuple[str, ...] = parameter(
        ("camera/image_raw",),
        "Topics of the images. A camera's name is its topic without the last segment. With several cameras, the topics "
        "about a camera begin with its name: front/scene_label",
        when=START,
    )
    image_transport: str = parameter(
        "raw",
        "raw subscribes to camera/image_raw, compressed to camera/image_raw/compressed",
        choices=("raw", "compressed"),
        when=START,
    )
    perception: Settings = group(Settings, prefix="")
    ask_timeout: float = parameter(
        40.0,
        "A question without an answer for this long has failed, and sooner once it is known how long the model takes: "
        "after four times as long, at least 5 s. A call of a server, set at configure, may take as long",
        unit="s",
        minimum=0.05,
        maximum=600.0,
    )
    annotated_image_rate: float = parameter(
        5.0,
        "Highest rate of annotated images, which are drawn only when somebody subscribes; 0: never",
        unit="Hz",
        minimum=0.0,
        maximum=100.0,
    )
    trace_file: str = parameter(
        "", "File for a trace of the time that each image takes, for ui.perfetto.dev; empty: no trace", when=START
    )

    RENAMED: ClassVar[Mapping[str, str]] = {
        **{f"label{old}": f"its name is 'label.{new}'" for old, new in LABEL_NAMES.items()},
        **{f"description_{name}": f"its name is 'description.{name}'" for name in DESCRIPTION_NAMES},
        "follow_motion": "its name is 'label.follow_motion'",
        "smoothing": "its name is 'smoothing.method'",
        "smoothing_window": "its name is 'smoothing.window'",
        "smoothing_change_rate": "its name is 'smoothing.change_rate'",
        "enter_threshold": "its name is 'smoothing.enter_threshold'",
        "leave_threshold": "its name is 'smoothing.leave_threshold'",
        "reuse_threshold": "its name is 'cache.threshold'",
        "reuse_refresh": "its name is 'cache.refresh'",
        "tf32": "set 'dtype' to tf32",
        "temperatures": "they stand in the model folder's decision.json: vlm_perception calibrate --write",
        "empty_picture": "it stands in the model folder's decision.json: vlm_perception calibrate --write",
        "request_timeout": "it follows 'ask_timeout'",
        **dict.fromkeys(CONSTANTS, "it is a constant now"),
    }

    def __post_init__(self) -> None:
        names_of_cameras(self.camera_topics)

    def load_options(self) -> LoadOptions:
        """Return the options for loading the model."""
        return dataclasses.replace(self.loading, request_timeout=self.ask_timeout)
