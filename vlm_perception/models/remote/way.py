"""A way to ask a server closed questions: which request is sent, and how its answer is read. Nothing is sent here."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

from vlm_perception.models.remote.image_file import EncodedImage
from vlm_perception.models.remote.response import FORM_ERRORS, Body, RefusedError, wrong_form
from vlm_perception.questions import ClosedQuestion, Question, YesNo

PROBE = YesNo("Is this an image?")
"""The question that finds out whether a server supports a way."""
_SPECIAL_TOKEN = re.compile(r"<(?=[|｜]|[/\\]?[A-Za-z][\w .:-]*>|<[A-Z])|\[(?=\[|/?[A-Z][A-Z0-9_]+\])")
"""The beginning of a chat template's token, such as <|im_start|>, <end_of_turn>, </s>, <<SYS>> or [INST]."""
Q = TypeVar("Q", bound=Question)


class Way(ABC):
    """A way to ask closed questions.

    `path` is where requests are posted, `at_once` how many questions one request may have, `name` what people read.
    """

    path: str
    at_once: int
    name: str

    @abstractmethod
    def request(self, image: EncodedImage | None, questions: Sequence[ClosedQuestion]) -> Body:
        """Return the request, without the model's name. ValueError for a question that cannot be asked in this way."""

    @abstractmethod
    def read(self, response: Body, questions: Sequence[ClosedQuestion]) -> list[list[float]]:
        """Return what `probabilities` does, unchecked. Any error may be raised when `response` has another form."""

    def probe(self, image: EncodedImage | None) -> Body:
        """Return a request whose answer shows whether the server supports this way."""
        return self.request(image, [PROBE])

    def accept(self, response: Body) -> None:
        """Raise RefusedError unless `response` answers the probe in this way."""
        self.probabilities(response, [PROBE])

    def probabilities(self, response: Body, questions: Sequence[ClosedQuestion]) -> list[list[float]]:
        """Return each question's probabilities, parallel to its options; their sum is about 1. RefusedError."""
        try:
            rows = self.read(response, questions)
            for row in rows:
                if not all(0.0 <= p <= 1.0 for p in row) or abs(sum(row) - 1.0) > 0.1:
                    raise RefusedError(f"these are no probabilities: {row!r}")
        except FORM_ERRORS as error:
            raise wrong_form(error, response) from None
        return rows


def meanings(question: YesNo) -> list[str]:
    """Return what true and false mean; empty texts where the question says it already."""
    usual = [option.casefold() for option in question.options] == ["yes", "no"]
    return [words or ("" if usual else option) for option, words in question.described()]


@lru_cache(maxsize=1024)
def without_special_tokens(question: Q) -> Q:
    """Return `question` with a blank in all that looks like a chat template's token, so that no text can be one.

    The tokens of the server's model are not known. Raises ValueError when the question gets too long by that.
    """
    changes: dict[str, Any] = {"prompt": _SPECIAL_TOKEN.sub(r"\g<0> ", question.prompt)}
    for name in ("options", "descriptions", "phrases"):
        if texts := getattr(question, name, ()):
            changes[name] = tuple(_SPECIAL_TOKEN.sub(r"\g<0> ", text) for text in texts)
    return replace(question, **changes)
