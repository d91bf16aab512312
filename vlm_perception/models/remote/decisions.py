"""APIs for decisions: System One and OpenAI's decisions. The server itself gives the probability of every option."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlm_perception.models.remote.image_file import EncodedImage
from vlm_perception.models.remote.response import Body, RefusedError
from vlm_perception.models.remote.way import Way, meanings
from vlm_perception.questions import ClosedQuestion, Score, YesNo

_ASSET = "[[camera]]"
"""Name of the image in System One's state."""
_INPUT = "The image shows what the camera sees."
_AT_ONCE = 64
"""Most questions in one request."""


class SystemOne(Way):
    """System One, `/v1/systemone`: questions about a state with its images.

    `place` is where the image goes: into `assets`, by its name in the state (transformers serve, OpenRouter), or into
    `images` (SGLang, llama.cpp, Clef).
    """

    path = "/v1/systemone"
    at_once = _AT_ONCE

    def __init__(self, place: str) -> None:
        self.name = f"System One ({self.path} with {place})"
        self._place = place

    def request(self, image: EncodedImage | None, questions: Sequence[ClosedQuestion]) -> Body:
        body: Body = {"questions": {str(i): self._question(question) for i, question in enumerate(questions)}}
        if self._place == "images":
            return {"state": _INPUT, "images": [image.url] if image else [], **body}
        asset = {"type": "image", "format": "jpeg", "data_base64": image.data} if image else None
        return {"state": _ASSET, "assets": {_ASSET: asset} if asset else {}, **body}

    @staticmethod
    def _question(question: ClosedQuestion) -> Body:
        if isinstance(question, YesNo):
            body: Body = {"type": "noul", "instructions": question.prompt}
            if any(both := meanings(question)):
                body["criteria"] = dict(zip(("true", "false"), [words or None for words in both], strict=True))
            return body
        if isinstance(question, Score):
            levels = [f"{level}: {words}" if words else level for level, words in question.described()]
            return {"type": "score", "instructions": question.prompt, "criteria": levels}
        criteria = {option: words or None for option, words in question.described()}
        return {"type": "choice", "instructions": question.prompt, "criteria": criteria}

    def read(self, response: Body, questions: Sequence[ClosedQuestion]) -> list[list[float]]:
        rows = []
        for i, question in enumerate(questions):
            answer = response["answers"][str(i)]
            if isinstance(question, YesNo):
                rows.append([float(answer["noul"]), 1.0 - float(answer["noul"])])
            else:
                levels = [str(level) for level in range(len(question.options))]
                keys = levels if isinstance(question, Score) else question.options
                rows.append([float(answer["probabilities"][key]) for key in keys])
        return rows


class Decisions(Way):
    """OpenAI's decisions, `/v1/decisions`; LiteLLM has them as well."""

    path = "/v1/decisions"
    at_once = _AT_ONCE
    name = f"Decisions ({path})"

    def request(self, image: EncodedImage | None, questions: Sequence[ClosedQuestion]) -> Body:
        content: list[Body] = [{"type": "input_image", "image_url": image.url}] if image else []
        content.append({"type": "input_text", "text": _INPUT})
        asked = [{"name": str(i), **self._question(question)} for i, question in enumerate(questions)]
        return {"input": [{"role": "user", "content": content}], "questions": asked}

    @staticmethod
    def _question(question: ClosedQuestion) -> Body:
        if isinstance(question, YesNo):
            both = zip(("True", "False"), meanings(question), strict=True)
            lines = [f"{truth} means: {words}" for truth, words in both if words]
            return {"type": "predicate", "instructions": "\n".join([question.prompt, *lines])}
        if isinstance(question, Score):
            levels = [{"label": level, **_described(words)} for level, words in question.described()]
            return {"type": "score", "instructions": question.prompt, "levels": levels}
        choices = [{"value": option, **_described(words)} for option, words in question.described()]
        return {"type": "choice", "instructions": question.prompt, "choices": choices}

    def read(self, response: Body, questions: Sequence[ClosedQuestion]) -> list[list[float]]:
        answers = {answer["name"]: answer for answer in response["answers"]}
        rows = []
        for i, question in enumerate(questions):
            answer = answers[str(i)]
            if answer["type"] == "refusal":
                raise RefusedError(f"the model declined to answer {question.prompt!r:.100}")
            if isinstance(question, YesNo):
                rows.append([float(answer["probability"]), 1.0 - float(answer["probability"])])
            else:
                by_value = {entry["value"]: float(entry["probability"]) for entry in answer["probabilities"]}
                keys: Sequence[Any] = range(len(question.options)) if isinstance(question, Score) else question.options
                rows.append([by_value[key] for key in keys])
        return rows


def _described(words: str) -> Body:
    return {"description": words} if words else {}
