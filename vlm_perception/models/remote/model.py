"""A model on a server, which many robots can share.

Every fault takes bounded time and memory and ends in a ModelError, never in a guess. Busy servers and lost connections
are tried again, with growing pauses, until the time of the call is over. A way that failed in passing while it was
tried is tried again later. An image that the server finds too large is sent smaller from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
import weakref
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import httpx2
import numpy as np

from vlm_perception.models.base import ModelError, check_image
from vlm_perception.models.calibration import Calibration
from vlm_perception.models.remote import image_file
from vlm_perception.models.remote.chat_stream import ChatStream, LineDecoder, StreamedReply
from vlm_perception.models.remote.endpoint import read_endpoint
from vlm_perception.models.remote.http_client import MOST_BYTES, RequestLimits, chunks_of, read_body
from vlm_perception.models.remote.image_file import EncodedImage
from vlm_perception.models.remote.response import RefusedError, token_counts
from vlm_perception.models.remote.session import BusyError, Session, TooLargeError
from vlm_perception.models.remote.way import Way, without_special_tokens
from vlm_perception.models.remote.ways import CLOSED_WAYS, TEXT_WAYS, WayFinder
from vlm_perception.models.scope import Scope
from vlm_perception.questions import Answer, ClosedQuestion, Question, Text, Usage

BYTES_PER_TOKEN = 2000
"""Bytes that the stream of a text may have in addition for each requested token."""
SMALLEST_EDGE = 224
"""Longer edge [px] below which an image is not made smaller for a server."""
END_WAIT = 0.5
"""Time [s] to wait for the end of a stream after its text is complete."""
_LOG = logging.getLogger(__name__)
T = TypeVar("T")


class RemoteModel:
    """A model at the address `http(s)://host:port[/path][#model]`, see `vlm_perception.models.base.Model`.

    The constructor finds out how the server can be asked; ModelError when it cannot. Without a model's name the
    server's only one answers. Certificates are verified with the system's authorities, or those of SSL_CERT_FILE;
    proxies are taken from the environment; no redirection is followed; a key goes to the server that it is for, see
    `endpoint.py`. The longer edge of an image is at most `image_size` [px], 0: no limit. Probabilities are the
    server's, with the temperatures of `calibration`; `ways.py` says which are exact. The confidence of a `Text` is 0
    when the server does not report it. `Usage` has the server's count of tokens and the time measured here;
    `peak_memory` is 0.
    """

    scope: Scope | None = None

    def __init__(
        self, url: str, limits: RequestLimits | None = None, calibration: Calibration | None = None, image_size: int = 0
    ) -> None:
        self.name = url
        self._limits = limits or RequestLimits()
        self._calibration = Calibration(calibration.temperatures) if calibration else Calibration()
        self._edge = image_size
        self._session = Session(read_endpoint(url), self.name, self._limits)
        self._loop = asyncio.new_event_loop()
        arguments = (self._loop, self._session.client)
        threading.Thread(target=_serve, args=arguments, name="remote model", daemon=True).start()
        weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)
        self._last: tuple[int, list[tuple[np.ndarray, EncodedImage]]] = (0, [])
        self._closed = WayFinder(self._session, CLOSED_WAYS, "about images")
        self._texts = WayFinder(self._session, TEXT_WAYS, "for words about images")
        self._background: asyncio.Task[None] | None = None
        try:
            self._run(self._closed.find())
        except ValueError as error:  # of the client: there is no question yet that could be wrong
            raise ModelError(f"{self.name} cannot be asked: {self._session.shown(error)}") from None

    def answer(self, image: np.ndarray, questions: Sequence[Question]) -> list[Answer]:
        """Answer all questions about one image, see `Model.answer`."""
        return self.answer_batch([image], questions)[0]

    def answer_batch(self, images: Sequence[np.ndarray], questions: Sequence[Question]) -> list[list[Answer]]:
        """Answer all questions about every image, see `Model.answer_batch`."""
        for image in images:
            check_image(image)
        if not images or not questions:
            return [[] for _ in images]
        return self._run(self._answer_fitting(images, questions))

    def describe_self(self) -> dict[str, str]:
        """Return facts for diagnostics, as words."""
        better = "; better ones failed in passing and are tried again" if self._closed.better else ""
        return {
            "model": self.name,
            "family": "remote",
            "way": f"{self._closed.found.name}{better}" if self._closed.found else "not known yet",
            "words": self._texts.found.name if self._texts.found else "not known yet",
            **self._session.facts,
        }

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`. Raises ModelError when its time is over."""
        timeout = self._limits.timeout
        self._session.begin(timeout)

        async def timed() -> T:
            return await asyncio.wait_for(work, timeout)

        try:
            return asyncio.run_coroutine_threadsafe(timed(), self._loop).result()
        except asyncio.TimeoutError:
            last = self._session.problem
            problem = f"; last: {last}" if last else ": is the server overloaded?"
            raise ModelError(f"{self.name} has not answered within {timeout:g} s{problem}") from None
        except RefusedError as error:
            raise ModelError(f"{self.name}: {self._session.shown(error)}") from None

    async def _answer_fitting(self, images: Sequence[np.ndarray], questions: Sequence[Question]) -> list[list[Answer]]:
        """Answer as `answer_batch` does, with smaller images, now and later, when the server finds them too large."""
        before = edge = self._edge
        while True:
            try:
                answers = await self._answer(images, questions, edge)
            except TooLargeError as error:
                longest = max(max(image.shape[:2]) for image in images)
                edge = min(longest, edge or longest) // 2
                if edge < SMALLEST_EDGE:
                    raise ModelError(
                        f"{self.name} finds the request too large: {self._session.shown(error)}. Raise the limit of "
                        "the server, or of the proxy before it (nginx: client_max_body_size), or ask less at once"
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
        way = await self._closed.find() if closed else None
        text_way = await self._texts.find() if texts else None
        for place, image in enumerate(self._encoded(images, edge)):
            if way:
                some = range(0, len(closed), way.at_once)
                jobs += [self._decide(way, image, closed[i : i + way.at_once], started) for i in some]
            if text_way:
                jobs += [self._say(text_way, image, text, started) for text in texts]
            places += [place] * (len(jobs) - len(places))
        found: list[dict[Question, Answer]] = [{} for _ in images]
        for place, answers in zip(places, await _all(jobs), strict=True):
            found[place].update(answers)
        self._improve_later()
        return [[answers[question] for question in questions] for answers in found]

    def _encoded(self, images: Sequence[np.ndarray], edge: int) -> list[EncodedImage]:
        """Return each image's file; that of the last call for the same images, if they cannot have changed."""
        before, last = self._last
        known = {id(image): file for image, file in last if not image.flags.writeable and before == edge}
        files = [known.get(id(image)) or image_file.encode(image, edge) for image in images]
        self._last = edge, list(zip(images, files, strict=True))
        return files

    async def _decide(
        self, way: Way, image: EncodedImage, questions: Sequence[ClosedQuestion], started: float
    ) -> dict[Question, Answer]:
        asked = [without_special_tokens(question) for question in questions]
        response = await self._session.request("POST", way.path, way.request(image, asked), read_body)
        rows = way.probabilities(response, asked)
        seconds = time.monotonic() - started
        usage = Usage(seconds, seconds, token_counts(response)[1], 0)
        answers: dict[Question, Answer] = {}
        for question, row in zip(questions, rows, strict=True):
            scores = [math.log(p) if p else -math.inf for p in row]  # a softmax follows, which makes their sum 1
            answers[question] = replace(self._calibration.answer(question, scores, None), usage=usage)
        return answers

    async def _say(
        self, way: ChatStream, image: EncodedImage, question: Text, started: float
    ) -> dict[Question, Answer]:
        async def listen(response: httpx2.Response) -> tuple[StreamedReply, float]:
            reply, first, lines, end = StreamedReply(), 0.0, LineDecoder(), math.inf
            most = MOST_BYTES + BYTES_PER_TOKEN * question.max_new_tokens
            async with contextlib.aclosing(chunks_of(response, most)) as chunks:
                chunk = b"-"
                while chunk and not reply.done:
                    try:
                        left = end - time.monotonic() if reply.finished else None
                        chunk = await asyncio.wait_for(anext(chunks, b""), left)
                    except asyncio.TimeoutError:
                        break
                    for line in lines.decode(chunk, final=not chunk):
                        reply.take_line(line)
                    first = first or (time.monotonic() - started if reply.tokens else 0.0)
                    if reply.finished:
                        end = min(end, time.monotonic() + END_WAIT)
            reply.end()
            if not reply.finished:
                raise BusyError("the stream of words ended in the middle")
            return reply, first

        body = way.request(image, without_special_tokens(question))
        reply, first = await self._session.request("POST", way.path, body, listen)
        seconds = time.monotonic() - started
        usage = Usage(seconds, first or seconds, reply.tokens, 0)
        text = self._session.without_key(reply.text)
        return {question: Answer(text, reply.confidence, usage=usage)}

    def _improve_later(self) -> None:
        """Begin to try the better ways that failed in passing, when they are due, while other calls are answered."""
        due = [finder for finder in (self._closed, self._texts) if finder.is_due]
        if due and (self._background is None or self._background.done()):
            work = asyncio.wait_for(self._improve(due), self._limits.timeout)
            self._background = asyncio.ensure_future(work)

    async def _improve(self, due: Sequence[WayFinder[Any]]) -> None:
        for finder in due:
            if way := await finder.improve():
                _LOG.warning("%s is asked in a better way from now on: %s", self.name, way.name)


async def _all(jobs: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of all `jobs`, done at once; when one fails, end the others too."""
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
