"""Chat completions whose reply is a label: A, B, C, or Yes and No, which stand for the options in the prompt.

A letter is one token. So its log-probability at the first position is that of the whole answer, however many tokens an
option has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from vlm_perception.models.remote.chat_message import PATH, chat_request, log_probability, reply_of
from vlm_perception.models.remote.image_file import EncodedImage
from vlm_perception.models.remote.response import Body, RefusedError
from vlm_perception.models.remote.way import PROBE, Way, meanings
from vlm_perception.questions import ClosedQuestion, Score, YesNo

PLAIN_CONFIDENCE = 0.8
"""Probability of a plain chat completion's label; the other options share the rest. A convention, not a measurement."""
TOP = 20
"""Number of tokens whose log-probabilities are requested: the most that vLLM and OpenAI allow."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Plain(Way):
    """Chat completions of any server: the reply must be one of the labels and nothing else."""

    path = PATH
    at_once = 1
    name = f"plain chat ({path}), without probabilities"

    def request(self, image: EncodedImage | None, questions: Sequence[ClosedQuestion]) -> Body:
        (question,) = questions
        return chat_request(image, _labelled(question), max_tokens=4)

    def accept(self, response: Body) -> None:
        reply_of(response)

    def read(self, response: Body, questions: Sequence[ClosedQuestion]) -> list[list[float]]:
        (question,) = questions
        said = self._label(response, question)
        rest = (1.0 - PLAIN_CONFIDENCE) / (len(question.options) - 1)
        return [[PLAIN_CONFIDENCE if i == said else rest for i in range(len(question.options))]]

    @staticmethod
    def _label(response: Body, question: ClosedQuestion) -> int:
        """Return the index of the option that the whole reply stands for."""
        reply = reply_of(response).removesuffix(".")
        if reply not in (labels := _labels(question)):
            expected = f"expected one of {', '.join(labels)} to {question.prompt!r:.60}"
            raise RefusedError(f"{expected}, the model replied {reply!r}")
        return labels.index(reply)


class Labels(Plain):
    """Chat completions with log-probabilities.

    `constrain(labels)` returns the request's fields that allow no other reply than a label, None if there are none.
    The probabilities are exact while every label is among the `TOP` tokens that the server reports. A label beyond
    gets the most that it can have: the probability of the last reported token.
    """

    def __init__(self, name: str, constrain: Callable[[Sequence[str]], Body] | None) -> None:
        self.name = f"labels by {name} ({self.path})"
        self._constrain = constrain

    def request(self, image: EncodedImage | None, questions: Sequence[ClosedQuestion]) -> Body:
        (question,) = questions
        return self._ask(image, _labelled(question), question)

    def probe(self, image: EncodedImage | None) -> Body:
        # A server that does not know the field ignores it, and its reply to this is not a label.
        return self._ask(image, "Write the word hello.", PROBE) if self._constrain else super().probe(image)

    def accept(self, response: Body) -> None:
        self.probabilities(response, [PROBE])

    def _ask(self, image: EncodedImage | None, text: str, question: ClosedQuestion) -> Body:
        body = {**chat_request(image, text, max_tokens=4), "logprobs": True, "top_logprobs": TOP}
        if self._constrain:
            # A model that can think aloud would begin with its thought instead of a label.
            body.update(self._constrain(_labels(question)), chat_template_kwargs={"enable_thinking": False})
        return body

    def read(self, response: Body, questions: Sequence[ClosedQuestion]) -> list[list[float]]:
        (question,) = questions
        self._label(response, question)
        if not (positions := (response["choices"][0].get("logprobs") or {}).get("content")):
            raise RefusedError("its answer has no log-probabilities (logprobs)")
        first = positions[0]
        named = {str(entry["token"]): log_probability(entry) for entry in first.get("top_logprobs") or ()}
        named.setdefault(str(first["token"]), log_probability(first))
        return [label_probabilities(_labels(question), named)]


def label_probabilities(labels: Sequence[str], named: dict[str, float]) -> list[float]:
    """Return each label's probability, from the log-probabilities of the `named` tokens at the reply's first position.

    A token counts for the label that it is or that it begins; no two labels begin alike. Labels without a token share
    what is left equally, each at most as much as the rarest named token. Raises RefusedError when no token is a
    label's.
    """
    found = dict.fromkeys(labels, 0.0)
    for token, logarithm in named.items():
        text = token.strip().lstrip("▁Ġ")
        for label in labels:
            if text and label.startswith(text):
                found[label] += math.exp(logarithm)
    if not any(found.values()):
        raise RefusedError(f"none of its most probable tokens is a label: {sorted(named)!r}")
    hidden = [label for label, p in found.items() if p == 0.0]
    if hidden:
        rest = max(0.0, 1.0 - sum(map(math.exp, named.values())))
        found.update(dict.fromkeys(hidden, min(rest / len(hidden), math.exp(min(named.values())))))
    total = sum(found.values())
    return [found[label] / total for label in labels]


def _labels(question: ClosedQuestion) -> list[str]:
    if isinstance(question, YesNo):
        return ["Yes", "No"]
    if len(question.options) > len(LETTERS):
        raise ValueError(
            f"{question} has {len(question.options)} options; a chat server can be asked "
            f"at most {len(LETTERS)}, one with System One or Decisions more"
        )
    return list(LETTERS[: len(question.options)])


def _labelled(question: ClosedQuestion) -> str:
    """Return the prompt with the meaning of each label and how to answer."""
    labels = _labels(question)
    if isinstance(question, YesNo):
        both = zip(labels, meanings(question), strict=True)
        lines = [f"{label}: {words}" for label, words in both if words]
        return "\n".join([question.prompt, *lines, "Answer Yes or No only."])
    lines = [
        f"{label}. {option}: {words}" if words else f"{label}. {option}"
        for label, (option, words) in zip(labels, question.described(), strict=True)
    ]
    what = "level (from lowest to highest)" if isinstance(question, Score) else "option"
    return "\n".join([question.prompt, *lines, f"Answer with the letter of the {what} that fits best only."])
