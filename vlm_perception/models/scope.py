"""What a model was taught, where that is a closed list: `scope.json` in its folder. Other answers are random.

Most models have no such file, since what they know cannot be listed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vlm_perception.models.base import ModelError
from vlm_perception.questions import ClosedQuestion, Question

FILE = "scope.json"
TARGET = "{target}"
FARTHEST_CLEAR = 10.0
"""Nobody sees farther [m] than this that a way is clear."""


@dataclass(frozen=True)
class Scope:
    """What a model was taught; `about` says it in a few words for people.

    `questions` are the possible answers by prompt, empty for a free text. In a prompt, `{target}` stands for one of the
    `targets`. `simulator_only`: it was trained only with images of this package's simulator. `clear_distance` [m] is
    how far from the robot's centre the way is free when the model says that it is clear, if that is known.
    """

    about: str
    questions: Mapping[str, tuple[str, ...]]
    targets: tuple[str, ...] = ()
    simulator_only: bool = False
    clear_distance: float | None = None

    @classmethod
    def from_folder(cls, folder: Path) -> Scope | None:
        """Read the folder's `scope.json`; None when there is none. Raises ModelError when it cannot be used."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
            questions = {str(prompt): _texts(options) for prompt, options in content["questions"].items()}
            targets, simulator_only = _texts(content.get("targets", [])), content.get("simulator_only", False)
            clear_distance = content.get("clear_distance")
            if not (questions and isinstance(content["about"], str) and isinstance(simulator_only, bool)):
                raise ValueError("about, questions or simulator_only is not of its kind")
            if clear_distance is not None and not 0.0 < (clear_distance := float(clear_distance)) <= FARTHEST_CLEAR:
                raise ValueError(
                    f"clear_distance is {clear_distance} m, expected more than 0 and at most {FARTHEST_CLEAR:g}"
                )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(
                f"{path} cannot be used ({error!r:.200}), expected an object with about (a text), questions (answers "
                "by prompt), and perhaps targets (texts), simulator_only (true or false) and clear_distance (in m)"
            ) from None
        return cls(content["about"], questions, targets, simulator_only, clear_distance)

    def save(self, folder: Path) -> None:
        """Write `scope.json` into `folder`."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def unknown(self, question: Question) -> str | None:
        """Return what of `question` the model was not taught, and what it knows instead; None when it knows all."""
        for prompt, options in self.questions.items():
            if (target := _target(prompt, question.prompt)) is None:
                continue
            if target and target not in self.targets:
                return unknown_target(target, self.targets, self.about)
            given = question.options if isinstance(question, ClosedQuestion) else ()
            if strange := [option for option in given if option not in options]:
                return (
                    f"the model does not know the answers {strange!r:.200} to {prompt!r}, expected some of "
                    f"{', '.join(options)} ({self.about})"
                )
            return None
        return (
            f"the model does not know the question {question.prompt!r:.200}, expected one of "
            f"{', '.join(map(repr, self.questions))} ({self.about})"
        )

    def unknown_target(self, question: Question) -> str | None:
        """Return which target of `question` the model does not know, and which it knows; None when it knows it."""
        for prompt in self.questions:
            target = _target(prompt, question.prompt)
            if target and target not in self.targets:
                return unknown_target(target, self.targets, self.about)
        return None


def unknown_target(target: str, targets: Sequence[str], about: str) -> str:
    """Return the error for a `target` that is none of the model's `targets`."""
    return f"the model does not know the target {target!r:.200}, expected one of {', '.join(targets)} ({about})"


def _target(prompt: str, asked: str) -> str | None:
    """Return the target in the question `asked`, "" if `prompt` has none; None if it is not of this `prompt`."""
    pattern = re.escape(prompt).replace(re.escape(TARGET), "(.+)")
    found = re.fullmatch(pattern, asked, re.DOTALL)
    return None if found is None else found[1] if found.groups() else ""


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{value!r:.100} is no list of texts")
    return tuple(value)
