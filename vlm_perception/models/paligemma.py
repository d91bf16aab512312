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

from vlm_perception.models.base import ModelError, ModelOutOfMemoryError
from vlm_perception.models.scoring import Trie, build_trie, log_likelihoods, pack
from vlm_perception.questions import Answer, ClosedQuestion, Question, Text, answer_from_log_likelihoods

_FIRST_POSITION = 1  # PaliGemma counts positions from 1


class PaliGemma:
    """A PaliGemma of the stock transformers classes, see `vlm_perception.models.base.Model`."""

    def __init__(self, name: str, model: Any, processor: Any, folder: Path):
        self.name = name
        self._model = model.eval()
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._folder = folder
        self._softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        self._trie = lru_cache(maxsize=256)(self._build_trie)
        self._prefix = lru_cache(maxsize=256)(self._build_prefix)

    def answer(self, image: np.ndarray, questions: Sequence[Question]) -> list[Answer]:
        """Answer all questions about one picture, see `Model.answer`."""
        _check_image(image)
        closed = [question for question in questions if isinstance(question, ClosedQuestion)]
        try:
            with torch.inference_mode():
                features = self._encode(image)
                answers: dict[Question, Answer] = {}
                if closed:
                    answers.update(zip(closed, self._score(features, closed), strict=True))
                for question in questions:
                    if isinstance(question, Text):
                        answers[question] = self._generate(features, question)
        except torch.OutOfMemoryError as error:
            raise ModelOutOfMemoryError(
                f"{self.name} ran out of memory on {self._model.device} ({str(error).splitlines()[0]}): "
                "free some, ask fewer questions at once, or choose a smaller model or dtype"
            ) from error
        return [answers[question] for question in questions]

    def describe_self(self) -> dict[str, str]:
        """Facts for diagnostics, as words."""
        size = sum(p.numel() for p in self._model.parameters())
        weights = sum(p.numel() * p.element_size() for p in self._model.parameters())
        return {
            "model": self.name,
            "folder": str(self._folder),
            "family": self._model.config.model_type,
            "device": str(self._model.device),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "parameters": f"{size / 1e6:.1f} M",
            "weights": f"{weights / 2**20:.0f} MiB",
        }

    def _encode(self, image: np.ndarray) -> Tensor:
        """The picture's features, (1, image tokens, width); the processor squashes it to the model's square."""
        pixels = self._processor.image_processor(images=image, return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self._model.device, self._model.dtype)
        return self._model.get_image_features(pixels).pooler_output

    def _build_prefix(self, prompt: str) -> tuple[int, ...]:
        """Token ids of picture and prompt, laid out as PaliGemmaProcessor does; special tokens in a prompt are text."""
        words = self._tokenizer(prompt + "\n", add_special_tokens=False, split_special_tokens=True)["input_ids"]
        picture = [self._model.config.image_token_id] * self._processor.image_seq_length
        return (*picture, self._tokenizer.bos_token_id, *words)

    def _build_trie(self, options: tuple[str, ...]) -> Trie:
        encoded = self._tokenizer(list(options), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        try:
            return build_trie(encoded, self._tokenizer.eos_token_id)
        except ValueError as error:
            raise ValueError(f"{self.name} cannot score the options {list(options)!r:.200}: {error}") from None

    def _score(self, features: Tensor, questions: Sequence[ClosedQuestion]) -> list[Answer]:
        tries = [self._trie(question.options) for question in questions]
        prefixes = [self._prefix(question.prompt) for question in questions]
        packed = pack(prefixes, tries, self._tokenizer.pad_token_id, _FIRST_POSITION, bidirectional_prefix=True)
        device, dtype = self._model.device, self._model.dtype
        mask = torch.zeros(packed.sees.shape, dtype=dtype).masked_fill_(~packed.sees, torch.finfo(dtype).min)
        hidden = self._model.model(
            input_ids=packed.ids.to(device),
            attention_mask=mask.to(device),
            position_ids=packed.positions.to(device),
            mm_encoder_outputs=_as_encoder_output(features.expand(len(questions), -1, -1)),
            use_cache=False,
        ).last_hidden_state
        row = torch.tensor([row for row, reads in enumerate(packed.reads) for _ in reads], device=device)
        column = torch.tensor([position for reads in packed.reads for position in reads], device=device)
        log_p = self._log_probabilities(hidden[row, column])
        answers, start = [], 0
        for question, trie, reads in zip(questions, tries, packed.reads, strict=True):
            scores = log_likelihoods(trie, log_p[start : start + len(reads)])
            start += len(reads)
            try:
                answers.append(answer_from_log_likelihoods(question, scores))
            except ValueError as error:
                raise ModelError(f"{self.name}: {error}; try dtype float32") from None
        return answers

    def _log_probabilities(self, hidden: Tensor) -> Tensor:
        logits = self._model.lm_head(hidden).float()
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits.log_softmax(-1)

    def _generate(self, features: Tensor, question: Text) -> Answer:
        """Greedy words, token by token, on a cache that begins with the already encoded picture."""
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
        log_p_sum = 0.0
        end = self._tokenizer.eos_token_id
        while True:
            log_p = self._log_probabilities(outputs.last_hidden_state[0, -1])
            token = int(log_p.argmax())
            log_p_sum += float(log_p[token])
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
        if not math.isfinite(log_p_sum):
            raise ModelError(
                f"{self.name}: the words for {question.name!r} have no finite probability; try dtype float32"
            )
        text = self._tokenizer.decode(said, skip_special_tokens=True).strip()
        return Answer(question.name, text, math.exp(log_p_sum / (len(said) + 1)))


def _as_encoder_output(features: Tensor) -> dict[str, BaseModelOutputWithPooling]:
    return {"image": BaseModelOutputWithPooling(pooler_output=features)}


def _check_image(image: np.ndarray) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"the image is {what}, expected RGB uint8 of shape (height, width, 3)")
    if 0 in image.shape:
        raise ValueError(f"the image has shape {image.shape}, expected at least one pixel")
