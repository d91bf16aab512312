"""Conversion of questions and answers to ROS messages and back."""

from __future__ import annotations

import math

from vlm_perception import msg
from vlm_perception.questions import (
    MAX_OPTION_CHARACTERS,
    Answer,
    Choice,
    ClosedQuestion,
    MirroredChoice,
    Question,
    Score,
    Text,
    Usage,
    YesNo,
    check_text,
)
from vlm_perception.text import printable

UINT32, UINT64 = 2**32 - 1, 2**64 - 1

TYPES: dict[int, type[Question]] = {
    msg.Question.CHOICE: Choice,
    msg.Question.YES_NO: YesNo,
    msg.Question.SCORE: Score,
    msg.Question.TEXT: Text,
    msg.Question.MIRRORED_CHOICE: MirroredChoice,
}

_TYPE_NAMES = {getattr(msg.Question, name): name for name in ("CHOICE", "YES_NO", "SCORE", "TEXT", "MIRRORED_CHOICE")}


def question_from_message(message: msg.Question, max_new_tokens: int = 64) -> Question:
    """Return the typed question of `message`; `max_new_tokens` is for a text.

    Raises ValueError with the name of the question and the problem.
    """
    check_text("the name of a question", message.name, MAX_OPTION_CHARACTERS)
    try:
        return _typed(message, max_new_tokens)
    except ValueError as error:
        raise ValueError(f"question {message.name!r:.100}: {error}") from None


def _typed(message: msg.Question, max_new_tokens: int) -> Question:
    kind = TYPES.get(message.type)
    options, descriptions = tuple(message.options), tuple(message.descriptions)
    if kind is None:
        known = ", ".join(f"{number} ({name})" for number, name in sorted(_TYPE_NAMES.items()))
        raise ValueError(f"it has type {message.type}, expected one of {known}")
    if kind is Text:
        if descriptions:
            raise ValueError(f"a text question has the descriptions {list(descriptions)!r:.100}, expected none")
        return Text(message.prompt, max_new_tokens, phrases=options)
    if kind is YesNo and not options:
        options = YesNo.options
    return kind(message.prompt, options, descriptions)  # type: ignore[call-arg]


def question_to_message(name: str, question: Question) -> msg.Question:
    """Return `question` as a message; its answer carries the same `name`."""
    kind = next(number for number, kind in TYPES.items() if type(question) is kind)
    message = msg.Question(name=name, type=kind, prompt=question.prompt)
    if isinstance(question, ClosedQuestion):
        message.options, message.descriptions = list(question.options), list(question.descriptions)
    elif isinstance(question, Text):
        message.options = list(question.phrases)
    return message


def answer_to_message(name: str, answer: Answer) -> msg.Answer:
    """Return `answer` to the question `name` as a message. Numbers too large for the message are cut to its limits."""
    message = msg.Answer(
        name=name,
        value=printable(answer.value),
        confidence=answer.confidence,
        options=list(answer.options),
        probabilities=list(answer.probabilities),
        off_mass=math.nan if answer.off_mass is None else answer.off_mass,
    )
    if usage := answer.usage:
        message.seconds = usage.seconds
        message.time_to_first_token = usage.time_to_first_token
        message.tokens = min(max(usage.tokens, 0), UINT32)
        message.tokens_per_second = usage.tokens_per_second
        message.peak_memory = min(max(usage.peak_memory, 0), UINT64)
    return message


def answer_from_message(message: msg.Answer) -> Answer:
    """Return the answer that `message` carries."""
    usage = Usage(message.seconds, message.time_to_first_token, message.tokens, message.peak_memory)
    return Answer(
        message.value,
        message.confidence,
        tuple(message.options),
        tuple(message.probabilities),
        usage if message.seconds else None,
        off_mass=None if math.isnan(message.off_mass) else message.off_mass,
    )
