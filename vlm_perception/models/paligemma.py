"""PaliGemma 1 and 2: the picture is encoded once, all closed questions go through one forward pass.

The attention of PaliGemma's prefix (picture and prompt) is bidirectional, so the picture's keys and values depend
on the prompt and cannot be shared between questions; its features can, and the questions go as one batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vlm_perception.models.calibration import Calibration
from vlm_perception.models.local import LocalModel, Words
from vlm_perception.models.scoring import Tree, build_tree, log_likelihoods, option_tokens, pack
from vlm_perception.models.usage import Meter
from vlm_perception.questions import ClosedQuestion, Text

_FIRST_POSITION = 1  # PaliGemma counts positions from 1


class PaliGemma(LocalModel):
    """A PaliGemma of the stock transformers classes, see `vlm_perception.models.base.Model`."""

    def __init__(
        self, name: str, folder: Path, model: Any, processor: Any, calibration: Calibration | None = None
    ) -> None:
        super().__init__(name, folder, model, calibration)
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        self._tree = lru_cache(maxsize=256)(self._build_tree)
        self._prefix = lru_cache(maxsize=256)(self._build_prefix)

    def _encode(self, images: Sequence[np.ndarray]) -> Tensor:
        """The pictures' features, (images, image tokens, width); the processor squashes each to the model's square."""
        pixels = self._processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self._model.device, self._model.dtype)
        return self._model.get_image_features(pixels).pooler_output

    def _build_prefix(self, prompt: str) -> tuple[int, ...]:
        """Token ids of picture and prompt, laid out as PaliGemmaProcessor does; special tokens in a prompt are text."""
        words = self._tokenizer(prompt + "\n", add_special_tokens=False, split_special_tokens=True)["input_ids"]
        picture = [self._model.config.image_token_id] * self._processor.image_seq_length
        return (*picture, self._tokenizer.bos_token_id, *words)

    def _build_tree(self, options: tuple[str, ...]) -> Tree:
        try:
            return build_tree([((), option_tokens(self._tokenizer, options))])
        except ValueError as error:
            raise ValueError(f"{self.name} cannot score the options {list(options)!r:.200}: {error}") from None

    def _score(self, encoded: Tensor, questions: Sequence[ClosedQuestion]) -> list[list[list[float]]]:
        """One row for each pair of picture and question."""
        images = len(encoded)
        trees = [self._tree(question.options) for question in questions]
        prefixes = [self._prefix(question.prompt) for question in questions]
        packed = pack(prefixes, trees, self._tokenizer.pad_token_id, _FIRST_POSITION, bidirectional_prefix=True)
        device, dtype = self._model.device, self._model.dtype
        mask = torch.zeros(packed.sees.shape, dtype=dtype).masked_fill_(~packed.sees, torch.finfo(dtype).min)
        hidden = self._model.model(
            input_ids=packed.ids.repeat(images, 1).to(device),
            attention_mask=mask.repeat(images, 1, 1, 1).to(device),
            position_ids=packed.positions.repeat(images, 1).to(device),
            mm_encoder_outputs=_as_encoder_output(encoded.repeat_interleave(len(questions), 0)),
            use_cache=False,
        ).last_hidden_state.unflatten(0, (images, len(questions)))
        row = torch.tensor([row for row, reads in enumerate(packed.reads) for _ in reads], device=device)
        column = torch.tensor([position for reads in packed.reads for position in reads], device=device)
        logits = self._logits(hidden[:, row, column]).split([len(reads) for reads in packed.reads], dim=1)
        end = [self._tokenizer.eos_token_id]
        return [
            [log_likelihoods(tree, part[image], end)[0] for tree, part in zip(trees, logits, strict=True)]
            for image in range(images)
        ]

    def _logits(self, hidden: Tensor) -> Tensor:
        logits = self._model.lm_head(hidden)
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits

    def _say(self, encoded: Tensor, question: Text, meter: Meter) -> list[Words]:
        """Greedy words, token by token, on a cache that begins with the already encoded picture."""
        return [self._say_one(features[None], question, meter) for features in encoded]

    def _say_one(self, features: Tensor, question: Text, meter: Meter) -> Words:
        device = self._model.device
        prefix = torch.tensor([self._prefix(question.prompt)], device=device)
        outputs = self._model.model(
            input_ids=prefix,
            token_type_ids=torch.zeros_like(prefix),  # the whole prefix sees itself
            attention_mask=torch.ones_like(prefix),
            mm_encoder_outputs=_as_encoder_output(features),
            use_cache=True,
        )
        said: list[int] = []
        log_p_sum = first_token = 0.0
        end = self._tokenizer.eos_token_id
        while True:
            log_p = self._logits(outputs.last_hidden_state[0, -1]).float().log_softmax(-1)
            token = int(log_p.argmax())
            log_p_sum += float(log_p[token])
            first_token = first_token or meter.now()
            if token == end or len(said) == question.max_new_tokens:
                break
            said.append(token)
            position = torch.tensor([[prefix.shape[1] + len(said)]], device=device)
            outputs = self._model.model(
                input_ids=torch.tensor([[token]], device=device),
                position_ids=position,
                past_key_values=outputs.past_key_values,
                use_cache=True,
            )
        text = self._tokenizer.decode(said, skip_special_tokens=True).strip()
        return Words(text, math.exp(log_p_sum / (len(said) + 1)), len(said), first_token)


def _as_encoder_output(features: Tensor) -> dict[str, BaseModelOutputWithPooling]:
    return {"image": BaseModelOutputWithPooling(pooler_output=features)}
