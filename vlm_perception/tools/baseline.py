"""The baseline: the stock `generate`, whose text is cleaned and looked up among the options."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import StoppingCriteria, StoppingCriteriaList

from vlm_perception.models.base import Model
from vlm_perception.models.chat import ChatModel
from vlm_perception.models.chat_prompt import chat_text
from vlm_perception.models.paligemma import PaliGemma
from vlm_perception.questions import ClosedQuestion, Question, Text

MOST_TOKENS = 10
"""Most new tokens of a closed answer."""


@dataclass(frozen=True)
class Said:
    """A generated answer: the cleaned `words`, or None if they are none of the options.

    `tokens` counts the generated tokens with the end. `time_to_first_token` is from the call to the first of them [s].
    """

    words: str | None
    tokens: int
    time_to_first_token: float


class Baseline:
    """One greedy `generate` for each question, with the stock `model` and `processor` of transformers.

    A chat model gets the prompt and the options. A model without a chat template, such as PaliGemma, gets the prompt.
    """

    def __init__(self, model: Any, processor: Any, **template_options: Any) -> None:
        self._model, self._processor, self._template_options = model, processor, template_options

    def ask(self, image: np.ndarray, question: Question, most: int = MOST_TOKENS, least: int = 0) -> Said:
        """Ask about an RGB image, uint8 (height, width, 3); `most` and `least` limit the tokens of a closed answer."""
        if isinstance(question, Text):
            most = question.max_new_tokens
        first = FirstToken()
        with torch.inference_mode():
            inputs = self._inputs(Image.fromarray(image), question)
            ids = self._model.generate(
                **inputs,
                max_new_tokens=most,
                min_new_tokens=least,
                do_sample=False,
                stopping_criteria=StoppingCriteriaList([first]),
            )
        ids = ids[0, inputs["input_ids"].shape[1] :]
        words = self._processor.decode(ids, skip_special_tokens=True).strip()
        if isinstance(question, ClosedQuestion):
            words = clean(words, question.options)
        return Said(words, len(ids), first.seconds)

    def _inputs(self, image: Image.Image, question: Question) -> dict[str, Any]:
        if getattr(self._processor, "chat_template", None):
            content = [{"type": "image", "image": image}, {"type": "text", "text": chat_text(question)}]
            inputs = self._processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                **self._template_options,
            )
        else:
            inputs = self._processor(text="<image>" + question.prompt, images=image, return_tensors="pt")
        inputs.pop("labels", None)
        return dict(inputs.to(self._model.device, self._model.dtype))


class FirstToken(StoppingCriteria):
    """A criterion that stops nothing, and notes the `seconds` from its construction to the first token."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.seconds = 0.0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        if not self.seconds:
            input_ids[0, -1].item()  # waits for a GPU
            self.seconds = time.perf_counter() - self._start
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def baseline_of(model: Model) -> Baseline | None:
    """Return the baseline for `model`; None for a model that does not generate or runs elsewhere."""
    if isinstance(model, PaliGemma):
        return Baseline(model._model, model._processor)
    if isinstance(model, ChatModel):
        return Baseline(model._model, model._processor, **model.template_options)
    return None


def clean(words: str, options: tuple[str, ...]) -> str | None:
    """Return the option that equals `words` except for case, blanks and a full stop; None without such an option."""
    words = words.strip().strip(".!").lower()
    return next((option for option in options if option.lower() == words), None)
