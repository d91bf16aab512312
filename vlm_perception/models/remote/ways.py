"""The ways to ask a server, best first, and which of them it supports.

Three kinds of ways ask closed questions:

1. *Decisions* (`decisions.py`): the probability of every option is the server's own, for all questions about an image
   in one request.
2. *Labels* (`chat_labels.py`): a chat completion that must be a letter, with log-probabilities. They are exact for up
   to 20 options.
3. *Plain* chat completions (`chat_labels.py`): the reply is a letter, and its probability is not known.

Free words come by chat completions as a stream (`chat_stream.py`).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

from vlm_perception.models.base import ModelError
from vlm_perception.models.calibration import EMPTY_IMAGE
from vlm_perception.models.remote.chat_labels import Labels, Plain
from vlm_perception.models.remote.chat_stream import ChatStream
from vlm_perception.models.remote.decisions import Decisions, SystemOne
from vlm_perception.models.remote.http_client import read_body
from vlm_perception.models.remote.image_file import EncodedImage, encode
from vlm_perception.models.remote.response import Body, RefusedError, token_counts
from vlm_perception.models.remote.session import BusyError, FailedError, Session
from vlm_perception.models.remote.way import Way

CLOSED_WAYS: tuple[Way, ...] = (
    SystemOne("assets"),
    SystemOne("images"),
    Decisions(),
    Labels("structured_outputs", lambda labels: {"structured_outputs": {"choice": list(labels)}}),  # vLLM
    Labels("guided_choice", lambda labels: {"guided_choice": list(labels)}),  # vLLM before 0.12
    Labels("regex", lambda labels: {"regex": f"({'|'.join(map(re.escape, labels))})"}),  # SGLang
    Labels("log-probabilities alone", None),  # llama.cpp, OpenAI
    Plain(),
)
"""The ways to ask closed questions, best first."""
TEXT_WAYS: tuple[ChatStream, ...] = (ChatStream(log_probabilities=True), ChatStream(log_probabilities=False))
"""The ways to ask for free words, best first."""
RETRY_BETTER = 60.0
"""Time [s] after which better ways that failed in passing are tried again."""


class AnyWay(Protocol):
    """What `Way` and `ChatStream` have in common."""

    name: str
    path: str

    def probe(self, image: EncodedImage | None) -> Body: ...
    def accept(self, response: Body) -> None: ...


W = TypeVar("W", bound=AnyWay)


class WayFinder(Generic[W]):
    """Finds the best of the `known` ways that the server of `session` supports; `purpose` is what they are for.

    A probe is sent with an image and without. The server must have read another number of tokens: so a server that
    ignores the image, or a field that it does not know, is not taken for one that looks. `better` are the ways before
    the `found` one that failed in passing.
    """

    def __init__(self, session: Session, known: Sequence[W], purpose: str) -> None:
        self.better: list[W] = []
        self._session = session
        self._known = known
        self._purpose = purpose
        self._found: W | None = None
        self._epoch = 0
        self._retry_at = math.inf

    @property
    def found(self) -> W | None:
        """The way that the server supports; None while it is not known."""
        return self._found if self._epoch == self._session.epoch else None

    @property
    def is_due(self) -> bool:
        """Whether it is time to try the `better` ways again."""
        return bool(self.better) and time.monotonic() >= self._retry_at

    async def find(self) -> W:
        """Return the best way, found out now if it is not known. Raises ModelError when the server supports none."""
        while (found := self.found) is None:
            refused: dict[str, list[str]] = {}
            busy, better = False, []
            for way in self._known:
                try:
                    await self._session.retry(partial(self._look, way))
                except (RefusedError, BusyError) as error:
                    busy |= isinstance(error, BusyError)
                    if isinstance(error, BusyError | FailedError):
                        better.append(way)
                    refused.setdefault(self._session.shown(error), []).append(way.name)
                else:
                    self._settle(way, better)
                    self._session.confirm()
                    return way
            if not busy:
                name = self._session.name
                raise ModelError(
                    f"{name} cannot be asked {self._purpose}. Does a vision model run there, is its name right? "
                    f"{await self._names()}. "
                    + "; ".join(f"{', '.join(names)}: {problem}" for problem, names in refused.items())
                )
        return found

    async def improve(self) -> W | None:
        """Try the `better` ways again; return the one that is used from now on, None when none of them works."""
        self._retry_at = time.monotonic() + RETRY_BETTER
        for number, way in enumerate(list(self.better)):
            try:
                await self._look(way)
            except (BusyError, FailedError):
                continue
            except (RefusedError, ModelError):
                self.better.remove(way)
                continue
            self._settle(way, self.better[:number])
            return way
        return None

    def _settle(self, way: W, better: Sequence[W]) -> None:
        self._found, self._epoch, self.better = way, self._session.epoch, list(better)
        self._retry_at = time.monotonic() + RETRY_BETTER

    async def _look(self, way: AnyWay) -> None:
        """Raise RefusedError unless the server looks at an image in this way; BusyError."""
        image = encode(EMPTY_IMAGE)
        response = await self._session.request_once("POST", way.path, way.probe(image), read_body)
        way.accept(response)
        seen, _ = token_counts(response)
        blind, _ = token_counts(await self._session.request_once("POST", way.path, way.probe(None), read_body))
        if seen == blind:  # the words are the same
            raise RefusedError(f"it does not look at the image ({blind} tokens without it, {seen} with it)")

    async def _names(self) -> str:
        """Return which models the server lists, in words."""
        session = self._session
        try:
            listed = await session.retry(lambda: session.request_once("GET", "/v1/models", None, read_body))
            names = ", ".join(str(model["id"]) for model in listed["data"][:20])
        except (RefusedError, BusyError, LookupError, TypeError, AttributeError):
            names = ""
        return f"The server lists {session.shown(names) or 'no models'}; a name goes behind the address as #name"
