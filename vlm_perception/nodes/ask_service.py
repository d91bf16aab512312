"""The service `ask`: from a message of questions to a message of answers, in time."""

from __future__ import annotations

import concurrent.futures
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future

from vlm_perception.nodes import conversions
from vlm_perception.nodes.classifier_parameters import Parameters
from vlm_perception.nodes.faults import one_line
from vlm_perception.nodes.services import create_service
from vlm_perception.perception.frame import nanoseconds
from vlm_perception.perception.outputs import NotAnsweredError, Reply
from vlm_perception.questions import Question, Text, check_request
from vlm_perception.srv import Ask

MAX_QUESTIONS = 64


@dataclass(frozen=True, eq=False)
class Waiting:
    """A call that waits for its `reply` since `since` [s, monotonic]. The executor's thread completes `outcome`.

    `texts` says that some of its questions ask for a text, `newer` that it waits for a newer image.
    """

    reply: concurrent.futures.Future[Reply]
    outcome: Future
    since: float
    newer: bool
    texts: bool


class AskService:
    """The service `ask` of `node`.

    `ask(camera, questions, newer_than)` returns the future of a reply, or raises an error with the reason.
    `out_of_scope(camera, questions)` returns why the model was not taught to answer the questions, or None.
    `parameters()` returns those of the classifier, `limit(texts)` how long [s] an answer is awaited. `failed` gets the
    error if a response cannot be sent.
    """

    def __init__(
        self,
        node: Node,
        ask: Callable[[str, Sequence[Question], int], concurrent.futures.Future[Reply]],
        out_of_scope: Callable[[str, Iterable[Question]], str | None],
        parameters: Callable[[], Parameters],
        limit: Callable[[bool], float],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._node = node
        self._ask = ask
        self._out_of_scope = out_of_scope
        self._parameters = parameters
        self._limit = limit
        self._waiting: list[Waiting] = []
        # `ask` waits for the worker. In a callback group of its own it does not hold up other callbacks.
        create_service(node, Ask, "ask", self._answer, failed, callback_group=ReentrantCallbackGroup())

    def watch(self) -> None:
        """Fail calls that have waited for too long. Call this some times per second."""
        now = time.monotonic()
        for waiting in list(self._waiting):
            if now - waiting.since < (limit := self._limit(waiting.texts)):
                continue
            why = "the model is busy or too slow"
            if waiting.reply.cancel() and waiting.newer:
                why += ", or no newer image came: is the camera slower?"
            name = " (ask_timeout)" if limit == self._parameters().ask_timeout else ""
            self._complete(waiting, f"no answer within {limit:.2g} s{name}: {why}")

    async def _answer(self, request: Ask.Request, response: Ask.Response) -> Ask.Response:
        try:
            questions = self._read(request)
            reply = self._ask(request.camera, list(questions.values()), nanoseconds(request.newer_than))
            texts = any(isinstance(question, Text) for question in questions.values())
            frame, answers = await self._outcome(reply, bool(nanoseconds(request.newer_than)), texts)
        except Exception as error:  # errors of the model too: the response names them
            response.message = one_line(error)
            return response
        response.success = True
        response.header = frame.header
        response.answers = list(map(conversions.answer_to_message, questions, answers))
        response.inference_time = time.monotonic() - frame.taken
        response.unchanged = frame.unchanged
        response.out_of_scope = self._out_of_scope(request.camera, questions.values()) or ""
        return response

    def _read(self, request: Ask.Request) -> dict[str, Question]:
        """Return the questions by name; raise ValueError for wrong ones."""
        if not 1 <= len(request.questions) <= MAX_QUESTIONS:
            raise ValueError(f"there are {len(request.questions)} questions, expected 1 to {MAX_QUESTIONS}")
        tokens = self._parameters().perception.description.max_new_tokens
        names = Counter(question.name for question in request.questions)
        if repeated := sorted(name for name, count in names.items() if count > 1):
            raise ValueError(
                f"the names {repeated!r:.200} are used more than once, expected another name for each question"
            )
        asked = {question.name: conversions.question_from_message(question, tokens) for question in request.questions}
        check_request(list(asked.values()))
        return asked

    def _outcome(self, reply: concurrent.futures.Future[Reply], newer: bool, texts: bool) -> Future:
        """Return an rclpy future of the `reply`, which fails if it takes too long."""
        waiting = Waiting(reply, Future(), time.monotonic(), newer, texts)
        self._waiting.append(waiting)
        reply.add_done_callback(lambda _: in_executor(self._node, self._complete, waiting))
        return waiting.outcome

    def _complete(self, waiting: Waiting, problem: str | None = None) -> None:
        if waiting not in self._waiting:
            return
        self._waiting.remove(waiting)
        if problem:
            waiting.outcome.set_exception(NotAnsweredError(problem))
        elif error := waiting.reply.exception():
            waiting.outcome.set_exception(error)
        else:
            waiting.outcome.set_result(waiting.reply.result())


def in_executor(node: Node, callback: Callable[..., None], *arguments: Any) -> None:
    """Call `callback` in the thread of the node's executor, from any thread."""
    if (executor := node.executor) is not None:
        executor.create_task(callback, *arguments)
