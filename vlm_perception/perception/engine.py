"""One step of perception: the model is asked what is due about the newest frames.

There is no thread and no ROS here. `Engine.step` yields the outputs as values.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence

from vlm_perception.perception.asks import Ask, AskQueue
from vlm_perception.perception.batching import DynamicBatcher
from vlm_perception.perception.camera import Camera
from vlm_perception.perception.frame import Frame
from vlm_perception.perception.inference import OUT_OF_MEMORY, Job, OomBackoff, TextFailed, answer
from vlm_perception.perception.outputs import Fault, NotAnsweredError, Output, Reply
from vlm_perception.perception.settings import Settings
from vlm_perception.questions import Answer, Question, Usage

ASKED_AGAIN = 0.05
"""Time [s] within which the next ask of a client follows its last answer."""
LOOK_AGAIN = 0.1
"""Period [s] of the check whether an ask for a newer frame should still wait."""
LATE = 60.0
"""Age [s] of an image from which on its answer is not published: nobody waits for it."""


class Engine:
    """Asks a model about the newest frames of `cameras`.

    The next step has something to do after `wait` [s], or when something comes before. The last call was about
    `frames_at_once` frames and took `inference_time` [s].
    """

    def __init__(self, cameras: Sequence[Camera]) -> None:
        self.asks = AskQueue()
        self.wait = threading.TIMEOUT_MAX
        self.frames_at_once = 0
        self.inference_time = 0.0
        self._usage: dict[bool, Usage | None] = {}
        """What the last answers cost: of closed questions (True), of texts (False)."""
        self._cameras = {camera.name: camera for camera in cameras}
        self._batcher = DynamicBatcher()
        self._failed: set[str] = set()
        """Names of the cameras about whose frames the model failed in this step."""

    def metrics(self) -> dict[str, object]:
        """Return what the last answers cost, as far as the model reports it, for diagnostics."""
        figures: dict[str, object] = {
            "inference time [s]": self.inference_time,
            "images at once": self.frames_at_once,
            "questions waiting": len(self.asks),
        }
        if closed := self._usage.get(True):
            figures["decision time [s]"] = closed.seconds
            figures["decision peak memory [MiB]"] = closed.peak_memory >> 20
        if text := self._usage.get(False):
            figures["description time to first token [s]"] = text.time_to_first_token
            figures["description tokens per second"] = text.tokens_per_second
            figures["description tokens"] = text.tokens
            figures["description peak memory [MiB]"] = text.peak_memory >> 20
        return figures

    def step(self, model: OomBackoff, settings: Settings) -> Iterator[Output]:
        """Do what is due, once; yield every output as soon as it is known."""
        for camera in self._cameras.values():
            camera.adopt(settings)
        self._failed.clear()
        self.wait = model.pause
        if self.wait:
            self.asks.fail(NotAnsweredError(f"the model is out of memory, next try in {self.wait:.0f} s"))
            return
        # Asks have priority; cameras that are due run before the next ask.
        frames = yield from self._look(model, self.asks.take(settings.max_batch), settings)
        due, seconds = self._batcher.next(
            self._cameras.values(), time.monotonic(), settings.batch_window, settings.max_batch
        )
        if not model.pause:
            frames |= yield from self._look(model, dict.fromkeys(due, ()), settings)
        # A description takes long, so it waits while an ask does.
        if not self.asks.is_pressing and not model.pause:
            yield from self._describe(model, list(frames.values())[: settings.max_batch], settings)
        if not frames:
            self.wait = min(seconds, LOOK_AGAIN if self.asks else threading.TIMEOUT_MAX)

    def _look(
        self, model: OomBackoff, asks: Mapping[Camera, Sequence[Ask]], settings: Settings
    ) -> Generator[Output, None, dict[str, Frame]]:
        """Answer the `asks` about the newest frame of each camera and label it if that is due; return the frames.

        The asks of a camera without a frame fail with the reason; the other cameras are not affected.
        """
        frames: dict[str, Frame] = {}
        jobs: list[Job] = []
        now = time.monotonic()
        for camera, asked in asks.items():
            try:
                try:
                    if doubt := camera.refresh():
                        yield Fault(camera.name, "doubtful image", doubt)
                except Exception as error:  # a corrupt message must not stop the good ones
                    yield Fault(camera.name, "corrupt image", error)
                frame = camera.frame(now)
                answerable = [ask for ask in asked if camera.is_newer(frame.stamp, ask.newer_than)]
                self.asks.put_back([ask for ask in asked if ask not in answerable])
                jobs += [Job(frame, ask.questions, ask.reply) for ask in answerable]
                if camera.schedule.take("label", now, frame.stamp):
                    part = camera.pipeline.focused(frame)
                    jobs += yield from self._recurring(part, settings.label.question, settings.label.rate)
            except Exception as error:  # it concerns this camera only
                if not isinstance(error, NotAnsweredError):
                    yield Fault(camera.name, "internal", error)
                for ask in asked:
                    if not ask.reply.done():
                        ask.reply.set_exception(error)
            else:
                frames[camera.name] = frame
        if jobs:
            started = time.monotonic()
            yield from self._serve(model, jobs)
            self.inference_time = time.monotonic() - started
        return frames

    def _describe(self, model: OomBackoff, frames: Sequence[Frame], settings: Settings) -> Iterator[Output]:
        jobs: list[Job] = []
        for frame in frames:
            schedule = self._cameras[frame.camera].schedule
            if frame.camera not in self._failed and schedule.take("description", frame.taken, frame.stamp):
                jobs += yield from self._recurring(frame, settings.description.question, settings.description.rate)
        yield from self._serve(model, jobs)

    def _recurring(self, frame: Frame, question: Question, rate: float) -> Generator[Output, None, list[Job]]:
        """Return the job for a `question` asked at `rate` [Hz]; no job when an earlier answer fits this frame too.

        Only recurring questions are answered so: a robot may move by the answer to an ask.
        """
        job = Job(frame, [question])
        known = self._cameras[frame.camera].pipeline.cache.find(question, frame.image, frame.taken, 1 / rate)
        if known is None:
            return [job]
        yield from self._deliver(job, [known], time.monotonic())
        return []

    def _serve(self, model: OomBackoff, jobs: Sequence[Job]) -> Iterator[Output]:
        """Do all `jobs` and deliver their results."""
        if not jobs:
            return
        self.frames_at_once = len({id(job.frame.image) for job in jobs})
        asked = time.monotonic()
        for job, result in answer(model, jobs):
            if isinstance(result, TextFailed):
                yield Fault(job.frame.camera, "description", result.error)
                result = result.answers
            if isinstance(result, Exception):
                yield from self._fail(model, job, result)
            else:
                if job.reply is None:
                    cache = self._cameras[job.frame.camera].pipeline.cache
                    cache.keep(job.questions[0], job.frame.image, result[0], job.frame.taken)
                yield from self._deliver(job, result, asked)
        if not self._failed:
            model.recovered()

    def _deliver(self, job: Job, answers: list[Answer], asked: float) -> Iterator[Output]:
        """Reply to an ask, or yield what is published; the model was `asked` at that time [s, monotonic]."""
        frame, camera, answered = job.frame, self._cameras[job.frame.camera], time.monotonic()
        if job.reply is None and (age := answered - frame.arrival) > LATE:
            yield Fault(camera.name, "late answer", f"an answer that came {age:.0f} s after its image is not published")
            return
        if job.reply is None and frame.arrival < camera.begun:
            return  # the node was inactive meanwhile
        if not answers[-1].age:  # else the answer is from the cache
            self._usage.update((bool(given.options), given.usage) for given in answers)
            camera.spans.answered(frame.stamp, answers[-1], asked, answered)
        if job.reply:
            camera.pipeline.counts["asks"] += 1
            camera.asked_until = time.monotonic() + ASKED_AGAIN
            job.reply.set_result(Reply(frame, answers))
        else:
            yield camera.pipeline.output(frame, answers[0])
        camera.spans.told(frame.stamp, frame.arrival, answered, time.monotonic())

    def _fail(self, model: OomBackoff, job: Job, error: Exception) -> Iterator[Output]:
        if job.reply is None or not isinstance(error, ValueError):  # else the question of the ask is wrong
            self._failed.add(job.frame.camera)
            if isinstance(error, OUT_OF_MEMORY):
                model.failed()
                yield Fault(None, "out of memory", error)
            else:
                yield Fault(job.frame.camera, "model", error)
        if job.reply:
            job.reply.set_exception(error)
