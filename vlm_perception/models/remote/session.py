"""Requests to one server: tried again while it is busy, until the time of the call is over. Statuses become errors."""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import httpx2

from vlm_perception.models.base import ModelError
from vlm_perception.models.remote.endpoint import API_KEY, Endpoint, origin
from vlm_perception.models.remote.http_client import (
    RequestLimits,
    connect,
    is_untrusted,
    redirection,
    retry_after,
    text_of,
)
from vlm_perception.models.remote.response import Body, RefusedError, reason
from vlm_perception.text import one_line

BACK_OFF = (0.25, 4.0)
"""First and longest pause [s] before a request is tried again. Each is twice the last, less up to a half at random."""
TRIES = 4
"""Most tries of a probe that fails in passing."""
STALE = 60.0
"""A refusal this long [s] after `confirm` may mean that another model runs there now."""
SHOWN = 300
"""Most characters of a server's message that are shown."""
_BUSY = {408, 425, 429, 502, 503, 504, 520, 521, 522, 523, 524, 529}
_GONE = {404, 405, 410, 501}
_SENT, _MUCH = r"\b(image|picture|pixels?|payload|body|entity|file)", r"\b(too (large|big)|exceed|larger than|maximum)"
_TOO_LARGE = re.compile(rf"{_SENT}\b.{{0,80}}{_MUCH}|{_MUCH}\b.{{0,80}}{_SENT}", re.IGNORECASE)
_NEVER = re.compile(r"not (supported|implemented)|unsupported|mmproj", re.IGNORECASE)
T = TypeVar("T")


class BusyError(Exception):
    """The server is busy or not reached: try again, not before `pause` [s]."""

    def __init__(self, problem: str, pause: float = 0.0) -> None:
        super().__init__(problem)
        self.pause = pause


class FailedError(RefusedError):
    """The server failed, which may pass."""


class TooLargeError(RefusedError):
    """The image is too large for the server."""


class Session:
    """Requests to the server at an `endpoint`, which errors call by `name`.

    `begin` starts the time of a call. `problem` says why the last try failed, None if none did. `epoch` changes
    whenever another server or model may be there. `facts` are for diagnostics.
    """

    def __init__(self, endpoint: Endpoint, name: str, limits: RequestLimits) -> None:
        self.name = name
        self.problem: str | None = None
        self.epoch = 0
        self._url, self._model = endpoint
        self.client, self.without_key, self.facts = connect(self._url, limits)
        self._deadline = 0.0
        self._confirmed_at = -math.inf

    def begin(self, timeout: float) -> None:
        """Begin a call that may take `timeout` [s]."""
        self.problem = None
        self._deadline = time.monotonic() + timeout

    def confirm(self) -> None:
        """Note that the server has just answered as expected."""
        self._confirmed_at = time.monotonic()

    def shown(self, words: object) -> str:
        """Return a server's words as they may be shown: first without the key, then shortened."""
        return one_line(self.without_key(str(words)), SHOWN)

    async def request(
        self, method: str, path: str, body: Body | None, read: Callable[[httpx2.Response], Awaitable[T]]
    ) -> T:
        """Send until it succeeds or the call's time is over. Raises RefusedError, ModelError."""
        return await self.retry(lambda: self.request_once(method, path, body, read), math.inf, failures=False)

    async def retry(
        self, attempt: Callable[[], Coroutine[Any, Any, T]], tries: float = TRIES, failures: bool = True
    ) -> T:
        """Return the result of `attempt`, called at most `tries` times while the server is busy or, if so, `failures`.

        Raises what the last attempt raises, or ModelError when the server asks for a pause beyond the call's time.
        """
        pause = BACK_OFF[0]
        while True:
            wait = pause * random.uniform(0.5, 1.0)
            pause = min(2 * pause, BACK_OFF[1])
            tries -= 1
            try:
                return await attempt()
            except (BusyError, FailedError) as error:
                if tries <= 0 or (isinstance(error, FailedError) and not failures):
                    raise
                asked = getattr(error, "pause", 0.0)
                self.problem = self.shown(error)
                if time.monotonic() + asked > self._deadline:
                    raise ModelError(f"{self.name}: {self.problem}, to be tried again in {asked:.0f} s") from None
            await asyncio.sleep(max(wait, asked))

    async def request_once(
        self, method: str, path: str, body: Body | None, read: Callable[[httpx2.Response], Awaitable[T]]
    ) -> T:
        """Send once and return what `read` makes of the response. Raises RefusedError, ModelError, BusyError."""
        if body is not None and self._model:
            body = {"model": self._model, **body}
        try:
            async with self.client.stream(method, self._url + path, json=body) as response:
                await self._check(response)
                return await read(response)
        except httpx2.TransportError as error:
            if is_untrusted(error):
                raise ModelError(
                    f"{self.name}: the server's certificate is not trusted ({self.shown(error)}): "
                    "set SSL_CERT_FILE to the certificate of its authority"
                ) from None
            if isinstance(error, httpx2.ConnectError):
                self.epoch += 1
            raise BusyError(f"{type(error).__name__} {error}: does the server run there?") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise RefusedError(f"{type(error).__name__} {error}") from None
        finally:
            self.client.cookies.clear()  # they are not needed, and a server could send any number

    async def _check(self, response: httpx2.Response) -> None:
        """Raise the error that a status other than success means."""
        status = response.status_code
        if response.is_success:
            return
        if response.is_redirect:
            raise ModelError(
                f"{self.name} redirects to {self.shown(redirection(response.headers.get('location', '')))}, "
                "which is not followed: give the final address"
            )
        words = reason(self.without_key(await text_of(response)))
        problem = f"HTTP {status} {words}"
        if status in _BUSY:
            raise BusyError(problem, retry_after(response.headers.get("retry-after", "")))
        if status in (401, 403):
            raise ModelError(
                f"{self.name} refuses the key ({self.shown(problem)}): set {API_KEY} to {origin(self._url)}=KEY"
            )
        if status == 413 or (status in (400, 422) and _TOO_LARGE.search(words)):
            raise TooLargeError(problem)
        if status >= 500 and status not in _GONE and not _NEVER.search(words):
            raise FailedError(problem)
        if status in _GONE or time.monotonic() - self._confirmed_at > STALE:
            self.epoch += 1
        raise RefusedError(problem)
