"""What a user may set of how a robot searches and drives. The rest are constants of `Tuning`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vlm_perception.navigation.depth import DepthReading
from vlm_perception.navigation.motion import Limits
from vlm_perception.navigation.sighting import MEANINGS, Sighting, Surroundings, SurroundingsReading, TargetReading
from vlm_perception.parameters import START, group, parameter
from vlm_perception.questions import Answer, Choice, MirroredChoice, Question

CAREFUL_DISTANCE = 0.75
"""So far [m] the way is free when a model says that it is clear of which nobody knows how far it means."""


@dataclass(frozen=True)
class TargetSettings:
    """The question about the target, and when its answers are believed. ValueError for what cannot be asked."""

    prompt: str = parameter("where is the {target}?", "Question about the target. The target's name replaces {target}")
    options: tuple[str, ...] = parameter(
        ("no", "left near", "left far", "center near", "center far", "right near", "right far"),
        f"The model's words for {', '.join(MEANINGS)}, in this order",
    )
    mirror_check: bool = parameter(
        False,
        "Ask about the target in the mirrored image too. If the two answers contradict each other, neither counts. Use "
        "it if the model confuses left and right; each answer takes nearly twice as long",
    )
    seen_threshold: float = parameter(
        0.65, "From this probability on, the target is seen. It is lost 0.3 below", minimum=0.5, maximum=0.99
    )

    def __post_init__(self) -> None:
        if "{target}" not in self.prompt:
            raise ValueError(f"target.prompt is {self.prompt!r}, expected {{target}} in it")
        if len(self.options) != len(MEANINGS):
            raise ValueError(
                f"target.options are {list(self.options)}, expected {len(MEANINGS)} words, for {', '.join(MEANINGS)}"
            )
        self.questions("target")

    def questions(self, target: str) -> dict[str, Question]:
        """Return what to ask about `target`, by name."""
        prompt = self.prompt.replace("{target}", target)
        questions: dict[str, Question] = {"target": Choice(prompt, self.options)}
        if self.mirror_check:
            questions["mirrored target"] = MirroredChoice(prompt, self.options)
        return questions


@dataclass(frozen=True)
class SurroundingsSettings:
    """The question about what is ahead, and what its labels mean. ValueError for what cannot be asked."""

    prompt: str = parameter("what is ahead?", "Question about what is ahead")
    options: tuple[str, ...] = parameter(
        ("clear", "obstacle", "wall", "doorway", "corridor"), "Possible answers to surroundings.prompt"
    )
    obstacles: tuple[str, ...] = parameter(("obstacle",), "Options that mean a thing close ahead")
    walls: tuple[str, ...] = parameter(("wall",), "Options that mean a wall ahead, farther than an obstacle")
    passages: tuple[str, ...] = parameter(("doorway", "corridor"), "Options that mean a way to another place")

    def __post_init__(self) -> None:
        self.question  # noqa: B018 - raises for what cannot be asked

    @property
    def question(self) -> Choice:
        """What the model is asked."""
        return Choice(self.prompt, self.options)


@dataclass(frozen=True)
class WaySettings:
    """The question about clear ways, and when a way is blocked. ValueError for what cannot be asked."""

    prompt: str = parameter("which way is clear?", "Question about clear ways")
    options: tuple[str, ...] = parameter(
        ("left", "center", "right", "none"), "The model's words for left, center, right and none, in this order"
    )
    blocked_threshold: float = parameter(
        0.55, "From this probability on, the way is blocked. It is clear again 0.2 below", minimum=0.25, maximum=0.9
    )

    clear_distance: float = parameter(
        0.0,
        "So far from the robot's centre the way is free where the model says that it is clear; 0: as the model's "
        f"scope.json says, else {CAREFUL_DISTANCE:g} m",
        unit="m",
        minimum=0.0,
        maximum=10.0,
    )

    def __post_init__(self) -> None:
        self.question  # noqa: B018 - raises for what cannot be asked

    @property
    def question(self) -> Choice:
        """What the model is asked."""
        return Choice(self.prompt, self.options)


@dataclass(frozen=True)
class CameraMounting:
    """How the camera sees the world."""

    field_of_view: float = parameter(
        1.31, "Horizontal field of view, if camera_info does not tell it", unit="rad", minimum=0.1, maximum=3.0
    )
    height: float = parameter(
        0.3, "Height of the camera above the floor, if TF does not tell it", unit="m", minimum=0.0, maximum=5.0
    )
    pitch: float = parameter(
        0.12, "Angle by which the camera looks down, if TF does not tell it", unit="rad", minimum=-1.5, maximum=1.5
    )


@dataclass(frozen=True)
class DepthSettings:
    """Which depth is used, and what follows from it."""

    image: bool = parameter(False, "Use camera/depth/image_raw, which must have the camera's view", when=START)
    scan: bool = parameter(False, "Use the laser scan on the topic scan", when=START)
    scan_pose: tuple[float, ...] = parameter(
        (0.0, 0.0, 0.0),
        "Position of the laser relative to the camera, if TF does not tell it: ahead [m], left [m], turned left [rad]",
        minimum=-10.0,
        maximum=10.0,
    )
    stop_distance: float = parameter(
        0.35,
        "If depth shows something in the robot's way nearer to the camera than this, the robot does not drive on",
        unit="m",
        minimum=0.0,
        maximum=10.0,
    )
    near_distance: float = parameter(
        1.0,
        "If depth shows nothing nearer than this in the target's direction, the target is not near",
        unit="m",
        minimum=0.0,
        maximum=20.0,
    )


@dataclass(frozen=True)
class Footprint:
    """What the robot needs to pass, with some room to spare."""

    width: float = parameter(0.5, "Width that the robot needs to pass", unit="m", minimum=0.05, maximum=5.0)
    height: float = parameter(0.5, "Height that the robot needs to pass", unit="m", minimum=0.05, maximum=5.0)


@dataclass(frozen=True)
class NavigationSettings:
    """Everything that a user may set of how a robot searches and drives. ValueError when it does not fit together."""

    max_answer_age: float = parameter(
        0.8,
        "If the newest answered image is older than this, the robot stands still. Where answers take long, an image "
        "may be a multiple of their time old, up to 40 s",
        unit="s",
        minimum=0.05,
        maximum=120.0,
    )
    blind_distance: float = parameter(
        0.3,
        "Longest way that the robot drives beyond the place of the newest answered image. With depth, it is twice as "
        "long",
        unit="m",
        minimum=0.02,
        maximum=1.0,
    )
    target: TargetSettings = group(TargetSettings)
    surroundings: SurroundingsSettings = group(SurroundingsSettings)
    way: WaySettings = group(WaySettings)
    camera: CameraMounting = group(CameraMounting)
    depth: DepthSettings = group(DepthSettings)
    robot: Footprint = group(Footprint)
    limits: Limits = group(Limits)

    def __post_init__(self) -> None:
        self.target_reading(), self.surroundings_reading(), self.depth_reading()

    def for_model(self, clear_distance: float | None) -> NavigationSettings:
        """Return the settings for a model that means a `clear_distance` [m] by "clear", None if nobody knows.

        What the user has set counts more.
        """
        distance = self.way.clear_distance or clear_distance or CAREFUL_DISTANCE
        return replace(self, way=replace(self.way, clear_distance=distance))

    def questions(self, target: str) -> dict[str, Question]:
        """Return what to ask about an image, by name, without the target's questions when there is none."""
        questions: dict[str, Question] = {"label": self.surroundings.question, "way": self.way.question}
        return questions | (self.target.questions(target) if target else {})

    def read(self, answers: Mapping[str, Answer], stamp: float) -> tuple[Surroundings, Sighting | None]:
        """Return what the `answers` to `questions` say about an image taken at `stamp` [s].

        Raises UnusableAnswerError.
        """
        surroundings = self.surroundings_reading().read(answers["label"], answers["way"], stamp)
        if "target" not in answers:
            return surroundings, None
        reading = self.target_reading()
        sighting = reading.read(answers["target"], stamp)
        if "mirrored target" in answers:
            reading.check_mirrored(answers["target"], answers["mirrored target"])
        return surroundings, sighting

    def target_reading(self) -> TargetReading:
        """Return what the answers about the target mean."""
        return TargetReading(self.target.options, MEANINGS, self.camera.field_of_view)

    def surroundings_reading(self) -> SurroundingsReading:
        """Return what the answers about what is ahead mean."""
        ahead = self.surroundings
        return SurroundingsReading(ahead.options, ahead.obstacles, ahead.walls, ahead.passages, self.way.options)

    def depth_reading(self) -> DepthReading:
        """Return how depth images and scans are read."""
        camera, depth = self.camera, self.depth
        return DepthReading(camera.field_of_view, camera.height, camera.pitch, depth.scan_pose, depth.stop_distance)
