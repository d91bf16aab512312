"""The base class of models that run in this process.

A family encodes images, scores options and generates text. Here questions are sorted, log-likelihoods become answers, a
shortage of memory becomes a ModelOutOfMemoryError, and the cost of each answer is measured.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlm_perception.models.base import ModelError, ModelOutOfMemoryError, check_image
from vlm_perception.models.calibration import EMPTY_IMAGE, Calibration
from vlm_perception.models.generation import Generation
from vlm_perception.models.onnx_tower import OnnxTower
from vlm_perception.models.scope import Scope
from vlm_perception.models.scoring import Scored
from vlm_perception.models.usage import Meter
from vlm_perception.questions import Answer, ClosedQuestion, Question, Text

MAX_PRIORS = 1024


class LocalModel(ABC):
    """Base class of a family, see `vlm_perception.models.base.Model`.

    `model` and its stock `processor` are those of transformers, ready to use.
    """

    def __init__(
        self, name: str, folder: Path, model: Any, processor: Any, calibration: Calibration | None = None
    ) -> None:
        self.name = name
        self._folder = folder
        self._model = model.eval()
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._calibration = calibration or Calibration()
        self._priors: dict[ClosedQuestion, list[float]] = {}
        self._last: tuple[list[tuple[np.ndarray, np.ndarray]], Any] | None = None
        self.scope = Scope.from_folder(folder)

    # What a family implements

    @abstractmethod
    def _encode(self, images: Sequence[np.ndarray]) -> Any:
        """Return the encoded images, which `_score` and `_say` may get several times."""

    @abstractmethod
    def _score(self, encoded: Any, questions: Sequence[ClosedQuestion]) -> list[list[Scored]]:
        """Return the scores of every option, by image and question. ValueError for a question that cannot be asked."""

    @abstractmethod
    def _say(self, encoded: Any, question: Text, meter: Meter) -> list[Generation]:
        """Return a text about every image; the `meter` gives the time of its first token."""

    # What all families share

    def answer(self, image: np.ndarray, questions: Sequence[Question]) -> list[Answer]:
        """Answer all questions about one image, see `Model.answer`."""
        return self.answer_batch([image], questions)[0]

    def answer_batch(self, images: Sequence[np.ndarray], questions: Sequence[Question]) -> list[list[Answer]]:
        """Answer all questions about every image, see `Model.answer_batch`."""
        for image in images:
            check_image(image)
        if not images or not questions:
            return [[] for _ in images]
        try:
            with torch.inference_mode():
                return self._answer(images, questions)
        except (ModelError, ValueError):
            raise
        except Exception as error:  # transformers and its libraries may raise anything
            self._last = None  # it may be incomplete
            if not _is_out_of_memory(error):
                words = " ".join(str(error).split()) or type(error).__name__
                raise ModelError(
                    f"{self.name} fails at this ({words:.300}): ask less at once or in fewer words, as it may be more "
                    "than the model can hold in mind"
                ) from error
            problem = (str(error).splitlines() or ["MemoryError"])[0]
        # Outside the handler: there, the exception would keep alive what has to be freed.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        raise ModelOutOfMemoryError(
            f"{self.name} ran out of memory on {self._device} ({problem}): free some, ask less at once, "
            "or choose a smaller model or dtype"
        )

    def describe_self(self) -> dict[str, str]:
        """Return facts for diagnostics, as words."""
        size = sum(p.numel() for p in self._model.parameters())
        weights = sum(p.numel() * p.element_size() for p in self._model.parameters())
        tower = next((part for part in self._model.modules() if isinstance(part, OnnxTower)), None)
        return {
            "model": self.name,
            "folder": str(self._folder),
            "family": self._model.config.model_type,
            "device": str(self._device),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "parameters": f"{size / 1e6:.1f} M",
            "weights": f"{weights / 2**20:.0f} MiB",
        } | ({"vision tower": str(tower)} if tower else {})

    @property
    def _device(self) -> torch.device:
        return torch.device(self._model.device)

    def _answer(self, images: Sequence[np.ndarray], questions: Sequence[Question]) -> list[list[Answer]]:
        meter = Meter(self._device)
        closed = list(dict.fromkeys(q for q in questions if isinstance(q, ClosedQuestion)))
        texts = list(dict.fromkeys(q for q in questions if isinstance(q, Text)))
        priors = self._empty_image(closed)
        encoded = self._encoded(images)
        meter.encoded()
        answers: list[dict[Question, Answer]] = [{} for _ in images]
        if closed:
            scores = self._score(encoded, closed)
            usage = meter.usage(meter.now())
            for found, rows in zip(answers, scores, strict=True):
                for question, prior, row in zip(closed, priors, rows, strict=True):
                    try:
                        answer = self._calibration.answer(question, row.log_likelihoods, prior)
                    except ValueError as error:
                        raise ModelError(f"{self.name}: {error}; try dtype float32") from None
                    found[question] = dataclasses.replace(answer, usage=usage, off_mass=row.off_mass)
        for text in texts:
            for found, words in zip(answers, self._say(encoded, text, meter), strict=True):
                if not math.isfinite(words.confidence):
                    raise ModelError(f"{self.name}: the words for {text} have no finite probability; try dtype float32")
                usage = meter.usage(words.first_token, words.tokens)
                found[text] = Answer(words.text, words.confidence, usage=usage)
        return [[found[question] for question in questions] for found in answers]

    def _encoded(self, images: Sequence[np.ndarray]) -> Any:
        """Return the encoded images, those of the last call if the images are the same and have not changed.

        A read-only array may be a view of a buffer that is written to, so it is compared with a copy.
        """
        if self._last:
            before, encoded = self._last
            if len(before) == len(images) and all(
                known is image and not image.flags.writeable and np.array_equal(copy, image)
                for (known, copy), image in zip(before, images, strict=True)
            ):
                return encoded
            self._last = None  # free it before the next images need the memory
            del encoded
        encoded = self._encode(images)
        self._last = ([(image, image.copy()) for image in images], encoded)
        return encoded

    def _empty_image(self, questions: Sequence[ClosedQuestion]) -> list[list[float] | None]:
        """Return the options' log-likelihoods for an empty image, None where not needed; keep them."""
        needed = [question for question in questions if self._calibration.needs_empty_image(question)]
        new = [question for question in needed if question not in self._priors]
        if new:
            if len(self._priors) + len(new) > MAX_PRIORS:
                self._priors.clear()
                new = needed
            (scored,) = self._score(self._encode([EMPTY_IMAGE]), new)
            self._priors.update((one, row.log_likelihoods) for one, row in zip(new, scored, strict=True))
        return [self._priors[question] if question in needed else None for question in questions]


def _is_out_of_memory(error: BaseException) -> bool:
    words = str(error).lower()
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError))
        or "out of memory" in words
        or "can't allocate memory" in words
    )
