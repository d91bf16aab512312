"""The thread that owns the model: it loads the model, warms it up and steps the engine. No ROS."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

import numpy as np

from vlm_perception.models.base import Model, ModelError, ModelOutOfMemoryError
from vlm_perception.models.scope import Scope
from vlm_perception.perception.asks import Ask
from vlm_perception.perception.camera import Camera
from vlm_perception.perception.engine import Engine
from vlm_perception.perception.frame import FrameError
from vlm_perception.perception.image_message import decode
from vlm_perception.perception.inference import OomBackoff
from vlm_perception.perception.outputs import Description, Failed, Fault, Label, Loaded, NotAnsweredError, Output, Reply
from vlm_perception.perception.settings import Settings
from vlm_perception.questions import Question

USUAL_SHAPE = (480, 640, 3)
"""Shape of the warm-up's image if no image has come yet."""


class Worker(threading.Thread):
    """Loads a model by calling `load`, and asks it about the newest frames of `cameras` while it is told to `look`.

    `publish` is called with every output, in the worker's thread. The worker waits until the one `before` has ended, so
    that there are never two models in memory. `state` says what it does, since `since` [s, monotonic]; `scope` is what
    the model was taught, where that is a closed list.
    """

    def __init__(
        self,
        load: Callable[[], Model],
        settings: Settings,
        cameras: Sequence[Camera],
        publish: Callable[[Output], None],
        before: Worker | None = None,
    ) -> None:
        super().__init__(name="model", daemon=True)
        self.state, self.since = "loading", time.monotonic()
        self.facts: Mapping[str, str] = {}
        self.scope: Scope | None = None
        self._engine = Engine(cameras)
        self._load = load
        self._cameras = cameras
        self._publish = publish
        self._before = before
        self._settings = settings
        self._model: OomBackoff | None = None
        self._looking = False
        self._stopping = False
        self._wake = threading.Event()

    # For any thread.

    @property
    def busy_since(self) -> float | None:
        """Time [s, monotonic] at which the present call of the model began; None between calls."""
        return self._model.busy_since if self._model else None

    def limit(self, most: float, texts: bool | None = None) -> float:
        """Return after how long [s], at `most`, a call of the model hangs: one for texts or not, or the present one."""
        return self._model.limit(most, texts) if self._model else most

    @property
    def frames_at_once(self) -> int:
        """Number of frames in the last call of the model."""
        return self._engine.frames_at_once

    def metrics(self) -> dict[str, object]:
        """Return what the model does and costs, for diagnostics."""
        state = {"state": self.state, "in this state for [s]": time.monotonic() - self.since}
        return {**self.facts, **self._engine.metrics(), **state}

    def wake(self) -> None:
        """Look now: a camera has a new message."""
        self._wake.set()

    def ask(self, camera: Camera, questions: Sequence[Question], newer_than: int = 0) -> Future[Reply]:
        """Ask about the camera's newest frame, once there is a newer one than that of `newer_than` [ns].

        The future can be cancelled until the model is asked. It raises NotAnsweredError or the model's error.
        """
        ask = Ask(camera, questions, newer_than)
        self._engine.asks.put(ask)
        self._wake.set()
        return ask.reply

    def look(self, looking: bool) -> None:
        """Start or stop looking at frames; stopping forgets what was seen."""
        if looking:
            for camera in self._cameras:
                camera.begin()
        self._looking = looking
        self._wake.set()

    def change(self, settings: Settings) -> None:
        """Use `settings` from the next frame on."""
        self._settings = settings
        self._wake.set()

    def stop(self) -> None:
        """End after the present call of the model, and free it; do not wait for that."""
        self._looking = False
        self._stopping = True
        self._wake.set()

    # The worker's own thread.

    def run(self) -> None:
        """Load, warm up, and look until stopped."""
        if self._before:
            self.state = "waiting for the last model to let go; if it hangs, end the process"
            self._before.join()
            self._before = None
            self.state, self.since = "loading", time.monotonic()
        try:
            self._run()
        except BaseException as error:  # also when a library exits: a node must not look well and never answer
            self.state = "failed"
            self._publish(Failed(error))
        finally:
            self._engine.asks.fail(NotAnsweredError("the classifier was stopped"))

    def _run(self) -> None:
        loaded = self._load()
        self.scope = getattr(loaded, "scope", None)
        if problem := self._settings.unknown(self.scope):
            raise ModelError(f"{problem}: change the labels or choose another model")
        model = self._model = OomBackoff(loaded, lambda error: self._publish(Fault(None, "out of memory", error)))
        if not self._stopping:
            self._warm_up(model, self._settings)
        self.facts = loaded.describe_self()
        self.state, self.since = "ready", time.monotonic()
        self._publish(Loaded(self.facts, self.scope))
        while not self._stopping:
            if not self._looking:
                for camera in self._cameras:
                    camera.forget()
                self._engine.asks.fail(NotAnsweredError("the classifier is not active"))
            self._wake.wait(self._step(model) if self._looking else threading.TIMEOUT_MAX)
            self._wake.clear()

    def _step(self, model: OomBackoff) -> float:
        """Step the engine once and publish its outputs; return after how long [s] to do it again."""
        try:
            for output in self._engine.step(model, self._settings):
                if self._looking or isinstance(output, Fault):
                    self._deliver(output)
        except Exception as error:  # the next frame may be better
            self._publish(Fault(None, "internal", error))
            return threading.TIMEOUT_MAX
        return self._engine.wait

    def _deliver(self, output: Output) -> None:
        try:
            self._publish(output)
        except Exception as error:  # the outputs of other cameras follow
            camera = output.frame.camera if isinstance(output, Label | Description) else None
            self._publish(Fault(camera, "internal", error))

    def _warm_up(self, model: OomBackoff, settings: Settings) -> None:
        """Ask what will be asked, so that the first frames do not wait for what a model does only once."""
        shape: tuple[int, ...] = USUAL_SHAPE
        for waiting in filter(None, (camera.slot.peek() for camera in self._cameras)):
            with contextlib.suppress(FrameError):
                shape = decode(waiting[0]).image.shape
        black = np.zeros(shape, np.uint8)
        black.flags.writeable = False
        model.answer_batch([black], [settings.label.question])
        if (most := min(len(self._cameras), settings.max_batch)) > 1:
            model.answer_batch([black] * most, [settings.label.question])
        if settings.description.rate:
            words = replace(
                settings.description.question, max_new_tokens=2
            )  # the second token runs what all later ones do
            try:
                model.answer_batch([black], [words])
            except ModelError as error:
                if isinstance(error, ModelOutOfMemoryError):
                    raise
                self._publish(Fault(None, "description", error))  # labels and asks work without descriptions
            model.forget_texts()
