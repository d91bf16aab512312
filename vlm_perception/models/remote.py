"""A model on a server, which many robots can share; how it is asked is in `wire.py`.

The best way that a server knows is found out once, by a probe with an image and one of the same words without: the
server must have read another number of tokens. So neither a server without eyes nor one that ignores a field that it
does not know can pass for one that looks.

What can go wrong takes bounded time and bounded memory and ends in a ModelError, never in a guess. Busy servers and
lost connections are tried again, with pauses that grow, until the time of the call is over. A way that failed in
passing while it was tried is tried again later. An image that the server finds too large is sent smaller from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import re
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import httpx2
import numpy as np

from vlm_perception.models import wire
from vlm_perception.models.address import API_KEY, origin, read_endpoint
from vlm_perception.models.base import ModelError, check_image
from vlm_perception.models.calibration import EMPTY_PICTURE, Calibration
from vlm_perception.models.http_client import (
    MOST_BYTES,
    RequestLimits,
    chunks_of,
    connect,
    is_untrusted,
    read_body,
    redirection,
    retry_after,
    text_of,
)
from vlm_perception.models.scope import Scope
from vlm_perception.models.wire import EncodedImage, RefusedError
from vlm_perception.questions import Answer, ClosedQuestion, Question, Text, Usage
from vlm_perception.text import one_line

BACK_OFF = (0.25, 4.0)
"""First and longest pause before a request is tried again [s]; each is twice the one before, less up to a half."""
BYTES_A_TOKEN = 2000
"""The stream of a text may have so many bytes more for each token that was asked for."""
SMALLEST_EDGE = 224
"""An image whose longer edge is at most this [px] is not made smaller for a server."""
TRIES = 4
"""Tries of a way that fails in passing, before the next best one is tried."""
AGAIN = 60.0
"""After so long [s] better ways that failed in passing are tried again."""
END = 0.5
"""Time [s] to wait for the end of a stream when all words are there."""
SHOWN = 300
"""Most characters of a server's message that are shown."""
_BUSY = {408, 425, 429, 502, 503, 504, 520, 521, 522, 523, 524, 529}
_GONE = {404, 405, 410, 501}
_SENT, _MUCH = r"\b(image|image|pixels?|payload|body|entity|file)", r"\b(too (large|big)|exceed|larger than|maximum)"
_TOO_LARGE = re.compile(rf"{_SENT}\b.{{0,80}}{_MUCH}|{_MUCH}\b.{{0,80}}{_SENT}", re.IGNORECASE)
_NEVER = re.compile(r"not (supported|implemented)|unsupported|mmproj", re.IGNORECASE)
_LOG = logging.getLogger(__name__)
T = TypeVar("T")


class _Way(Protocol):
    """What `wire.Way` and `wire.Words` have in common."""

    name: str
    path: str

    def probe(self, image: EncodedImage | None) -> wire.Body: ...
    def accept(self, response: wire.Body) -> None: ...


W = TypeVar("W", bound=_Way)


@dataclass
class _Ways(Generic[W]):
    """The `known` ways to do something, best first, and which of them the server knows.

    `better` ones than `found` failed in passing; they are tried again at `again` [s, monotonic].
    """

    known: Sequence[W]
    what: str
    found: W | None = None
    better: list[W] = field(default_factory=list)
    again: float = 0.0

    def settle(self, way: W, better: Sequence[W]) -> None:
        """Go `way`, and try the `better` ones again later."""
        self.found, self.better, self.again = way, list(better), time.monotonic() + AGAIN


class _BusyError(Exception):
    """Try again, not before `pause` [s]."""

    def __init__(self, problem: str, pause: float = 0.0) -> None:
        super().__init__(problem)
        self.pause = pause


class _FailedError(RefusedError):
    """The server failed, which may pass."""


class _TooLargeError(RefusedError):
    """The image is too large for the server."""


class RemoteModel:
    """A model behind the address `http(s)://host:port[/path][#model]`, see `vlm_perception.models.base.Model`.

    The server is asked at once which way it knows. Without a model's name its only one answers. Certificates are
    verified with the system's authorities, or those of SSL_CERT_FILE; proxies are taken from the environment; no
    redirection is followed; a key goes to the server that it is for, see `address.py`. The longer edge of an image is
    at most `image_size` [px] if given. Probabilities are the server's, with the temperatures of `calibration`;
    `wire.py` says which are exact. The confidence of a `Text` is 0 when the server does not tell. `Usage` has the
    server's count of tokens and the time measured here; `peak_memory` is 0.
    """

    scope: Scope | None = None

    def __init__(
        self, url: str, limits: RequestLimits | None = None, calibration: Calibration | None = None, image_size: int = 0
    ) -> None:
        self._url, self._model = read_endpoint(url)
        self.name = url
        self._limits = limits or RequestLimits()
        self._calibration = Calibration(calibration.temperatures) if calibration else Calibration()
        self._edge = image_size
        self._client, self._without_key, self._facts = connect(self._url, self._limits)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=_serve, args=(self._loop, self._client), name="remote model", daemon=True).start()
        weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)
        self._last: tuple[int, list[tuple[np.ndarray, EncodedImage]]] = (0, [])
        self._deadline = 0.0
        self._problem: str | None = None
        self._found_at = -math.inf
        self._closed = _Ways(wire.WAYS, "asked about images")
        self._words = _Ways(wire.SPEECH, "asked for words about images")
        self._background: asyncio.Task[None] | None = None
        try:
            self._run(self._find(self._closed))
        except ValueError as error:  # of the client: there is no question yet that could be wrong
            raise ModelError(f"{self.name} cannot be asked: {self._shown(error)}") from None

    def answer(self, image: np.ndarray, questions: Sequence[Question]) -> list[Answer]:
        """Answer all questions about one image, see `Model.answer`."""
        return self.answer_batch([image], questions)[0]

    def answer_batch(self, images: Sequence[np.ndarray], questions: Sequence[Question]) -> list[list[Answer]]:
        """Answer all questions about every image, see `Model.answer_batch`."""
        for image in images:
            check_image(image)
        if not images or not questions:
            return [[] for _ in images]
        return self._run(self._fit(images, questions))

    def describe_self(self) -> dict[str, str]:
        """Facts for diagnostics, as words."""
        better = "; better ones failed in passing and are tried again" if self._closed.better else ""
        return {
            "model": self.name,
            "family": "remote",
            "way": f"{self._closed.found.name}{better}" if self._closed.found else "not known yet",
            "words": self._words.found.name if self._words.found else "not known yet",
            **self._facts,
        }

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, or a ModelError when its time is over."""
        timeout = self._limits.timeout
        self._problem = None
        self._deadline = time.monotonic() + timeout

        async def timed() -> T:
            return await asyncio.wait_for(work, timeout)

        try:
            return asyncio.run_coroutine_threadsafe(timed(), self._loop).result()
        except asyncio.TimeoutError:
            problem = f"; last: {self._problem}" if self._problem else ": is the server overloaded?"
            raise ModelError(f"{self.name} has not answered within {timeout:g} s{problem}") from None
        except RefusedError as error:
            raise ModelError(f"{self.name}: {self._shown(error)}") from None

    def _shown(self, words: object) -> str:
        """The words of a server as they may be shown: first without the key, then cut."""
        return one_line(self._without_key(str(words)), SHOWN)

    async def _fit(self, images: Sequence[np.ndarray], questions: Sequence[Question]) -> list[list[Answer]]:
        """As `answer_batch`; with smaller images, now and later, when the server finds them too large."""
        before = edge = self._edge
        while True:
            try:
                answers = await self._answer(images, questions, edge)
            except _TooLargeError as error:
                longest = max(max(image.shape[:2]) for image in images)
                edge = min(longest, edge or longest) // 2
                if edge < SMALLEST_EDGE:
                    raise ModelError(
                        f"{self.name} finds the request too large: {self._shown(error)}. Raise the limit of the "
                        "server, or of the proxy before it (nginx: client_max_body_size), or ask less at once"
                    ) from None
            else:
                if edge != before:
                    self._edge = edge
                    words = "%s finds the images too large: they are sent with at most %d px from now on (image_size)"
                    _LOG.warning(words, self.name, edge)
                return answers

    async def _answer(
        self, images: Sequence[np.ndarray], questions: Sequence[Question], edge: int
    ) -> list[list[Answer]]:
        closed = list(dict.fromkeys(question for question in questions if isinstance(question, ClosedQuestion)))
        texts = list(dict.fromkeys(question for question in questions if isinstance(question, Text)))
        started = time.monotonic()
        jobs: list[Coroutine[Any, Any, dict[Question, Answer]]] = []
        places: list[int] = []
        way = await self._find(self._closed) if closed else None
        words = await self._find(self._words) if texts else None
        for place, image in enumerate(self._encoded(images, edge)):
            if way:
                some = range(0, len(closed), way.at_once)
                jobs += [self._decide(way, image, closed[i : i + way.at_once], started) for i in some]
            if words:
                jobs += [self._say(words, image, text, started) for text in texts]
            places += [place] * (len(jobs) - len(places))
        found: list[dict[Question, Answer]] = [{} for _ in images]
        for place, answers in zip(places, await _all(jobs), strict=True):
            found[place].update(answers)
        self._improve_later()
        return [[answers[question] for question in questions] for answers in found]

    def _encoded(self, images: Sequence[np.ndarray], edge: int) -> list[EncodedImage]:
        """Each image's file, from the last call if it was about the same ones and they cannot have changed."""
        before, last = self._last
        known = {id(image): file for image, file in last if not image.flags.writeable and before == edge}
        files = [known.get(id(image)) or wire.encode(image, edge) for image in images]
        self._last = edge, list(zip(images, files, strict=True))
        return files

    async def _decide(
        self, way: wire.Way, image: EncodedImage, questions: Sequence[ClosedQuestion], started: float
    ) -> dict[Question, Answer]:
        asked = [wire.harmless(question) for question in questions]
        response = await self._post(way.path, way.request(image, asked))
        rows = way.probabilities(response, asked)
        seconds = time.monotonic() - started
        usage = Usage(seconds, seconds, wire.tokens(response)[1], 0)
        answers: dict[Question, Answer] = {}
        for question, row in zip(questions, rows, strict=True):
            scores = [math.log(p) if p else -math.inf for p in row]  # of a softmax that makes the sum 1
            answers[question] = replace(self._calibration.answer(question, scores, None), usage=usage)
        return answers

    async def _say(
        self, words: wire.ChatStream, image: EncodedImage, question: Text, started: float
    ) -> dict[Question, Answer]:
        async def listen(response: httpx2.Response) -> tuple[wire.Heard, float]:
            heard, first, lines, end = wire.Heard(), 0.0, wire.Lines(), math.inf
            most = MOST_BYTES + BYTES_A_TOKEN * question.max_new_tokens
            async with contextlib.aclosing(chunks_of(response, most)) as chunks:
                chunk = b"-"
                while chunk and not heard.done:
                    try:
                        left = end - time.monotonic() if heard.finished else None
                        chunk = await asyncio.wait_for(anext(chunks, b""), left)
                    except asyncio.TimeoutError:
                        break
                    for line in lines.feed(chunk, final=not chunk):
                        heard.hear(line)
                    first = first or (time.monotonic() - started if heard.tokens else 0.0)
                    if heard.finished:
                        end = min(end, time.monotonic() + END)
            heard.end()
            if not heard.finished:
                raise _BusyError("the stream of words ended in the middle")
            return heard, first

        heard, first = await self._send("POST", words.path, words.request(image, wire.harmless(question)), listen)
        seconds = time.monotonic() - started
        usage = Usage(seconds, first or seconds, heard.tokens, 0)
        text = self._without_key(heard.text)
        return {question: Answer(text, heard.confidence, usage=usage)}

    # Which way?

    async def _find(self, ways: _Ways[W]) -> W:
        """The best of `ways` in which the server looks at an image."""
        while ways.found is None:
            refused: dict[str, list[str]] = {}
            busy, better = False, []
            for way in ways.known:
                try:
                    await self._patiently(partial(self._look, way))
                except (RefusedError, _BusyError) as error:
                    busy |= isinstance(error, _BusyError)
                    if isinstance(error, _BusyError | _FailedError):
                        better.append(way)
                    refused.setdefault(self._shown(error), []).append(way.name)
                else:
                    ways.settle(way, better)
                    self._found_at = time.monotonic()
                    return way
            if not busy:
                raise ModelError(
                    f"{self.name} cannot be {ways.what}. Does a vision model run there, is its name right? "
                    f"{await self._names()}. "
                    + "; ".join(f"{', '.join(names)}: {problem}" for problem, names in refused.items())
                )
        return ways.found

    async def _look(self, way: _Way) -> None:
        """Raise RefusedError unless the server looks at an image in this way; _BusyError."""
        image = wire.encode(EMPTY_PICTURE)
        response = await self._once("POST", way.path, way.probe(image), read_body)
        way.accept(response)
        seen, _ = wire.tokens(response)
        blind, _ = wire.tokens(await self._once("POST", way.path, way.probe(None), read_body))
        if seen == blind:  # the words are the same
            raise RefusedError(f"it does not look at the image ({blind} tokens without it, {seen} with it)")

    def _improve_later(self) -> None:
        """Try again, when it is time and while others are answered, the better ways that failed in passing."""
        due = [w for w in (self._closed, self._words) if w.better and time.monotonic() >= w.again]
        if due and (self._background is None or self._background.done()):
            work = asyncio.wait_for(self._improve(due), self._limits.timeout)
            self._background = asyncio.ensure_future(work)

    async def _improve(self, due: Sequence[_Ways[Any]]) -> None:
        for ways in due:
            ways.again = time.monotonic() + AGAIN
            for number, way in enumerate(list(ways.better)):
                try:
                    await self._look(way)
                except (_BusyError, _FailedError):
                    continue
                except (RefusedError, ModelError):
                    ways.better.remove(way)
                    continue
                _LOG.warning("%s is asked in a better way from now on: %s", self.name, way.name)
                ways.settle(way, ways.better[:number])
                break

    def _forget(self) -> None:
        """Find out again next time: another server or model may be there by now."""
        self._closed.found = self._words.found = None

    async def _names(self) -> str:
        try:
            models = (await self._patiently(lambda: self._once("GET", "/v1/models", None, read_body)))["data"]
            names = ", ".join(str(model["id"]) for model in models[:20])
        except (RefusedError, _BusyError, LookupError, TypeError, AttributeError):
            names = ""
        return f"The server lists {self._shown(names) or 'no models'}; a name goes behind the address as #name"

    # Over the network

    async def _post(self, path: str, body: wire.Body) -> wire.Body:
        return await self._send("POST", path, body, read_body)

    async def _send(
        self, method: str, path: str, body: wire.Body | None, read: Callable[[httpx2.Response], Awaitable[T]]
    ) -> T:
        """Send, until it succeeds or the call's time is over. Raises RefusedError, ModelError."""
        return await self._patiently(lambda: self._once(method, path, body, read), math.inf, failures=False)

    async def _patiently(
        self, attempt: Callable[[], Coroutine[Any, Any, T]], tries: float = TRIES, failures: bool = True
    ) -> T:
        """The result of an attempt, of which there are at most so many `tries` while the server is busy, or fails."""
        pause = BACK_OFF[0]
        while True:
            wait = pause * random.uniform(0.5, 1.0)
            pause = min(2 * pause, BACK_OFF[1])
            tries -= 1
            try:
                return await attempt()
            except (_BusyError, _FailedError) as error:
                if tries <= 0 or (isinstance(error, _FailedError) and not failures):
                    raise
                asked = getattr(error, "pause", 0.0)
                self._problem = self._shown(error)
                if time.monotonic() + asked > self._deadline:
                    raise ModelError(f"{self.name}: {self._problem}, to be tried again in {asked:.0f} s") from None
            await asyncio.sleep(max(wait, asked))

    async def _once(
        self, method: str, path: str, body: wire.Body | None, read: Callable[[httpx2.Response], Awaitable[T]]
    ) -> T:
        """Send once. Raises RefusedError, ModelError, _BusyError."""
        if body is not None and self._model:
            body = {"model": self._model, **body}
        try:
            async with self._client.stream(method, self._url + path, json=body) as response:
                await self._check(response)
                return await read(response)
        except httpx2.TransportError as error:
            if is_untrusted(error):
                raise ModelError(
                    f"{self.name}: the server's certificate is not trusted ({self._shown(error)}): "
                    "set SSL_CERT_FILE to the certificate of its authority"
                ) from None
            if isinstance(error, httpx2.ConnectError):
                self._forget()
            raise _BusyError(f"{type(error).__name__} {error}: does the server run there?") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise RefusedError(f"{type(error).__name__} {error}") from None
        finally:
            self._client.cookies.clear()  # they are not needed, and a server could send any number

    async def _check(self, response: httpx2.Response) -> None:
        """Raise what a status other than success means."""
        status = response.status_code
        if response.is_success:
            return
        if response.is_redirect:
            raise ModelError(
                f"{self.name} redirects to {self._shown(redirection(response.headers.get('location', '')))}, "
                "which is not followed: give the final address"
            )
        words = wire.reason(self._without_key(await text_of(response)))
        problem = f"HTTP {status} {words}"
        if status in _BUSY:
            raise _BusyError(problem, retry_after(response.headers.get("retry-after", "")))
        if status in (401, 403):
            raise ModelError(
                f"{self.name} refuses the key ({self._shown(problem)}): set {API_KEY} to {origin(self._url)}=KEY"
            )
        if status == 413 or (status in (400, 422) and _TOO_LARGE.search(words)):
            raise _TooLargeError(problem)
        if status >= 500 and status not in _GONE and not _NEVER.search(words):
            raise _FailedError(problem)
        if status in _GONE or time.monotonic() - self._found_at > AGAIN:
            self._forget()
        raise RefusedError(problem)


async def _all(jobs: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, at once; when one fails, the others end too."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _serve(loop: asyncio.AbstractEventLoop, client: httpx2.AsyncClient) -> None:
    """Run the loop until it is stopped, when the model is no longer used."""
    loop.run_forever()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(client.aclose())
    loop.close()
