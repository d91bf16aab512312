"""What one usually writes first: obey each answer until the next one comes. For comparison by the evaluation only."""

from __future__ import annotations

from vlm_perception.navigation.behaviours.base import ARRIVED, STOPPED
from vlm_perception.navigation.motion import STOP, Command
from vlm_perception.navigation.settings import MEANINGS, NavigationSettings
from vlm_perception.navigation.sighting import ABSENT

SEARCHING_TURN = 0.3  # [rad/s]
ALIGNING_TURN = 0.5  # [rad/s]
FORWARD = 0.3  # [m/s]


def obey(meaning: str) -> tuple[str, Command]:
    """Return state and command for "absent", "left near", "center far" and so on."""
    if meaning == ABSENT:
        return "searching", Command(turn=SEARCHING_TURN)
    direction, distance = meaning.split()
    if distance == "near":
        return ARRIVED, STOP
    if direction == "center":
        return "approaching", Command(forward=FORWARD)
    return "aligning", Command(turn=ALIGNING_TURN if direction == "left" else -ALIGNING_TURN)


class BaselineLaw:
    """Holds the `command` of the last answer, and says its `state` and the `reason`.

    It knows neither delay nor doubt nor the way ahead. `settings` are the navigator's, whose questions it asks.
    """

    def __init__(self, settings: NavigationSettings) -> None:
        self._meanings = dict(zip(settings.target.options, MEANINGS, strict=True))
        self.start("")

    def start(self, target: str) -> None:
        """Begin anew, with another target; "" is none."""
        self.target = target
        self.stop("there is a new target, or none")

    def stop(self, reason: str) -> None:
        """Stand still until the next answer."""
        self.state, self.reason, self.command = STOPPED, reason, STOP

    def take(self, answer: str) -> None:
        """Obey the `answer` to the question about the target."""
        self.state, self.command = obey(self._meanings[answer])
        self.reason = f"the answer is {answer!r}"

    @property
    def is_busy(self) -> bool:
        """Does it need answers?"""
        return bool(self.target) and self.state != ARRIVED
