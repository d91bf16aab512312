"""Chat completions as a stream: free words, token by token."""

from __future__ import annotations

import codecs
import io
import json
import math
from dataclasses import dataclass, field

from vlm_perception.models.remote.chat_message import (
    PATH,
    THINKS,
    chat_request,
    content_of,
    log_probability,
    reply_of,
    thinks,
    without_thought,
)
from vlm_perception.models.remote.image_file import EncodedImage
from vlm_perception.models.remote.response import FORM_ERRORS, Body, RefusedError, is_error, reason, token_count
from vlm_perception.models.remote.way import PROBE
from vlm_perception.questions import Text
from vlm_perception.text import printable


class ChatStream:
    """Chat completions as a stream of server-sent events, with log-probabilities or without."""

    path = PATH

    def __init__(self, log_probabilities: bool) -> None:
        self.name = f"chat ({self.path}{' with log-probabilities' if log_probabilities else ''})"
        self._more: Body = {"logprobs": True} if log_probabilities else {}

    def request(self, image: EncodedImage, question: Text) -> Body:
        """Return the request, without the model's name."""
        return {**chat_request(image, question.prompt, question.max_new_tokens), "stream": True, **self._more}

    def probe(self, image: EncodedImage | None) -> Body:
        """Return a request whose answer shows whether the server knows this way."""
        return {**chat_request(image, PROBE.prompt, max_tokens=1), **self._more}

    def accept(self, response: Body) -> None:
        """Raise RefusedError unless `response` answers the probe in this way."""
        reply_of(response)
        if self._more and not response["choices"][0].get("logprobs"):
            raise RefusedError("its answer has no log-probabilities (logprobs)")


class LineDecoder:
    """Decoder of UTF-8 lines that come in pieces. Lines end at CR, LF and CRLF only, as those of server-sent events."""

    def __init__(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        self._rest: list[str] = []

    def decode(self, data: bytes, final: bool = False) -> list[str]:
        """Return the lines that are complete after `data`; with `final`, also the rest."""
        first, *more = self._decoder.decode(data, final).split("\n")
        self._rest.append(first)
        if not more and not final:
            return []
        lines = ["".join(self._rest), *more]
        self._rest = [] if final else [lines.pop()]
        return lines


@dataclass
class StreamedReply:
    """What a stream has brought so far.

    `tokens` is the server's count, or ours where it gives none. `finished`: the text is complete. `done`: nothing more
    will come.
    """

    tokens: int = 0
    finished: bool = False
    done: bool = False
    log_probabilities: list[float] = field(default_factory=list)
    _parts: list[str] = field(default_factory=list)
    _thought: bool = False
    _event: str = ""
    _other: list[str] = field(default_factory=list)

    def take_line(self, line: str) -> None:
        """Take in the next line. Raises RefusedError for an error, and for what is no part of a chat completion."""
        name, colon, value = line.partition(":")
        if name == "data" and colon:
            self._take_event(value.strip())
        elif name == "event" and colon:
            self._event = value.strip()
        elif not line:
            self._event = ""
        elif name and name not in ("id", "retry"):  # a line that begins with a colon is a comment
            self._other.append(line)

    def end(self) -> None:
        """Take in the end of the stream. RefusedError when an error, or nothing but a thought, came in place of events.

        A whole completion in place of events is read, too.
        """
        if self._other and not self._parts and not self.finished:
            self._take_event("\n".join(self._other))
            self.finished = True
        if self._thought and not self.text:
            raise RefusedError(THINKS)

    def _take_event(self, data: str) -> None:
        if data == "[DONE]":
            self.finished = self.done = True
        if self.done or not data:
            return
        try:
            event = json.loads(data)
            if is_error(event) or self._event == "error":
                raise RefusedError(f"it broke off: {reason(data)}")
            for choice in event["choices"][:1]:
                self._take_choice(choice)
            self.tokens = len(self.log_probabilities) or len(self._parts)
            if isinstance(event.get("usage"), dict) and "completion_tokens" in event["usage"]:
                self.tokens = token_count(event["usage"], "completion_tokens")
        except FORM_ERRORS as error:
            raise RefusedError(f"its stream has another form ({type(error).__name__}: {error}): {data}") from None

    def _take_choice(self, choice: Body) -> None:
        message = choice.get("delta") or choice.get("message") or {}  # a whole completion has a message
        self._thought |= thinks(message)
        if part := content_of(message):
            self._parts.append(part)
        entries = (choice.get("logprobs") or {}).get("content") or []
        self.log_probabilities += [log_probability(entry) for entry in entries]
        self.finished |= choice.get("finish_reason") is not None

    @property
    def text(self) -> str:
        """The text without the thought before it; RefusedError when there is only a thought."""
        return without_thought(printable("".join(self._parts)))

    @property
    def confidence(self) -> float:
        """The geometric mean of the tokens' probabilities; 0 when the server does not report them."""
        if not self.log_probabilities:
            return 0.0
        return min(1.0, math.exp(sum(self.log_probabilities) / len(self.log_probabilities)))
