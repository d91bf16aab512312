"""Questions and answers to ROS messages and back."""

from __future__ import annotations

from vlm_perception import msg
from vlm_perception.questions import Answer, Choice, Question, Score, Text, YesNo

TYPES: dict[int, type[Question]] = {
    msg.Question.CHOICE: Choice,
    msg.Question.YES_NO: YesNo,
    msg.Question.SCORE: Score,
    msg.Question.TEXT: Text,
}


def question_from_message(message: msg.Question, max_new_tokens: int = 64) -> Question:
    """Return the typed question; ValueError says what is wrong with it. `max_new_tokens` is for a text."""
    kind = TYPES.get(message.type)
    options = tuple(message.options)
    if kind is None:
        raise ValueError(f"question {message.name!r:.100} has type {message.type}, expected one of {sorted(TYPES)}")
    if kind is Text:
        if options:
            raise ValueError(f"text question {message.name!r:.100} has options {list(options)!r:.100}, expected none")
        return Text(message.name, message.prompt, max_new_tokens)
    if kind is YesNo and not options:
        return YesNo(message.name, message.prompt)
    return kind(message.name, message.prompt, options)  # type: ignore[call-arg]


def question_to_message(question: Question) -> msg.Question:
    """Return `question` as a message."""
    kind = next(number for number, kind in TYPES.items() if type(question) is kind)
    options = [] if isinstance(question, Text) else list(question.options)  # type: ignore[attr-defined]
    return msg.Question(name=question.name, type=kind, prompt=question.prompt, options=options)


def answer_to_message(answer: Answer) -> msg.Answer:
    """Return `answer` as a message."""
    return msg.Answer(
        name=answer.name,
        value=answer.value,
        confidence=answer.confidence,
        options=list(answer.options),
        probabilities=list(answer.probabilities),
    )


def answer_from_message(message: msg.Answer) -> Answer:
    """Return the answer that `message` carries."""
    return Answer(message.name, message.value, message.confidence, tuple(message.options), tuple(message.probabilities))
