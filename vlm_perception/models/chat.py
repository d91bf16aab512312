"""Causal vision-language models with a chat template: the image is read once for all questions.

Where attention is causal, the image's keys and values do not depend on the question. So the model reads the common
beginning of all prompts, image included, once into a key-value cache. Behind it one row holds the rests of all prompts
and their options as a tree (see `scoring`). Not every architecture can do that, so `chat_scoring` has three ways:

- *tree*: as above, two forward passes for all questions;
- *rows*: each option is a row of its own behind copies of the cache (recurrent and linear attention, whose state
  cannot branch inside a row; caches that have begun to forget);
- *whole*: each option is a forward pass of its own from the beginning; for architectures whose cache cannot go on.

A family that the tests do not cover gets the first way that agrees with *whole* on a small image.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlm_perception.models.calibration import Calibration
from vlm_perception.models.chat_forward import ChatForward
from vlm_perception.models.chat_prompt import ChatPrompts, ImageGroup, TokenizedQuestion, chat_text, group_by_size
from vlm_perception.models.chat_scoring import WHOLE, OptionScorer
from vlm_perception.models.decision import DecisionFormat, load_decision
from vlm_perception.models.generation import Generation, StepTimes, generate_greedily, until_end
from vlm_perception.models.local import LocalModel
from vlm_perception.models.scoring import Scored
from vlm_perception.models.usage import Meter
from vlm_perception.questions import ClosedQuestion, Text


class ChatModel(LocalModel):
    """A causal chat model of the stock transformers classes, see `vlm_perception.models.base.Model`.

    Raises ModelError when the processor has no chat template, or the template does not show where an answer stands.
    """

    def __init__(
        self, name: str, folder: Path, model: Any, processor: Any, calibration: Calibration | None = None
    ) -> None:
        super().__init__(name, folder, model, processor, calibration)
        self._decision = load_decision(folder)
        self._prompts = ChatPrompts(name, folder, processor, self._decision)
        self._passes = ChatForward(self._model)
        ends = getattr(model.generation_config, "eos_token_id", None)
        ends = self._tokenizer.eos_token_id if ends is None else ends
        self._ends = tuple(ends) if isinstance(ends, (list, tuple)) else (ends,)
        turn = self._prompts.turn
        end = self._tokenizer.convert_tokens_to_ids(turn.end.strip()) if turn.end else self._ends[0]
        closed_ends = () if self._decision else tuple(dict.fromkeys([*self._ends, end]))
        self._scorer = OptionScorer(self._prompts, self._passes, closed_ends)

    @property
    def template_options(self) -> dict[str, Any]:
        """Options with which the chat template writes a prompt."""
        return self._prompts.template_options

    def describe_self(self) -> dict[str, str]:
        """Return facts for diagnostics, as words."""
        return super().describe_self() | {"sharing": f"{self._scorer.way} ({self._scorer.why})"}

    def _encode(self, images: Sequence[np.ndarray]) -> list[ImageGroup]:
        return group_by_size(images)

    # Closed questions

    def _score(self, encoded: list[ImageGroup], questions: Sequence[ClosedQuestion]) -> list[list[Scored]]:
        if self._decision and self._decision.own_template:
            return self._score_own_template(encoded, questions, self._decision)
        asked = [self._tokenized(question) for question in questions]
        found: dict[int, list[Scored]] = {}
        for images in encoded:
            found.update(zip(images.numbers, self._scorer.score(images, asked), strict=True))
        return [found[number] for number in range(len(found))]

    def _tokenized(self, question: ClosedQuestion) -> TokenizedQuestion:
        try:
            return self._prompts.tokenize(question)
        except ValueError as error:
            raise ValueError(f"{self.name} cannot score {question}: {error}") from None

    def _score_own_template(
        self, encoded: list[ImageGroup], questions: Sequence[ClosedQuestion], decision: DecisionFormat
    ) -> list[list[Scored]]:
        """Score with one pass per image and question: the image may be anywhere in the prompt."""
        found: dict[int, list[Scored]] = {}
        for images in encoded:
            for number, image in zip(images.numbers, images.images, strict=True):
                found[number] = []
                for question in questions:
                    inputs, read = decision.inputs(question, Image.fromarray(image), self._processor)
                    logits = self._model(**self._passes.on_device(inputs), use_cache=False).logits[0, read - 1].float()
                    labels = decision.labels(question, self._tokenizer)
                    said = logits.log_softmax(-1)[labels]
                    found[number].append(Scored(said.tolist(), dict(zip(labels, said.exp().tolist(), strict=True))))
        return [found[number] for number in range(len(found))]

    # Words

    def _say(self, encoded: list[ImageGroup], question: Text, meter: Meter) -> list[Generation]:
        found: dict[int, Generation] = {}
        for images in encoded:
            found.update(zip(images.numbers, self._say_about(images, question, meter), strict=True))
        return [found[number] for number in range(len(found))]

    def _say_about(self, images: ImageGroup, question: Text, meter: Meter) -> list[Generation]:
        """Generate greedy text about all images of one size, behind a copy of the cache."""
        prompt = self._prompts.prompt(images, self._prompts.as_words(chat_text(question)))
        if self._scorer.way == WHOLE:
            return self._say_whole(images, prompt, question.max_new_tokens, meter)
        self._scorer.read(images, [prompt])
        cache = copy.deepcopy(images.cache)
        rest = torch.tensor([prompt[len(images.prefix) :]]).expand(len(images.images), -1)
        depth = 0

        def step(said: Tensor | None) -> Tensor:
            nonlocal depth
            ids = rest if said is None else said[:, None]
            positions = self._passes.positions(images, torch.arange(depth, depth + ids.shape[1]))
            depth += ids.shape[1]
            return self._passes.forward(images, cache, ids, positions, [ids.shape[1] - 1])[:, -1]

        return generate_greedily(step, self._tokenizer, self._ends, question.max_new_tokens, meter)

    def _say_whole(self, images: ImageGroup, prompt: list[int], max_new_tokens: int, meter: Meter) -> list[Generation]:
        times = StepTimes(meter)
        outputs = self._model.generate(
            **self._passes.inputs(images, prompt),
            max_new_tokens=max_new_tokens + 1,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            stopping_criteria=[times],
        )
        log_p, best = torch.stack(outputs.logits, 1).float().log_softmax(-1).max(-1)
        return [
            until_end(self._tokenizer, t, p, self._ends, times[0])
            for t, p in zip(best.tolist(), log_p.tolist(), strict=True)
        ]
