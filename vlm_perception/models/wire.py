"""What model servers want to be sent and what they send back; nothing here sends anything.

Three ways to ask closed questions, best first, see `WAYS`:

1. *Decisions*: System One (`/v1/systemone`: transformers serve, SGLang, llama.cpp) and OpenAI's `/v1/decisions`.
   Every option's probability is the server's own, for all questions about an image in one request.
2. *Labels*: a chat completion that is held to the letters A, B, C (Yes, No), which stand for the options
   in the prompt. A letter is one token, so that its log-probability at the first position is that of the whole
   answer, however many tokens an option has and however the options begin. The probabilities are exact while
   every letter is among the tokens that the server names, at most 20; a letter beyond gets the most that it can
   have, which is at most what the last named token has.
3. *Plain* chat completions: the reply must be one of the letters and nothing else. Nothing is known about its
   probability: `PLAIN_CONFIDENCE` is a convention, not a measurement.

Free words come by chat completions as a stream.

What a server sends may be anything: it is checked here, and what has another form is a RefusedError. Its words may be
long and may hold a key, which this module does not know: a caller that shows them cleans them first, then cuts them.
"""

from __future__ import annotations

import base64
import codecs
import io
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from vlm_perception.questions import ClosedQuestion, Question, Score, Text, YesNo
from vlm_perception.text import printable

Body = dict[str, Any]
"""A JSON object, sent or received."""
JPEG_QUALITY = 95
PLAIN_CONFIDENCE = 0.8
"""The probability of what a plain chat completion says; the other options share the rest."""
TOP = 20
"""How many tokens with their log-probabilities are asked for: the most that vLLM and OpenAI allow."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NAME = "[[camera]]"
_INPUT = "The image shows what the camera sees."
_PROBE = YesNo("Is this an image?")
MOST_TOKENS = 2**32 - 1
"""A larger count of tokens is none."""
_SPECIAL = re.compile(r"<(?=[|｜]|[/\\]?[A-Za-z][\w .:-]*>|<[A-Z])|\[(?=\[|/?[A-Z][A-Z0-9_]+\])")
"""Where a token of a chat template begins, such as <|im_start|>, <end_of_turn>, </s>, <<SYS>> or [INST]."""
_FORM = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What reading raises when an answer has another form than expected."""
Q = TypeVar("Q", bound=Question)


class RefusedError(Exception):
    """A server does not do what was asked in this way: it refused, or its answer has not the form of this way."""


@lru_cache(maxsize=1024)
def harmless(question: Q) -> Q:
    """Return `question` with the tokens of chat templates broken by a blank, so that nobody can write one.

    Which tokens a server's model has is not known: whatever looks like one is broken. ValueError when the question
    gets too long by that.
    """
    changes: dict[str, Any] = {"prompt": _SPECIAL.sub(r"\g<0> ", question.prompt)}
    for name in ("options", "descriptions", "phrases"):
        if texts := getattr(question, name, ()):
            changes[name] = tuple(_SPECIAL.sub(r"\g<0> ", text) for text in texts)
    return replace(question, **changes)


def parse(text: str | bytes) -> Any:
    """Return what the JSON `text` says. Raises RefusedError when it is none, or nested too deep."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RefusedError("its answer is no JSON") from None


def is_error(body: Body) -> bool:
    """Whether a server means an error by this, whatever the status says."""
    return bool(body.get("error")) or body.get("object") == "error"


def reason(text: str) -> str:
    """Return the words of an error, from the forms that servers give it: JSON of some shapes, a web page, plain."""
    try:
        error = json.loads(text)
        for _ in range(8):
            if isinstance(error, dict):
                names = ("error", "detail", "message", "msg", "title")
                error = next(error[name] for name in names if error.get(name))
            elif isinstance(error, list):
                error = error[0]
        text = str(error)
    except (ValueError, LookupError, StopIteration, RecursionError):
        pass
    text = text[:4000]
    if re.search(r"<(html|!doctype)", text, re.IGNORECASE):
        text = re.sub(r"<[^<>]*>", " ", re.sub(r"(?is)<(style|script)\b.*?</\1>", " ", text))
    return " ".join(text.split())


def _form(error: Exception, response: Any) -> RefusedError:
    try:
        shown = json.dumps(response, ensure_ascii=False)
    except (ValueError, RecursionError):
        shown = "it is nested too deep"
    return RefusedError(f"its answer has another form ({type(error).__name__} {error}): {shown}")


@dataclass(frozen=True)
class EncodedImage:
    """A JPEG file in base64, as it goes into JSON."""

    data: str

    @property
    def url(self) -> str:
        """The image as a data URL."""
        return f"data:image/jpeg;base64,{self.data}"


def encode(image: np.ndarray, edge: int = 0) -> EncodedImage:
    """Make the JPEG of an RGB image, uint8, shape (height, width, 3); its longer edge is at most `edge` [px] if given.

    JPEG, because a PNG of a camera's image is five times as large and goes over the robot's radio; with all its
    colour (4:4:4) and at a quality whose errors are below a camera's noise.
    """
    file = io.BytesIO()
    pil_image = Image.fromarray(image)
    if edge:
        pil_image.thumbnail((edge, edge))
    pil_image.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return EncodedImage(base64.b64encode(file.getvalue()).decode("ascii"))


def tokens(response: Body) -> tuple[int, int]:
    """Return how many tokens the server read and generated, by its own count. RefusedError when it does not tell."""
    usage = response.get("usage")
    try:
        read = _count(usage, "input_tokens", "prompt_tokens")
        return read, _count(usage, "output_tokens", "completion_tokens")
    except (StopIteration, ValueError):
        raise RefusedError(f"its answer has no count of tokens (usage): {usage!r}") from None


def _count(usage: Any, *names: str) -> int:
    """Return the count of tokens under one of `names`. Raises StopIteration or ValueError when it is none."""
    count = next(usage[name] for name in names if name in usage) if isinstance(usage, dict) else None
    if type(count) is not int or not 0 <= count <= MOST_TOKENS:
        raise ValueError(f"{count!r} is no count of tokens")
    return count


# Closed questions


class Way(ABC):
    """A way to ask closed questions: the `path` to POST to, how many questions go `at_once`, its `name` for people."""

    path: str
    at_once: int
    name: str

    @abstractmethod
    def request(self, image: EncodedImage | None, questions: Sequence[ClosedQuestion]) -> Body:
        """What to send, without the model's name. ValueError for a question that cannot be asked in this way."""

    @abstractmethod
    def read(self, response: Body, questions: Sequence[ClosedQuestion]) -> list[list[float]]:
        """As `probabilities`, unchecked; any error may be raised when the answer has another form."""

    def probe(self, image: EncodedImage | None) -> Body:
        """A request whose answer shows whether the server knows this way."""
        return self.request(image, [_PROBE])

    def accept(self, response: Body) -> None:
        """Raise RefusedError unless this answer to the probe is one of this way."""
        self.probabilities(response, [_PROBE])

    def probabilities(self, response: Body, questions: Sequence[ClosedQuestion]) -> list[list[float]]:
        """Each question's probabilities, parallel to its options; their sum is 1 but for rounding. RefusedError."""
        try:
            rows = self.read(response, questions)
            for row in rows:
                if not all(0.0 <= p <= 1.0 for p in row) or abs(sum(row) - 1.0) > 0.1:
                    raise RefusedError(f"these are no probabilities: {row!r}")
        except _FORM as error:
            raise _form(error, response) from None
        return rows


class SystemOne(Way):
    """`/v1/systemone`, at most 64 questions about a state with its images.

    The image stands in `assets` under the name by which the state calls it (transformers serve, OpenRouter), or in
    `images` (SGLang, llama.cpp, Clef).
    """

    path = "/v1/systemone"
    at_once = 64

    def __init__(self, place: str) -> None:
        self.name = f"System One ({self.path} with {place})"
        self._place = place

    def request(self, image: EncodedImage | None, questions: Sequence[ClosedQuestion]) -> Body:
        body: Body = {"questions": {str(i): self._question(question) for i, question in enumerate(questions)}}
        if self._place == "images":
            return {"state": _INPUT, "images": [image.url] if image else [], **body}
        asset = {"type": "image", "format": "jpeg", "data_base64": image.data} if image else None
        return {"state": _NAME, "assets": {_NAME: asset} if asset else {}, **body}

    @staticmethod
    def _question(question: ClosedQuestion) -> Body:
        if isinstance(question, YesNo):
            body: Body = {"type": "noul", "instructions": question.prompt}
            if any(meanings := _meanings(question)):
                body["criteria"] = dict(zip(("true", "false"), [words or None for words in meanings], strict=True))
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
    """`/v1/decisions` in the form of OpenAI, which LiteLLM has as well."""

    path = "/v1/decisions"
    at_once = 64
    name = f"Decisions ({path})"

    def request(self, image: EncodedImage | None, questions: Sequence[ClosedQuestion]) -> Body:
        content: list[Body] = [{"type": "input_image", "image_url": image.url}] if image else []
        content.append({"type": "input_text", "text": _INPUT})
        asked = [{"name": str(i), **self._question(question)} for i, question in enumerate(questions)]
        return {"input": [{"role": "user", "content": content}], "questions": asked}

    @staticmethod
    def _question(question: ClosedQuestion) -> Body:
        if isinstance(question, YesNo):
            meanings = zip(("True", "False"), _meanings(question), strict=True)
            lines = [f"{truth} means: {words}" for truth, words in meanings if words]
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


class Plain(Way):
    """Chat completions of any server: the reply is one of the letters, or the answer is refused."""

    path = "/v1/chat/completions"
    at_once = 1
    name = f"plain chat ({path}), without probabilities"

    def request(self, image: EncodedImage | None, questions: Sequence[ClosedQuestion]) -> Body:
        (question,) = questions
        return _chat(image, _labelled(question), max_tokens=4)

    def accept(self, response: Body) -> None:
        _reply(response)

    def read(self, response: Body, questions: Sequence[ClosedQuestion]) -> list[list[float]]:
        (question,) = questions
        said = self._label(response, question)
        rest = (1.0 - PLAIN_CONFIDENCE) / (len(question.options) - 1)
        return [[PLAIN_CONFIDENCE if i == said else rest for i in range(len(question.options))]]

    @staticmethod
    def _label(response: Body, question: ClosedQuestion) -> int:
        """The number of the option that the whole reply stands for."""
        reply = _reply(response).removesuffix(".")
        if reply not in (labels := _labels(question)):
            expected = f"expected one of {', '.join(labels)} to {question.prompt!r:.60}"
            raise RefusedError(f"{expected}, the model replied {reply!r}")
        return labels.index(reply)


class Labels(Plain):
    """Chat completions with log-probabilities; `hold` are the request's fields that hold the reply to some labels."""

    def __init__(self, name: str, hold: Callable[[Sequence[str]], Body] | None) -> None:
        self.name = f"labels by {name} ({self.path})"
        self._hold = hold

    def request(self, image: EncodedImage | None, questions: Sequence[ClosedQuestion]) -> Body:
        (question,) = questions
        return self._ask(image, _labelled(question), question)

    def probe(self, image: EncodedImage | None) -> Body:
        # A server that does not know the field ignores it; then the reply to this is no label.
        return self._ask(image, "Write the word hello.", _PROBE) if self._hold else super().probe(image)

    def accept(self, response: Body) -> None:
        self.probabilities(response, [_PROBE])

    def _ask(self, image: EncodedImage | None, text: str, question: ClosedQuestion) -> Body:
        body = {**_chat(image, text, max_tokens=4), "logprobs": True, "top_logprobs": TOP}
        if self._hold:
            # The letters come at once; a model that can think aloud would begin with that.
            body.update(self._hold(_labels(question)), chat_template_kwargs={"enable_thinking": False})
        return body

    def read(self, response: Body, questions: Sequence[ClosedQuestion]) -> list[list[float]]:
        (question,) = questions
        self._label(response, question)
        if not (positions := (response["choices"][0].get("logprobs") or {}).get("content")):
            raise RefusedError("its answer has no log-probabilities (logprobs)")
        first = positions[0]
        named = {str(entry["token"]): _logarithm(entry) for entry in first.get("top_logprobs") or ()}
        named.setdefault(str(first["token"]), _logarithm(first))
        return [label_probabilities(_labels(question), named)]


WAYS: tuple[Way, ...] = (
    SystemOne("assets"),
    SystemOne("images"),
    Decisions(),
    Labels("structured_outputs", lambda labels: {"structured_outputs": {"choice": list(labels)}}),  # vLLM
    Labels("guided_choice", lambda labels: {"guided_choice": list(labels)}),  # vLLM before 0.12
    Labels("regex", lambda labels: {"regex": f"({'|'.join(map(re.escape, labels))})"}),  # SGLang
    Labels("log-probabilities alone", None),  # llama.cpp, OpenAI
    Plain(),
)
"""Best first."""


def _logarithm(entry: Body) -> float:
    """Return an entry's log-probability; null is how some servers write minus infinity. ValueError when it is none."""
    number = entry["logprob"]
    logarithm = -math.inf if number is None else float(number)
    if not logarithm <= 0.01:  # NaN, too; float16 makes a little more than 0 of 0
        raise ValueError(f"{logarithm} is no log-probability")
    return logarithm


def label_probabilities(labels: Sequence[str], named: dict[str, float]) -> list[float]:
    """Each label's probability, given the log-probabilities of the `named` tokens at the reply's first position.

    A token counts for the label that it is or that it begins; no two labels begin alike. A label without a token
    gets an equal share of what is left, at most as much as the rarest named token. Raises RefusedError when no
    token is a label's.
    """
    found = dict.fromkeys(labels, 0.0)
    for token, log_probability in named.items():
        text = token.strip().lstrip("▁Ġ")
        for label in labels:
            if text and label.startswith(text):
                found[label] += math.exp(log_probability)
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
    """The prompt with what each label stands for, and how to answer."""
    labels = _labels(question)
    if isinstance(question, YesNo):
        meanings = zip(labels, _meanings(question), strict=True)
        lines = [f"{label}: {words}" for label, words in meanings if words]
        return "\n".join([question.prompt, *lines, "Answer Yes or No only."])
    lines = [
        f"{label}. {option}: {words}" if words else f"{label}. {option}"
        for label, (option, words) in zip(labels, question.described(), strict=True)
    ]
    what = "level (from lowest to highest)" if isinstance(question, Score) else "option"
    return "\n".join([question.prompt, *lines, f"Answer with the letter of the {what} that fits best only."])


def _meanings(question: YesNo) -> list[str]:
    """What true and false mean, empty where the question says it already."""
    usual = [option.casefold() for option in question.options] == ["yes", "no"]
    return [words or ("" if usual else option) for option, words in question.described()]


def _described(words: str) -> Body:
    return {"description": words} if words else {}


def _chat(image: EncodedImage | None, text: str, max_tokens: int) -> Body:
    content: list[Body] = [{"type": "image_url", "image_url": {"url": image.url}}] if image else []
    content.append({"type": "text", "text": text})
    return {"messages": [{"role": "user", "content": content}], "max_tokens": max_tokens, "temperature": 0.0}


THINKS = (
    "the model thinks aloud before it answers (reasoning), and has no tokens left for the answer: turn thinking off at "
    "the server (llama.cpp: --reasoning-budget 0, vLLM: --default-chat-template-kwargs with enable_thinking false), or "
    "choose a model that does not think"
)


def _message(response: Body) -> Body:
    """Return a chat completion's message. Raises RefusedError when it is none."""
    try:
        message = response["choices"][0]["message"]
        if isinstance(message, dict):
            return message
    except (LookupError, TypeError):
        pass
    raise _form(ValueError("no chat completion"), response)


def _thinks(message: Body) -> bool:
    return bool(message.get("reasoning_content") or message.get("reasoning"))


def _content(message: Body) -> str | None:
    """Return what a message or a part of one says. Raises TypeError when that is no text."""
    content = message.get("content")
    if isinstance(content, list):  # in parts, as some servers send it
        content = "".join(str(part.get("text") or "") for part in content)
    if not isinstance(content, str | None):
        raise TypeError(f"content is a {type(content).__name__}")
    return content


def _without_thought(text: str) -> str:
    """Return the words behind what the model thought aloud. Raises RefusedError when the thought has no end."""
    text = text.strip()
    if text.startswith("<think>"):
        _, end, text = text.partition("</think>")
        if not end:
            raise RefusedError(THINKS)
    return text.strip()


def _reply(response: Body) -> str:
    message = _message(response)
    try:
        reply = _content(message)
    except _FORM as error:
        raise _form(error, response) from None
    if not reply and _thinks(message):
        raise RefusedError(THINKS)
    if reply is None:
        raise _form(ValueError("no chat completion"), response)
    return _without_thought(reply)


# Free words


class ChatStream:
    """Chat completions as a stream of server-sent events, with log-probabilities or without."""

    path = Plain.path

    def __init__(self, log_probabilities: bool) -> None:
        self.name = f"chat ({self.path}{' with log-probabilities' if log_probabilities else ''})"
        self._more: Body = {"logprobs": True} if log_probabilities else {}

    def request(self, image: EncodedImage, question: Text) -> Body:
        """What to send, without the model's name."""
        return {**_chat(image, question.prompt, question.max_new_tokens), "stream": True, **self._more}

    def probe(self, image: EncodedImage | None) -> Body:
        """A request whose answer shows whether the server knows this way."""
        return {**_chat(image, _PROBE.prompt, max_tokens=1), **self._more}

    def accept(self, response: Body) -> None:
        """Raise RefusedError unless this answer to the probe is a chat completion of this kind."""
        _reply(response)
        if self._more and not response["choices"][0].get("logprobs"):
            raise RefusedError("its answer has no log-probabilities (logprobs)")


SPEECH: tuple[ChatStream, ...] = (ChatStream(log_probabilities=True), ChatStream(log_probabilities=False))
"""Best first."""


class Lines:
    """Lines of a stream of UTF-8 that comes in pieces. They end at CR, LF and CRLF only, as server-sent events do."""

    def __init__(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        self._rest: list[str] = []

    def feed(self, data: bytes, final: bool = False) -> list[str]:
        """Return the lines that are whole now; at the end of the stream, the last one, too."""
        first, *more = self._decoder.decode(data, final).split("\n")
        self._rest.append(first)
        if not more and not final:
            return []
        lines = ["".join(self._rest), *more]
        self._rest = [] if final else [lines.pop()]
        return lines


@dataclass
class Heard:
    """What a stream has said so far. `tokens` are the server's count if it tells, else what was counted on the way."""

    tokens: int = 0
    finished: bool = False
    done: bool = False
    """Nothing more will come."""
    log_probabilities: list[float] = field(default_factory=list)
    _parts: list[str] = field(default_factory=list)
    _thought: bool = False
    _event: str = ""
    _other: list[str] = field(default_factory=list)

    def hear(self, line: str) -> None:
        """Take the next line of the stream. Raises RefusedError when it is none of a chat completion's."""
        name, colon, value = line.partition(":")
        if name == "data" and colon:
            self._take(value.strip())
        elif name == "event" and colon:
            self._event = value.strip()
        elif not line:
            self._event = ""
        elif name and name not in ("id", "retry"):  # a line that begins with a colon is a comment
            self._other.append(line)

    def end(self) -> None:
        """Take the end of the stream: what came may be a whole completion, or an error, in place of one."""
        if self._other and not self._parts and not self.finished:
            self._take("\n".join(self._other))
            self.finished = True
        if self._thought and not self.text:
            raise RefusedError(THINKS)

    def _take(self, data: str) -> None:
        if data == "[DONE]":
            self.finished = self.done = True
        if self.done or not data:
            return
        try:
            event = json.loads(data)
            if is_error(event) or self._event == "error":
                raise RefusedError(f"it broke off: {reason(data)}")
            for choice in event["choices"][:1]:
                self._hear(choice)
            self.tokens = len(self.log_probabilities) or len(self._parts)
            if isinstance(event.get("usage"), dict) and "completion_tokens" in event["usage"]:
                self.tokens = _count(event["usage"], "completion_tokens")
        except _FORM as error:
            raise RefusedError(f"its stream has another form ({type(error).__name__}: {error}): {data}") from None

    def _hear(self, choice: Body) -> None:
        message = choice.get("delta") or choice.get("message") or {}  # the latter is a whole completion's
        self._thought |= _thinks(message)
        if part := _content(message):
            self._parts.append(part)
        entries = (choice.get("logprobs") or {}).get("content") or []
        self.log_probabilities += [_logarithm(entry) for entry in entries]
        self.finished |= choice.get("finish_reason") is not None

    @property
    def text(self) -> str:
        """The words, without what the model thought aloud before them; RefusedError when it thought only."""
        return _without_thought(printable("".join(self._parts)))

    @property
    def confidence(self) -> float:
        """The geometric mean of the tokens' probabilities; 0 when the server does not tell them."""
        if not self.log_probabilities:
            return 0.0
        return min(1.0, math.exp(sum(self.log_probabilities) / len(self.log_probabilities)))
