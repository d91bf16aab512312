"""The one thread that owns the model: it loads, warms up, takes the newest pictures and answers. No ROS."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from vlm_perception.models.base import Model, ModelError, ModelOutOfMemoryError
from vlm_perception.models.scope import Scope
from vlm_perception.perception.frames import FrameError, decode
from vlm_perception.perception.observer import Inquiry, Request, serve
from vlm_perception.perception.portions import OUT_OF_MEMORY, Portions
from vlm_perception.perception.settings import Settings
from vlm_perception.perception.smoothing import SmoothedLabel
from vlm_perception.perception.trace import Trace
from vlm_perception.perception.turns import Turns
from vlm_perception.perception.view import ASKED_AGAIN, NotAnsweredError, Observation, View
from vlm_perception.questions import Answer, Question, Usage

LOOK_AGAIN = 0.1
"""So often [s] it is looked whether who waits for a newer picture still waits for good."""
BACK_OFF = (1.0, 30.0)
"""First and longest pause after the memory ran out [s]."""
LATE = 60.0
"""What is said about a picture that came longer ago [s] is not told any more: nobody waits for it."""
USUAL_SHAPE = (480, 640, 3)
"""Of the warm-up's picture while no other has come."""


class Listener(Protocol):
    """Hears of everything, in the worker's thread; of faults of a stream in the one that puts.

    A fault is that of a `camera`, or, when that is "", of what all of them share.
    """

    def loaded(self, worker: Worker) -> None: ...
    def failed(self, worker: Worker, error: BaseException) -> None: ...
    def labelled(self, picture: Observation, answer: Answer, smoothed: SmoothedLabel) -> None: ...
    def described(self, picture: Observation, answer: Answer) -> None: ...
    def fault(self, camera: str, kind: str, error: BaseException | str) -> None: ...


@dataclass(frozen=True, eq=False)
class Ask:
    """Questions of somebody about a camera's newest picture, once there is a newer one than that of `newer_than` [ns].

    One of `answered` and `failed` is called, in the worker's thread.
    """

    camera: str
    questions: Sequence[Question]
    answered: Callable[[Observation, list[Answer]], None]
    failed: Callable[[Exception], None]
    newer_than: int = 0


class Worker(threading.Thread):
    """Loads a model by `load` and answers about the newest message of each of the `cameras`, while `looking`.

    `clock` returns the time [ns] that the messages' stamps are compared with. A worker that came
    `before` is waited for, so that there are never two models in memory. `state` and `since` [s, monotonic] say what
    it is at, `busy_since` when it began to ask the model, None while it does not. `views` are the cameras by name.
    `at_once` is how many pictures the model was asked about together last; `decision` and `words` are what the last
    closed and free answers cost, as far as the model tells. `scope` is what the model was taught, where that is a
    closed list. Where the time goes is written to the `trace`.
    """

    def __init__(
        self,
        load: Callable[[], Model],
        settings: Settings,
        listener: Listener,
        clock: Callable[[], int],
        cameras: Sequence[str] = ("camera",),
        before: Worker | None = None,
        trace: Trace | None = None,
    ) -> None:
        super().__init__(name="model", daemon=True)
        self.state, self.since = "loading", time.monotonic()
        self.busy_since: float | None = None
        self.views = {camera: self._view(camera, settings, listener, clock, trace) for camera in cameras}
        self.facts: dict[str, str] = {}
        self.scope: Scope | None = None
        self.inference_time = 0.0
        self.at_once = 0
        self.decision: Usage | None = None
        self.words: Usage | None = None
        self._load = load
        self._listener = listener
        self._before = before
        self._settings = settings
        self._looking = False
        self._stopping = False
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._asks: list[Ask] = []
        self._turns = Turns()
        self._failed: set[str] = set()
        self._pause = 0.0
        self._retry_at = 0.0

    @staticmethod
    def _view(
        camera: str, settings: Settings, listener: Listener, clock: Callable[[], int], trace: Trace | None
    ) -> View:
        return View(camera, settings, clock, lambda kind, error: listener.fault(camera, kind, error), trace)

    # For any thread.

    def put(self, camera: str, message: Any) -> None:
        """Offer the newest message of `camera`."""
        if self.views[camera].put(message):
            self._wake.set()

    def watch(self) -> None:
        """Notice what is wrong with the streams; to be called some times a second by the thread that puts."""
        for view in self.views.values():
            view.stream.watch(self._settings.max_age)

    def ask(self, ask: Ask) -> None:
        """Answer `ask` about its camera's newest picture, as soon as the model is free."""
        with self._lock:
            self._asks.append(ask)
        self._wake.set()

    def withdraw(self, ask: Ask) -> bool:
        """Forget `ask` if it has not been taken up yet; whether that was so."""
        with self._lock:
            if waiting := ask in self._asks:
                self._asks.remove(ask)
        return waiting

    def look(self, looking: bool) -> None:
        """Start or stop looking at pictures; stopping forgets what was seen."""
        if looking:
            for view in self.views.values():
                view.begin()
        self._looking = looking
        self._wake.set()

    def change(self, settings: Settings) -> None:
        """Use `settings` from the next picture on."""
        self._settings = settings
        self._wake.set()

    def stop(self) -> None:
        """End as soon as the model lets go, and free it; does not wait."""
        self._looking = False
        self._stopping = True
        self._wake.set()

    # The worker's own thread.

    def run(self) -> None:
        if self._before:
            self.state = "waiting for the last model to let go; if it hangs, end the process"
            self._before.join()
            self._before = None
            self.state, self.since = "loading", time.monotonic()
        try:
            self._run()
        except BaseException as error:  # a library that exits must not leave a node that looks well and never answers
            self.state = "failed"
            self._listener.failed(self, error)
        finally:
            self._fail_all(NotAnsweredError("the classifier was stopped"))

    def _run(self) -> None:
        model = self._load()
        self.scope = getattr(model, "scope", None)
        if problem := self._settings.unknown(self.scope):
            raise ModelError(f"{problem}: change the labels or choose another model")
        portions = Portions(model, lambda error: self._listener.fault("", "out of memory", error))
        if not self._stopping:
            self._warm_up(portions, self._settings)
        self.facts = model.describe_self()
        self.state, self.since = "ready", time.monotonic()
        self._listener.loaded(self)
        while not self._stopping:
            seconds = threading.TIMEOUT_MAX
            try:
                if self._looking:
                    seconds = self._round(portions, self._settings)
                else:
                    self._forget()
            except Exception as error:  # whatever it is, the next picture may be better
                self._listener.fault("", "internal", error)
            self._wake.wait(min(seconds, threading.TIMEOUT_MAX))
            self._wake.clear()

    def _warm_up(self, model: Portions, settings: Settings) -> None:
        """Ask what will be asked, so that the first pictures do not wait for what is only done once."""
        shape: tuple[int, ...] = USUAL_SHAPE
        for waiting in filter(None, (view.newest.peek() for view in self.views.values())):
            with contextlib.suppress(FrameError):
                shape = decode(waiting[0]).image.shape
        black = np.zeros(shape, np.uint8)
        black.flags.writeable = False
        model.answer_batch([black], [settings.label])
        if (most := min(len(self.views), settings.max_batch)) > 1:
            model.answer_batch([black] * most, [settings.label])
        if settings.description_rate:
            words = replace(settings.description, max_new_tokens=2)  # one more is like the second
            try:
                model.answer_batch([black], [words])
            except ModelError as error:
                if isinstance(error, ModelOutOfMemoryError):
                    raise
                self._listener.fault("", "description", error)  # labels and answers do without

    def _round(self, model: Portions, settings: Settings) -> float:
        """Look once at whatever is due; return after how long [s] there is more to do if nothing comes before."""
        views = self.views.values()
        for view in views:
            view.adopt(settings)
        self._failed.clear()
        if (pause := self._retry_at - time.monotonic()) > 0:
            self._fail_all(NotAnsweredError(f"the model is out of memory, next try in {pause:.0f} s"))
            return pause
        # Who asks comes first, but the others have their turn before whoever asks again.
        seen = self._look(model, self._take_asks(settings.max_batch), settings)
        turn, seconds = self._turns.next(views, time.monotonic(), settings.batch_window, settings.max_batch)
        if self._retry_at <= time.monotonic():
            seen |= self._look(model, dict.fromkeys(turn, ()), settings)
        # Words take long: while somebody waits for an answer, the descriptions have to.
        if not self._is_asked() and self._retry_at <= time.monotonic():
            self._describe(model, list(seen.values())[: settings.max_batch], settings)
        if seen:
            return 0.0
        return min(seconds, LOOK_AGAIN) if self._asks else seconds

    def _look(self, model: Portions, asks: Mapping[View, Sequence[Ask]], settings: Settings) -> dict[str, Observation]:
        """Answer the `asks` about the newest picture of each view, and label it where that is due.

        Return the pictures by camera; from others one learns why there is none.
        """
        pictures: dict[str, Observation] = {}
        inquiries: list[tuple[Observation, list[Request]]] = []
        now = time.monotonic()
        for view, asked in asks.items():
            try:
                picture = view.take_up(now)
                answerable = [ask for ask in asked if view.is_newer(picture.frame.stamp, ask.newer_than)]
                self._wait_on([ask for ask in asked if ask not in answerable])
                inquiries += self._inquiries(picture, answerable, settings)
            except Exception as error:  # it is this camera's alone
                if not isinstance(error, NotAnsweredError):
                    self._listener.fault(view.camera, "internal", error)
                for ask in asked:
                    ask.failed(error)
            else:
                pictures[view.camera] = picture
        started = time.monotonic()
        if self._serve(model, inquiries):
            self.inference_time = time.monotonic() - started
        return pictures

    def _inquiries(
        self, picture: Observation, asks: Sequence[Ask], settings: Settings
    ) -> list[tuple[Observation, list[Request]]]:
        """What is asked about `picture`, and about the part of it that the label is about, if that is another."""
        view = self.views[picture.camera]
        requests = [self._asked(ask, picture) for ask in asks]
        if not view.schedule.take("label", picture.taken, picture.frame.stamp):
            return [(picture, requests)]
        part = view.part(picture)
        label = self._recurring(settings.label, settings.label_rate, part, self._labelled)
        return [(part, label), (picture, requests)] if part.region else [(picture, requests + label)]

    def _describe(self, model: Portions, pictures: Collection[Observation], settings: Settings) -> None:
        due = [
            picture
            for picture in pictures
            if picture.camera not in self._failed
            if self.views[picture.camera].schedule.take("description", picture.taken, picture.frame.stamp)
        ]
        what, rate = settings.description, settings.description_rate
        self._serve(model, [(picture, self._recurring(what, rate, picture, self._described)) for picture in due])

    def _serve(self, model: Portions, asked: Sequence[tuple[Observation, Sequence[Request]]]) -> bool:
        """The one way to the model, for all questions of a moment about some pictures; whether there was any."""
        inquiries = [Inquiry(picture.image, requests) for picture, requests in asked if requests]
        if not inquiries:
            return False
        self.at_once, self.busy_since = len(inquiries), time.monotonic()
        try:
            serve(model, inquiries)
        finally:
            self.busy_since = None
        if not self._failed:
            self._pause = 0.0
        return True

    def _asked(self, ask: Ask, picture: Observation) -> Request:
        def answered(answers: list[Answer]) -> None:
            view = self.views[picture.camera]
            view.counts["asks"] += 1
            with self._telling(picture, answers):
                ask.answered(picture, answers)
            view.asked_until = time.monotonic() + ASKED_AGAIN

        def failed(error: Exception) -> None:
            if not isinstance(error, ValueError):  # else the question is wrong, which is no fault of the model
                self._model_failed(picture, error)
            ask.failed(error)

        def lacking(error: Exception) -> None:
            self._listener.fault(picture.camera, "description", error)

        return Request(ask.questions, answered, failed, lacking)

    def _recurring(
        self, question: Question, rate: float, picture: Observation, tell: Callable[[Observation, Answer], None]
    ) -> list[Request]:
        """The request for what is asked again and again, at `rate` [Hz]; none when an earlier answer is good for this
        picture, too.

        What others ask is never answered so: it may steer a robot.
        """
        reuse = self.views[picture.camera].reuse

        def answered(answers: list[Answer]) -> None:
            reuse.keep(question, picture.image, answers[0], picture.taken)
            told(answers)

        def told(answers: list[Answer]) -> None:
            if self._is_wanted(picture):
                with self._telling(picture, answers):
                    tell(picture, answers[0])

        if known := reuse.find(question, picture.image, picture.taken, 1 / rate):
            told([known])
            return []
        return [Request([question], answered, lambda error: self._model_failed(picture, error))]

    def _labelled(self, picture: Observation, answer: Answer) -> None:
        view = self.views[picture.camera]
        view.counts["labels"] += 1
        smoothed = view.smoother.update(picture.frame.stamp, answer.probabilities)
        self._listener.labelled(picture, answer, smoothed)

    def _described(self, picture: Observation, answer: Answer) -> None:
        self.views[picture.camera].counts["descriptions"] += 1
        self._listener.described(picture, answer)

    def _is_wanted(self, picture: Observation) -> bool:
        """Whether anybody may still be told about `picture`: not after a pause, nor after a model that hung."""
        if (age := time.monotonic() - picture.arrival) > LATE:
            self._listener.fault(
                picture.camera, "late answer", f"what came {age:.0f} s after its picture is not published"
            )
            return False
        return self._looking and picture.arrival >= self.views[picture.camera].begun

    @contextlib.contextmanager
    def _telling(self, picture: Observation, answers: list[Answer]) -> Iterator[None]:
        """Note what the answers cost and where the time went, until they are told."""
        spans, stamp, answered = self.views[picture.camera].spans, picture.frame.stamp, time.monotonic()
        last = answers[-1]
        if not last.age:  # else the model was not asked
            self._note(answers)
            asked, encoding = self.busy_since or answered, 0.0
            if last.usage:
                asked, encoding = max(asked, answered - last.usage.seconds), last.usage.encoding
            encoded = min(asked + encoding, answered)
            spans.answered(stamp, "answer" if last.options else "describe", asked, encoded, answered)
        try:
            yield
        except Exception as error:  # the other cameras' answers are waiting
            self._listener.fault(picture.camera, "internal", error)
        spans.told(stamp, picture.arrival, answered, time.monotonic())

    def _note(self, answers: list[Answer]) -> None:
        for answer in answers:
            if answer.options:
                self.decision = answer.usage
            else:
                self.words = answer.usage

    def _model_failed(self, picture: Observation, error: Exception) -> None:
        self._failed.add(picture.camera)
        if not isinstance(error, OUT_OF_MEMORY):
            self._listener.fault(picture.camera, "model", error)
            return
        if (now := time.monotonic()) >= self._retry_at:  # else it is of the same round
            self._pause = min(max(2 * self._pause, BACK_OFF[0]), BACK_OFF[1])
            self._retry_at = now + self._pause
        self._listener.fault("", "out of memory", error)

    def _forget(self) -> None:
        for view in self.views.values():
            view.forget()
        self._fail_all(NotAnsweredError("the classifier is not active"))

    def _take_asks(self, most: int) -> dict[View, list[Ask]]:
        """The oldest asks of at most so many cameras, with all that is asked about these."""
        with self._lock:
            taken: dict[View, list[Ask]] = {}
            rest = []
            for ask in self._asks:
                view = self.views[ask.camera]
                if (view in taken or len(taken) < most) and view.has_newer(ask.newer_than):
                    taken.setdefault(view, []).append(ask)
                else:
                    rest.append(ask)
            self._asks = rest
        return taken

    def _wait_on(self, asks: Sequence[Ask]) -> None:
        """Let `asks` wait, as before: the newer picture was a corrupt one."""
        with self._lock:
            self._asks[:0] = asks

    def _is_asked(self) -> bool:
        """Whether anybody waits for an answer, and not for a picture."""
        with self._lock:
            return any(self.views[ask.camera].has_newer(ask.newer_than) for ask in self._asks)

    def _fail_all(self, error: Exception) -> None:
        with self._lock:
            asks, self._asks = self._asks, []
        for ask in asks:
            ask.failed(error)
