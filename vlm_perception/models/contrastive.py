"""Dual encoders (CLIP, ALIGN, SigLIP and similar): phrases are compared with the image, nothing is generated.

The phrases of a vocabulary go through the text tower once. An image goes through its own tower, followed by one matrix
product for all questions. Such a model reads no question. It compares the image with phrases for the options:

- the description of an option, word for word;
- for an option without a description, each template with the option in place of its `{}`; the mean of their unit
  vectors counts (Radford et al., CLIP, 2021, section 3.1.4; open_clip's zero-shot classifier). The templates are the
  lines of the prompt if it has a `{}`, else the family's own, TEMPLATES.

The words of a `YesNo` and the levels of a `Score` do not describe an image by themselves, so these questions need
descriptions or a prompt with `{}`.

The scores are the model's own logits. CLIP was trained by a softmax over phrases, so they are log-likelihoods but for
a constant. SigLIP was trained by a sigmoid for each pair, so its logit z is the log-odds of one phrase alone (Zhai et
al., Sigmoid Loss for Language Image Pre-Training, 2023); if phrases are independent, but just one option holds, its
probability is proportional to p_i * prod_{j != i} (1 - p_j), hence to exp(z_i): the same softmax. Because its
logits mean something alone, SigLIP also answers a `YesNo` of which only the first option has a description.
"""

from __future__ import annotations

import math
import string
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from vlm_perception.models.calibration import Calibration
from vlm_perception.models.describer import Describer
from vlm_perception.models.generation import Generation
from vlm_perception.models.image_size import inputs_of
from vlm_perception.models.local import LocalModel
from vlm_perception.models.scoring import Scored
from vlm_perception.models.usage import Meter
from vlm_perception.questions import Choice, ClosedQuestion, Text, YesNo

TEMPLATES = ("a photo of a {}.",)
CHINESE_TEMPLATES = ("一张{}的照片。",)
PHRASES = (
    "an empty room",
    "a corridor",
    "an open door",
    "a closed door",
    "stairs",
    "a wall close ahead",
    "furniture in the way",
    "a desk with a computer",
    "a kitchen",
    "a person",
    "several people",
    "an animal",
    "a street with cars",
    "trees and grass",
    "darkness",
)
"""Phrases of a description whose question has no phrases."""
CHINESE_PHRASES = (
    "空房间",
    "走廊",
    "打开的门",
    "关着的门",
    "楼梯",
    "近处的墙",
    "挡路的家具",
    "放着电脑的桌子",
    "厨房",
    "一个人",
    "很多人",
    "动物",
    "有汽车的街道",
    "树木和草地",
    "黑暗",
)
MAX_SAID = 3
"""Most phrases of a description."""
MIN_PROBABILITY = 0.1
"""Lowest probability of a phrase in a description; the best phrase is always in it."""
TEXT_BATCH = 64
"""Number of phrases that go through the text tower at once."""
MAX_VECTORS = 8192
"""Number of options whose vectors are kept: the last used ones."""

Phrases = tuple[str, ...]
"""Phrases for one option, which is scored by the mean of their vectors."""


class Contrastive(LocalModel):
    """A dual encoder of the stock transformers classes, see `vlm_perception.models.base.Model`.

    A `Text` is answered by the most probable of its phrases with their probabilities, in place of `{}` if its prompt
    has one, or by the words that `describer` makes of them.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        model: Any,
        processor: Any,
        calibration: Calibration | None = None,
        describer: Describer | None = None,
    ) -> None:
        super().__init__(name, folder, model, processor, calibration)
        self._describer = describer
        self._sigmoid = hasattr(model, "logit_bias")
        chinese = model.config.model_type == "chinese_clip"
        self._templates = CHINESE_TEMPLATES if chinese else TEMPLATES
        self._usual_phrases = CHINESE_PHRASES if chinese else PHRASES
        self._max_tokens = _max_tokens(model.config.text_config)
        self._options = lru_cache(maxsize=256)(self._find_options)
        self._matrix = lru_cache(maxsize=64)(self._build_matrix)
        self._vectors: OrderedDict[Phrases, Tensor] = OrderedDict()

    def describe_self(self) -> dict[str, str]:
        """Return facts for diagnostics, as words."""
        return super().describe_self() | ({"describer": str(self._describer)} if self._describer else {})

    # Images

    def _encode(self, images: Sequence[np.ndarray]) -> Tensor:
        """Return the images' unit vectors, (images, width), float32."""
        inputs = inputs_of(images, self._processor).to(self._device, self._model.dtype)
        return normalize(self._model.get_image_features(**inputs).pooler_output.float(), dim=-1)

    def _compare(self, images: Tensor, options: tuple[Phrases, ...]) -> Tensor:
        """Return the logit of every image and option, (images, options), float32."""
        logits = images @ self._matrix(options).T * self._scale()
        return logits + self._model.logit_bias.float() if self._sigmoid else logits

    def _scale(self) -> Tensor:
        if hasattr(self._model, "temperature"):  # ALIGN's
            return 1 / self._model.temperature.float()
        return self._model.logit_scale.float().exp()

    # Phrases

    def _build_matrix(self, options: tuple[Phrases, ...]) -> Tensor:
        """Return the options' unit vectors, (options, width), float32; only new ones go through the text tower."""
        new = [option for option in dict.fromkeys(options) if option not in self._vectors]
        if new:
            vectors = self._encode_texts([text for option in new for text in option])
            for option, part in zip(new, vectors.split([len(option) for option in new]), strict=True):
                self._vectors[option] = normalize(part.mean(0), dim=-1)
        for option in options:
            self._vectors.move_to_end(option)
        matrix = torch.stack([self._vectors[option] for option in options])
        while len(self._vectors) > MAX_VECTORS:
            self._vectors.popitem(last=False)
        return matrix

    def _encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Return the texts' unit vectors, (texts, width), float32."""
        # SigLIP was trained on texts of one length, padded on the right, without a mask.
        layout = {"padding": "max_length", "padding_side": "right"} if self._sigmoid else {"padding": True}
        parts = []
        for start in range(0, len(texts), TEXT_BATCH):
            inputs = self._tokenizer(
                list(texts[start : start + TEXT_BATCH]),
                truncation=True,
                max_length=self._max_tokens,
                split_special_tokens=True,
                return_tensors="pt",
                **layout,
            ).to(self._device)
            if self._sigmoid:
                inputs = {"input_ids": inputs["input_ids"]}
            parts.append(normalize(self._model.get_text_features(**inputs).pooler_output.float(), dim=-1))
        return torch.cat(parts)

    def _clean(self, text: str) -> str:
        """Return the text as the model was trained to read it.

        SigLIP and SigLIP 2 were trained on lower case without punctuation, and not every published tokenizer makes that
        (`canonicalize_text` in big_vision and in open_clip).
        """
        if not self._sigmoid:
            return text
        return " ".join(text.replace("_", " ").translate(_NO_PUNCTUATION).lower().split())

    def _find_options(self, question: ClosedQuestion) -> tuple[Phrases, ...]:
        """Return the phrases for each option, or for the first one only when SigLIP gives its probability alone."""
        lines = [line for line in question.prompt.splitlines() if line.strip()] if "{}" in question.prompt else []
        if plain := [line for line in lines if "{}" not in line]:
            raise ValueError(
                f"the prompt of {question} is a template, but its line {plain[0]!r:.200} has no {{}} "
                "for the option: every line is a template of its own"
            )
        described = question.described()
        alone = self._sigmoid and isinstance(question, YesNo) and not lines
        if alone and described[0][1] and not described[1][1]:
            described = described[:1]
        elif not lines and not isinstance(question, Choice) and not all(text for _, text in described):
            raise ValueError(
                f"{self.name} compares images with phrases and cannot read {question}: give each of "
                f"{list(question.options)!r:.200} a description of what is to be seen then"
                + (", or the first of them alone," if alone else "")
                + " or write a prompt with {} in place of the option"
            )
        templates = lines or self._templates
        options = tuple(
            tuple(map(self._clean, [text] if text else [template.replace("{}", option) for template in templates]))
            for option, text in described
        )
        self._check(question, options)
        return options

    def _check(self, question: ClosedQuestion | Text, options: Sequence[Phrases]) -> None:
        """Raise ValueError when a phrase is too long for the text tower, or two options have the same phrases."""
        unknown = {self._tokenizer.unk_token_id} - {self._tokenizer.eos_token_id, self._tokenizer.pad_token_id, None}
        seen: dict[tuple[tuple[int, ...], ...], Phrases] = {}
        for option in options:
            ids = self._tokenizer(list(option), split_special_tokens=True)["input_ids"]
            for text, tokens in zip(option, ids, strict=True):
                if len(tokens) > self._max_tokens:
                    raise ValueError(
                        f"{self.name} reads at most {self._max_tokens} tokens, and {text!r:.200} of {question} "
                        f"has {len(tokens)}: shorten it"
                    )
                if unknown & set(tokens):
                    raise ValueError(
                        f"{self.name} does not know all characters of {text!r:.200} of {question}: say it "
                        "in a language of this model, or use SigLIP 2 or Chinese-CLIP"
                    )
            other = seen.setdefault(tuple(map(tuple, ids)), option)
            if other is not option:
                raise ValueError(
                    f"{self.name} reads {other[0]!r:.200} and {option[0]!r:.200} of {question} alike, so it "
                    "cannot tell them apart: say them in other words"
                )

    # Answers

    def _score(self, encoded: Tensor, questions: Sequence[ClosedQuestion]) -> list[list[Scored]]:
        """Score all images and options with one matrix product."""
        asked = [self._options(question) for question in questions]
        logits = self._compare(encoded, tuple(option for options in asked for option in options))
        parts = logits.double().cpu().split([len(options) for options in asked], dim=1)
        parts = [logsigmoid(torch.cat([part, -part], 1)) if part.shape[1] == 1 else part for part in parts]
        return [[Scored(row) for row in rows] for rows in zip(*(part.tolist() for part in parts), strict=True)]

    def _say(self, encoded: Tensor, question: Text, meter: Meter) -> list[Generation]:
        phrases = question.phrases or self._usual_phrases
        options = tuple((self._clean(phrase),) for phrase in phrases)
        if question.phrases:
            self._check(question, options)
        logits = self._compare(encoded, options).double()
        chances = logits.sigmoid() if self._sigmoid else logits.softmax(-1)  # a sigmoid lets several phrases be true
        found = []
        for row in chances.tolist():
            best = sorted(zip(phrases, row, strict=True), key=lambda pair: pair[1], reverse=True)[:MAX_SAID]
            best = [best[0], *(pair for pair in best[1:] if pair[1] >= MIN_PROBABILITY)]
            if self._describer:
                found.append(self._describer.write(question, best, meter))
            else:
                found.append(_listed(question.prompt, best, meter))
        return found


def _max_tokens(config: Any) -> int:
    """Return how many tokens the text tower reads; that of AltCLIP counts positions after the padding's."""
    first = config.pad_token_id + 1 if config.model_type == "altclip_text_model" else 0
    return config.max_position_embeddings - first


def _listed(prompt: str, found: Sequence[tuple[str, float]], meter: Meter) -> Generation:
    """Return the phrases with their probabilities as a text; its confidence is their geometric mean."""
    words = ", ".join(f"{phrase} ({probability:.0%})" for phrase, probability in found)
    confidence = math.prod(probability for _, probability in found) ** (1 / len(found))
    return Generation(prompt.replace("{}", words) if "{}" in prompt else words, confidence, 0, meter.now())


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
