"""The one thread that owns the model: it loads, warms up, takes the newest picture and answers. No ROS."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from vlm_perception.models.base import Model
from vlm_perception.perception.frames import Frame, FrameError, decode
from vlm_perception.perception.newest import Newest
from vlm_perception.perception.observer import Request, Schedule, serve
from vlm_perception.perception.portions import OUT_OF_MEMORY, Portions
from vlm_perception.perception.smoothing import LabelSmoother, SmoothedLabel, SmoothingSettings
from vlm_perception.perception.stream import Stream
from vlm_perception.questions import Answer, Choice, Question, Text, Usage

BACK_OFF = (1.0, 30.0)
"""First and longest pause after the memory ran out [s]."""
LATE = 60.0
"""What is said about a picture that came longer ago [s] is not told any more: nobody waits for it."""
USUAL_SHAPE = (480, 640, 3)
"""Of the warm-up's picture while no other has come."""


@dataclass(frozen=True)
class Settings:
    """What the worker does by itself: rates [Hz], 0 is never; `max_age` [s] of a picture worth looking at."""

    label: Choice
    label_rate: float
    description: Text
    description_rate: float
    max_age: float
    smoothing: SmoothingSettings

    def __post_init__(self) -> None:
        LabelSmoother(self.label.options, self.smoothing)  # raises ValueError when they do not fit


@dataclass(frozen=True, eq=False)
class Observation:
    """A decoded picture with the `header` of its message, when it arrived and when it was `taken` up [s, monotonic].

    `unchanged` [s, by the stamps]: for how long the camera has delivered this very picture, pixel by pixel.
    """

    frame: Frame
    header: Any
    arrival: float
    taken: float
    unchanged: float


class NotAnsweredError(Exception):
    """Why a question could not be answered now, in words."""


class Listener(Protocol):
    """Hears of everything, in the worker's thread; of faults of the stream in the one that puts."""

    def loaded(self, worker: Worker) -> None: ...
    def failed(self, worker: Worker, error: BaseException) -> None: ...
    def labelled(self, picture: Observation, answer: Answer, smoothed: SmoothedLabel) -> None: ...
    def described(self, picture: Observation, answer: Answer) -> None: ...
    def fault(self, kind: str, error: BaseException | str) -> None: ...


@dataclass(frozen=True, eq=False)
class Ask:
    """Questions of somebody; one of `answered` and `failed` is called, in the worker's thread."""

    questions: list[Question]
    answered: Callable[[Observation, list[Answer]], None]
    failed: Callable[[Exception], None]


class Worker(threading.Thread):
    """Loads a model by `load` and answers about the newest of the messages that are `put`, while `looking`.

    `clock` returns the time [ns] that the messages' stamps are compared with. A worker that came
    `before` is waited for, so that there are never two models in memory. `state` and `since` [s, monotonic] say what
    it is at, `busy_since` when it began to ask the model, None while it does not. `decision` and `words` are what the
    last closed and free answers cost, as far as the model tells.
    """

    def __init__(
        self,
        load: Callable[[], Model],
        settings: Settings,
        listener: Listener,
        clock: Callable[[], int],
        before: Worker | None = None,
    ) -> None:
        super().__init__(name="model", daemon=True)
        self.state, self.since = "loading", time.monotonic()
        self.busy_since: float | None = None
        self.stream = Stream(clock, listener.fault)
        self.facts: dict[str, str] = {}
        self.newest: Newest[tuple[Any, float]] = Newest()
        self.counts: Counter[str] = Counter()
        self.inference_time = 0.0
        self.decision: Usage | None = None
        self.words: Usage | None = None
        self._load = load
        self._listener = listener
        self._clock = clock
        self._before = before
        self._settings = settings
        self._looking = False
        self._looking_since = 0.0
        self._stopping = False
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._asks: list[Ask] = []
        self._schedule = Schedule()
        self._adopted = settings
        self._smoother = LabelSmoother(settings.label.options, settings.smoothing)
        self._picture: Observation | None = None
        self._corrupt = ""
        self._failures = 0
        self._pause = 0.0
        self._retry_at = 0.0

    # For any thread.

    def put(self, message: Any) -> None:
        """Offer the newest camera message; one that is no news is counted and forgotten."""
        if self.stream.admit(message, self._settings.max_age):
            self.newest.put((message, self.stream.arrival))
            self._wake.set()

    def watch(self) -> None:
        """Notice what is wrong with the stream; to be called some times a second by the thread that puts."""
        self.stream.watch(self._settings.max_age)

    def ask(self, ask: Ask) -> None:
        """Answer `ask` about the newest picture, as soon as the model is free."""
        with self._lock:
            self._asks.append(ask)
        self._wake.set()

    def withdraw(self, ask: Ask) -> None:
        """Forget `ask` if it has not been taken up yet."""
        with self._lock:
            if ask in self._asks:
                self._asks.remove(ask)

    def look(self, looking: bool) -> None:
        """Start or stop looking at pictures; stopping forgets what was seen."""
        if looking:
            self._looking_since = time.monotonic()
            self.stream.begin()
        self._looking = looking
        self._wake.set()

    def change(self, settings: Settings) -> None:
        """Use `settings` from the next picture on."""
        self._settings = settings
        self._wake.set()

    @property
    def unchanged(self) -> float:
        """For how long [s] the newest picture that was looked at is the very same."""
        picture = self._picture
        return picture.unchanged if picture else 0.0

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
        if not self._stopping:
            self._warm_up(model, self._settings)
        self.facts = model.describe_self()
        self.state, self.since = "ready", time.monotonic()
        self._listener.loaded(self)
        portions = Portions(model, lambda error: self._listener.fault("out of memory", error))
        while not self._stopping:
            settings = self._settings
            try:
                if self._looking:
                    self._round(portions, settings)
                else:
                    self._forget()
            except Exception as error:  # whatever it is, the next picture may be better
                self._listener.fault("internal", error)
            self._wait()

    def _warm_up(self, model: Model, settings: Settings) -> None:
        """Ask what will be asked, so that the first picture does not wait for what is only done once."""
        shape: tuple[int, ...] = USUAL_SHAPE
        if waiting := self.newest.peek():
            with contextlib.suppress(FrameError):
                shape = decode(waiting[0]).image.shape
        black = np.zeros(shape, np.uint8)
        black.flags.writeable = False
        model.answer(black, [settings.label])
        if settings.description_rate:
            model.answer(black, [replace(settings.description, max_new_tokens=2)])  # one more is like the second

    def _wait(self) -> None:
        now = time.monotonic()
        seconds = self._retry_at - now if self._retry_at > now else self._schedule.wait(now)
        # Due already: then it is the next picture that is waited for.
        self._wake.wait(seconds if self._looking and 0 < seconds < threading.TIMEOUT_MAX else None)
        self._wake.clear()

    def _round(self, model: Portions, settings: Settings) -> None:
        self._adopt(settings)
        now = time.monotonic()
        if now < self._retry_at:
            self._fail_all(NotAnsweredError(f"the model is out of memory, next try in {self._retry_at - now:.0f} s"))
            return
        if not self._asks and self._schedule.wait(now) > 0:
            return
        self._take_up_newest()
        if problem := self._problem(settings.max_age):
            self._fail_all(NotAnsweredError(problem))
            return
        assert self._picture is not None
        picture = replace(self._picture, taken=now)
        image, stamp = picture.frame.image, picture.frame.stamp
        requests = [self._request(ask, picture) for ask in self._take_asks()]
        if self._schedule.take("label", now, stamp):
            requests.append(Request([settings.label], lambda a: self._labelled(picture, a), self._model_failed))
        well = True
        if requests:
            started = time.monotonic()
            well = self._serve(model, image, requests)
            self.inference_time = time.monotonic() - started
        # Words take long: while somebody waits for an answer, the description has to.
        if well and not self._asks and self._schedule.take("description", now, stamp):
            request = Request([settings.description], lambda a: self._described(picture, a), self._model_failed)
            self._serve(model, image, [request])

    def _serve(self, model: Portions, image: np.ndarray, requests: list[Request]) -> bool:
        """Whether all went well."""
        failures, self.busy_since = self._failures, time.monotonic()
        try:
            serve(model, image, requests)
        finally:
            self.busy_since = None
        well = self._failures == failures
        if well:
            self._pause = 0.0
        return well

    def _adopt(self, settings: Settings) -> None:
        before, self._adopted = self._adopted, settings
        if (settings.label, settings.smoothing) != (before.label, before.smoothing):  # another prompt counts as well
            self._smoother = LabelSmoother(settings.label.options, settings.smoothing)
        self._schedule.set_rates({"label": settings.label_rate, "description": settings.description_rate})

    def _take_up_newest(self) -> None:
        if (taken := self.newest.take()) is None:
            return
        message, arrival = taken
        try:
            frame, before = decode(message), self._picture
            unchanged = 0.0
            if before and np.array_equal(frame.image, before.frame.image):
                unchanged = max(0.0, before.unchanged + (frame.stamp - before.frame.stamp) * 1e-9)
            self._picture = Observation(frame, message.header, arrival, arrival, unchanged)
            self._corrupt = ""
        except Exception as error:  # a broken message must not stop the good ones
            self._corrupt = str(error)
            self._listener.fault("corrupt picture", error)

    def _problem(self, max_age: float) -> str:
        """Why the newest picture must not be looked at; else ""."""
        if self._picture and self._picture.arrival < self._looking_since:
            self._picture = None
        if problem := self.stream.problem(max_age):
            return problem.words
        picture = self._picture
        old = not picture or (
            time.monotonic() - picture.arrival > max_age or abs(self._clock() - picture.frame.stamp) * 1e-9 > max_age
        )
        if not old:
            return ""
        return f"no usable picture: {self._corrupt}" if self._corrupt else "no picture has come yet"

    def _request(self, ask: Ask, picture: Observation) -> Request:
        def answered(answers: list[Answer]) -> None:
            self.counts["asks"] += 1
            self._note(answers)
            ask.answered(picture, answers)

        def failed(error: Exception) -> None:
            self._model_failed(error)
            ask.failed(error)

        return Request(ask.questions, answered, failed)

    def _labelled(self, picture: Observation, answers: list[Answer]) -> None:
        self._note(answers)
        if self._is_wanted(picture):
            self.counts["labels"] += 1
            smoothed = self._smoother.update(picture.frame.stamp, answers[0].probabilities)
            self._listener.labelled(picture, answers[0], smoothed)

    def _described(self, picture: Observation, answers: list[Answer]) -> None:
        self._note(answers)
        if self._is_wanted(picture):
            self.counts["descriptions"] += 1
            self._listener.described(picture, answers[0])

    def _is_wanted(self, picture: Observation) -> bool:
        """Whether anybody may still be told about `picture`: not after a pause, nor after a model that hung."""
        if (age := time.monotonic() - picture.arrival) > LATE:
            self._listener.fault("late answer", f"what came {age:.0f} s after its picture is not published")
            return False
        return self._looking and picture.arrival >= self._looking_since

    def _note(self, answers: list[Answer]) -> None:
        for answer in answers:
            if answer.options:
                self.decision = answer.usage
            else:
                self.words = answer.usage

    def _model_failed(self, error: Exception) -> None:
        self._failures += 1
        if not isinstance(error, OUT_OF_MEMORY):
            self._listener.fault("model", error)
            return
        if (now := time.monotonic()) >= self._retry_at:  # else it is of the same round
            self._pause = min(max(2 * self._pause, BACK_OFF[0]), BACK_OFF[1])
            self._retry_at = now + self._pause
        self._listener.fault("out of memory", error)

    def _forget(self) -> None:
        self.newest.clear()
        self._picture = None
        self._corrupt = ""
        self._smoother.reset()
        self._fail_all(NotAnsweredError("the classifier is not active"))

    def _take_asks(self) -> list[Ask]:
        with self._lock:
            asks, self._asks = self._asks, []
        return asks

    def _fail_all(self, error: Exception) -> None:
        for ask in self._take_asks():
            ask.failed(error)
