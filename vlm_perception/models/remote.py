"""A model on a server, which many robots can share; how it is asked is in `wire.py`.

The best way that a server knows is found out once, by a probe with a picture and one of the same words without: the
server must have read another number of tokens. So neither a server without eyes nor one that ignores a field that it
does not know can pass for one that looks.

What can go wrong takes bounded time and ends in a ModelError, never in a guess. Busy servers and lost
connections are tried again, with pauses that grow, until the time of the call is over.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import os
import random
import ssl
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import httpx2
import numpy as np

from vlm_perception.models import wire
from vlm_perception.models.base import ModelError, check_image
from vlm_perception.models.calibration import EMPTY_PICTURE, Calibration
from vlm_perception.models.scope import Scope
from vlm_perception.models.wire import Picture, RefusedError
from vlm_perception.questions import Answer, ClosedQuestion, Question, Text, Usage

API_KEY = "VLM_PERCEPTION_API_KEY"
"""The environment variable with the key that is sent as a bearer token."""
BACK_OFF = (0.25, 4.0)
"""First and longest pause before a request is tried again [s]; each is twice the one before, less up to a half."""
_BUSY = (429, 502, 503, 504)
_CLOSED = "asked about pictures"
T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """`timeout` [s] of a whole call with all its tries, `connect_timeout` [s] of each; requests `in_flight` at once."""

    timeout: float = 20.0
    connect_timeout: float = 3.0
    in_flight: int = 4

    def __post_init__(self) -> None:
        for name in ("timeout", "connect_timeout"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} is {getattr(self, name)}, expected seconds above 0")
        if self.in_flight < 1:
            raise ValueError(f"in_flight is {self.in_flight}, expected at least 1")


def is_url(name: str) -> bool:
    """Whether the name of a model is the address of a server."""
    return name.lower().startswith(("http://", "https://"))


def read_url(url: str) -> tuple[str, str]:
    """Split `http://host:8000#model` into the server's address and the model's name, empty where none is given.

    The address may end with /v1. Raises ModelError when it is no address of a server or holds a secret.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not is_url(url) or not host:
        raise ModelError("the model's address cannot be read, expected e.g. http://host:8000 or http://host:8000#model")
    if parts.username or parts.password or parts.query:
        # Not repeated here: what is in it may be secret.
        raise ModelError(
            f"the address of the model on {host} holds a user, a password or a query, expected e.g. "
            f"http://host:8000#model; a key belongs into the environment variable {API_KEY}"
        )
    path = parts.path.rstrip("/").removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc}{path}", parts.fragment


class _Way(Protocol):
    """What `wire.Way` and `wire.Words` have in common."""

    name: str
    path: str

    def probe(self, picture: Picture | None) -> wire.Body: ...
    def accept(self, response: wire.Body) -> None: ...


W = TypeVar("W", bound=_Way)


class _BusyError(Exception):
    """Try again, not before `pause` [s]."""

    def __init__(self, problem: str, pause: float = 0.0) -> None:
        super().__init__(problem)
        self.pause = pause


class RemoteModel:
    """A model behind the address `http(s)://host:port[/path][#model]`, see `vlm_perception.models.base.Model`.

    The server is asked at once which way it knows. Without a model's name its only one answers. Certificates are
    verified with the system's authorities, or those of SSL_CERT_FILE; proxies are taken from the environment; no
    redirection is followed. Probabilities are the server's, with the temperatures of `calibration`; `wire.py` says
    which are exact. The confidence of a `Text` is 0 when the server does not tell. `Usage` has the server's count
    of tokens and the time measured here; `peak_memory` is 0.
    """

    scope: Scope | None = None

    def __init__(self, url: str, limits: Limits | None = None, calibration: Calibration | None = None) -> None:
        self._url, self._model = read_url(url)
        self.name = url
        self._limits = limits or Limits()
        self._calibration = Calibration(calibration.temperatures) if calibration else Calibration()
        headers, self._clean = _key()
        self._client = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(None, connect=self._limits.connect_timeout),  # the whole has a time of its own
            limits=httpx2.Limits(max_connections=self._limits.in_flight, keepalive_expiry=60.0),  # others wait
            follow_redirects=False,
        )
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=_serve, args=(self._loop, self._client), name="remote model", daemon=True).start()
        weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)
        self._last: list[tuple[np.ndarray, Picture]] = []
        self._deadline = 0.0
        self._problem = ""
        self._words: wire.Words | None = None
        self._way: wire.Way | None = self._run(self._find(wire.WAYS, _CLOSED))

    def answer(self, image: np.ndarray, questions: Sequence[Question]) -> list[Answer]:
        """Answer all questions about one picture, see `Model.answer`."""
        return self.answer_batch([image], questions)[0]

    def answer_batch(self, images: Sequence[np.ndarray], questions: Sequence[Question]) -> list[list[Answer]]:
        """Answer all questions about every picture, see `Model.answer_batch`."""
        for image in images:
            check_image(image)
        if not images or not questions:
            return [[] for _ in images]
        return self._run(self._answer(images, questions))

    def describe_self(self) -> dict[str, str]:
        """Facts for diagnostics, as words."""
        return {
            "model": self.name,
            "family": "remote",
            "way": self._way.name if self._way else "not known yet",
            "words": self._words.name if self._words else "not known yet",
            "encrypted": "yes" if self._url.startswith("https") else "no",
            "key": f"from {API_KEY}" if "authorization" in self._client.headers else "none",
        }

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, or a ModelError when its time is over."""
        timeout = self._limits.timeout
        self._problem = ""
        self._deadline = time.monotonic() + timeout

        async def timed() -> T:
            return await asyncio.wait_for(work, timeout)

        try:
            return asyncio.run_coroutine_threadsafe(timed(), self._loop).result()
        except asyncio.TimeoutError:
            problem = f"; last: {self._problem}" if self._problem else ": is the server overloaded?"
            raise ModelError(f"{self.name} has not answered within {timeout:g} s{problem}") from None
        except RefusedError as error:
            raise ModelError(f"{self.name}: {error}") from None

    async def _answer(self, images: Sequence[np.ndarray], questions: Sequence[Question]) -> list[list[Answer]]:
        closed = list(dict.fromkeys(question for question in questions if isinstance(question, ClosedQuestion)))
        texts = list(dict.fromkeys(question for question in questions if isinstance(question, Text)))
        started = time.monotonic()
        jobs: list[Coroutine[Any, Any, dict[Question, Answer]]] = []
        places: list[int] = []
        if closed and self._way is None:
            self._way = await self._find(wire.WAYS, _CLOSED)
        if texts and self._words is None:
            self._words = await self._find(wire.SPEECH, "asked for words about pictures")
        for place, picture in enumerate(self._encoded(images)):
            if way := self._way:
                some = range(0, len(closed), way.at_once)
                jobs += [self._decide(way, picture, closed[i : i + way.at_once], started) for i in some]
            if words := self._words:
                jobs += [self._say(words, picture, text, started) for text in texts]
            places += [place] * (len(jobs) - len(places))
        found: list[dict[Question, Answer]] = [{} for _ in images]
        for place, answers in zip(places, await _all(jobs), strict=True):
            found[place].update(answers)
        return [[answers[question] for question in questions] for answers in found]

    def _encoded(self, images: Sequence[np.ndarray]) -> list[Picture]:
        """Each picture's file, from the last call if it was about the same ones and they cannot have changed."""
        known = {id(image): picture for image, picture in self._last if not image.flags.writeable}
        pictures = [known.get(id(image)) or wire.encode(image) for image in images]
        self._last = list(zip(images, pictures, strict=True))
        return pictures

    async def _decide(
        self, way: wire.Way, picture: Picture, questions: Sequence[ClosedQuestion], started: float
    ) -> dict[Question, Answer]:
        response = await self._post(way.path, way.request(picture, questions))
        rows = way.probabilities(response, questions)
        seconds = time.monotonic() - started
        usage = Usage(seconds, seconds, wire.tokens(response)[1], 0)
        answers: dict[Question, Answer] = {}
        for question, row in zip(questions, rows, strict=True):
            scores = [math.log(p) if p else -math.inf for p in row]  # of a softmax that makes the sum 1
            answers[question] = replace(self._calibration.answer(question, scores, None), usage=usage)
        return answers

    async def _say(self, words: wire.Words, picture: Picture, question: Text, started: float) -> dict[Question, Answer]:
        async def listen(response: httpx2.Response) -> tuple[wire.Heard, float]:
            heard, first = wire.Heard(), 0.0
            async for line in response.aiter_lines():
                heard.hear(line)
                first = first or (time.monotonic() - started if heard.tokens else 0.0)
            if not heard.finished:
                raise _BusyError("the stream of words ended in the middle")
            return heard, first

        heard, first = await self._send("POST", words.path, words.request(picture, question), listen)
        seconds = time.monotonic() - started
        usage = Usage(seconds, first or seconds, heard.tokens, 0)
        return {question: Answer(question.name, heard.text.strip(), heard.confidence, usage=usage)}

    # Which way?

    async def _find(self, ways: Sequence[W], what: str) -> W:
        """The first of `ways` in which the server looks at a picture."""
        refused: dict[str, list[str]] = {}
        picture = wire.encode(EMPTY_PICTURE)
        for way in ways:
            try:
                response = await self._post(way.path, way.probe(picture))
                way.accept(response)
                seen, _ = wire.tokens(response)
                blind, _ = wire.tokens(await self._post(way.path, way.probe(None)))
                if seen != blind:  # the words are the same
                    return way
                problem = f"it does not look at the picture ({blind} tokens without it, {seen} with it)"
            except RefusedError as error:
                problem = str(error)
            refused.setdefault(problem, []).append(way.name)
        raise ModelError(
            f"{self.name} cannot be {what}. Does a vision model run there, is its name right? {await self._names()}. "
            + "; ".join(f"{', '.join(names)}: {problem}" for problem, names in refused.items())
        )

    def _forget(self) -> None:
        """Find out again next time: another server or model may be there by now."""
        self._way = self._words = None

    async def _names(self) -> str:
        try:
            models = (await self._send("GET", "/v1/models", None, _read))["data"]
            names = ", ".join(str(model["id"]) for model in models)
        except (RefusedError, LookupError, TypeError):
            names = ""
        return f"The server lists {names or 'no models'}; a name goes behind the address as #name"

    # Over the network

    async def _post(self, path: str, body: wire.Body) -> wire.Body:
        return await self._send("POST", path, body, _read)

    async def _send(
        self, method: str, path: str, body: wire.Body | None, read: Callable[[httpx2.Response], Awaitable[T]]
    ) -> T:
        """Send, until it succeeds or the call's time is over. Raises RefusedError, ModelError."""
        if body is not None and self._model:
            body = {"model": self._model, **body}
        pause = BACK_OFF[0]
        while True:
            wait = pause * random.uniform(0.5, 1.0)
            pause = min(2 * pause, BACK_OFF[1])
            try:
                async with self._client.stream(method, self._url + path, json=body) as response:
                    await self._check(response)
                    return await read(response)
            except httpx2.TransportError as error:
                if _is_untrusted(error):
                    raise ModelError(
                        f"{self.name}: the server's certificate is not trusted ({self._clean(str(error))}): "
                        "set SSL_CERT_FILE to the certificate of its authority"
                    ) from None
                if isinstance(error, httpx2.ConnectError):
                    self._forget()
                self._problem = self._clean(f"{type(error).__name__} {error}: does the server run there?")
            except _BusyError as error:
                self._problem = str(error)
                wait = max(wait, error.pause)
                if time.monotonic() + error.pause > self._deadline:
                    raise ModelError(f"{self.name}: {error}, to be tried again in {error.pause:.0f} s") from None
            await asyncio.sleep(wait)

    async def _check(self, response: httpx2.Response) -> None:
        """Raise what a status other than success means."""
        status = response.status_code
        if response.is_success:
            return
        words = self._clean(_reason(await response.aread()))
        if status in _BUSY:
            raise _BusyError(f"HTTP {status} {words}", _retry_after(response.headers.get("retry-after", "")))
        if status in (401, 403):
            raise ModelError(f"{self.name} refuses the key (HTTP {status} {words}): set {API_KEY}")
        if response.is_redirect:
            location = urlsplit(response.headers.get("location", ""))
            where = f"{location.scheme}://{location.hostname}" if location.hostname else "another place"
            raise ModelError(f"{self.name} redirects to {where}, which is not followed: give the final address")
        self._forget()
        raise RefusedError(f"HTTP {status} {words}")


def _key() -> tuple[dict[str, str], Callable[[str], str]]:
    """The header with the key, and a function that takes the key out of a text: a server may repeat it."""
    key = os.environ.get(API_KEY, "").strip()
    if not key:
        return {}, str
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ModelError(f"the key in {API_KEY} has characters that no key has: was it copied whole?")
    return {"Authorization": f"Bearer {key}"}, lambda text: text.replace(key, "<key>")


async def _read(response: httpx2.Response) -> wire.Body:
    try:
        body = json.loads(await response.aread())
    except ValueError:
        raise RefusedError("its answer is no JSON") from None
    if not isinstance(body, dict):
        raise RefusedError(f"its answer is a {type(body).__name__}, expected a JSON object")
    return body


def _reason(body: bytes) -> str:
    """The first words of an error, from the forms that servers give it."""
    text = body.decode("utf-8", "replace")
    try:
        error = json.loads(text)
        while isinstance(error, dict | list):
            error = (
                next(error[key] for key in ("error", "detail", "message", "msg") if key in error)
                if isinstance(error, dict)
                else error[0]
            )
        text = str(error)
    except (ValueError, LookupError, StopIteration):
        pass
    return " ".join(text.split())[:200]


def _retry_after(header: str) -> float:
    """Seconds from now, of a Retry-After header of seconds or of a date; 0 where it says nothing."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _is_untrusted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


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
    loop.run_until_complete(client.aclose())
    loop.close()
