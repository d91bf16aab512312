"""From the model's answers about a camera's frames to what is published: cache, region of motion, smoothing. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from vlm_perception.perception.answer_cache import AnswerCache
from vlm_perception.perception.frame import Frame
from vlm_perception.perception.outputs import Description, Label
from vlm_perception.perception.region import Motion
from vlm_perception.perception.settings import Settings
from vlm_perception.perception.smoothing import LabelSmoother
from vlm_perception.questions import Answer, Question


class Pipeline:
    """What one camera's answers become, over time; `counts` says how many of each kind there were."""

    def __init__(self, settings: Settings) -> None:
        self.cache = AnswerCache(settings.cache)
        self.counts: Counter[str] = Counter()
        self._settings = settings
        self._smoother = LabelSmoother(settings.label.options, settings.smoothing)
        self._motion = Motion()

    def adopt(self, settings: Settings) -> None:
        """Use `settings` from now on; another vocabulary, prompt or smoothing begins anew."""
        before, self._settings = self._settings, settings
        if (settings.label.question, settings.smoothing) != (before.label.question, before.smoothing):
            self._smoother = LabelSmoother(settings.label.options, settings.smoothing)
        self.cache.settings = settings.cache

    def clear(self) -> None:
        """Forget everything that was seen."""
        self._smoother.reset()
        self._motion.clear()
        self.cache.clear()

    def focused(self, frame: Frame) -> Frame:
        """Return `frame` as its label is to be about it: where something moves, if that is to be followed."""
        if not self._settings.label.follow_motion:
            self._motion.clear()
            return frame
        region = self._motion.region(frame.full_image)
        self.counts["regions"] += region is not None
        return replace(frame, region=region)

    def known(self, frame: Frame, question: Question, rate: float) -> Answer | None:
        """Return an earlier answer that is good for `frame`, too, to a question asked at `rate` [Hz]; None: ask.

        Only what recurs is answered so. What others ask may steer a robot.
        """
        return self.cache.find(question, frame.image, frame.taken, 1 / rate)

    def keep(self, frame: Frame, question: Question, answer: Answer) -> None:
        """Remember what the model answered to the recurring `question`."""
        self.cache.keep(question, frame.image, answer, frame.taken)

    def output(self, frame: Frame, answer: Answer) -> Label | Description:
        """Return what is published of the `answer` to a recurring question, taking it in."""
        if not answer.options:
            self.counts["descriptions"] += 1
            return Description(frame, answer)
        self.counts["labels"] += 1
        return Label(frame, answer, self._smoother.update(frame.stamp, answer.probabilities))
